"""Which epoch's encoder is kept where no labels choose: the lowest mean loss, once the loss means the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from volssl.engine.handlers import LowestLoss


def seen(chooser: LowestLoss, epochs: Sequence[Sequence[tuple[float, int]]]) -> list[bool]:
    """Whether each epoch, a list of (loss, loss_settled), was the best so far."""
    best = []
    for epoch, steps in enumerate(epochs, start=1):
        for loss, settled in steps:
            chooser.add({"loss": loss, "loss_settled": settled})
        chooser.judge(epoch)
        best.append(chooser.best_epoch == epoch)
    return best


def test_the_epoch_with_the_lowest_mean_loss_is_the_best() -> None:
    chooser = LowestLoss()
    assert seen(chooser, [[(3, 1), (1, 1)], [(2.5, 1), (1, 1)], [(0, 1), (4.5, 1)], [(1.5, 1), (1.5, 1)]]) == [
        True,
        True,
        False,
        True,
    ]
    assert chooser.best == pytest.approx(1.5)


def test_before_the_loss_settles_the_latest_stands_and_is_compared_with_nothing() -> None:
    # While a queue fills the loss is low; once it is full, at the second step of the third epoch, it is higher.
    epochs = [[(1.0, 0)] * 2, [(1.5, 0)] * 2, [(1.6, 0), (4.0, 1)], [(4.2, 1)] * 2, [(4.3, 1)] * 2, [(4.1, 1)] * 2]
    assert seen(LowestLoss(), epochs) == [True, True, True, True, False, True]
    assert seen(LowestLoss(), [[(1.0, 1)], [(2.0, 0)], [(3.0, 1)]]) == [True, True, True]  # it changes once more


def test_a_run_stopped_in_the_middle_of_an_epoch_chooses_the_same() -> None:
    whole = LowestLoss()
    seen(whole, [[(2, 1)] * 3, [(1, 1), (2, 1), (6, 1)]])
    stopped, resumed = LowestLoss(), LowestLoss()
    seen(stopped, [[(2, 1)] * 3])
    for loss in (1.0, 2.0):
        stopped.add({"loss": loss})
    resumed.load_state_dict(stopped.state_dict())
    resumed.add({"loss": 6.0})
    resumed.judge(2)
    assert resumed.state_dict() == whole.state_dict()
    assert whole.best_epoch == 1
