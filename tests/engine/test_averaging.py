"""The average of weights, against the recursion by hand, and in a run that is stopped and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from torch import nn

from tests.engine.tiny import guess, trainer_of
from volssl.encoders import build_encoder
from volssl.engine import MethodTrainer, WeightAverage
from volssl.errors import UserError


def test_the_average_follows_the_recursion_and_whole_numbers_are_copied() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    average = WeightAverage(network, decay=0.9)
    kept = average.network
    expected = 0.0
    for step, value in enumerate([2.0, 4.0, -1.0]):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(10 * value)  # type: ignore[union-attr, operator]
            network[1].num_batches_tracked.fill_(7 + step)  # type: ignore[union-attr, operator]
        average.update()
        expected = value if step == 0 else 0.9 * expected + 0.1 * value
    state = kept.state_dict()
    assert float(state["0.weight"]) == pytest.approx(expected)
    assert float(state["1.running_mean"]) == pytest.approx(10 * expected)
    assert int(state["1.num_batches_tracked"]) == 9
    assert float(network[0].weight.detach()) == -1.0  # what is trained is left alone


def test_tables_of_indices_stay_what_they_are() -> None:
    settings = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [3, 3, 3, 3], "window_size": 3}
    encoder = build_encoder("SwinUNETR", settings=settings)
    average = WeightAverage(encoder, decay=0.999)
    for _ in range(3):
        average.update()
    tables = [name for name in encoder.state_dict() if name.endswith("relative_position_index")]
    assert tables
    assert all(torch.equal(encoder.state_dict()[name], average.network.state_dict()[name]) for name in tables)


def test_no_decay_is_no_average_and_a_decay_of_one_is_refused() -> None:
    network = nn.Linear(1, 1)
    assert WeightAverage(network).network is network
    assert WeightAverage(network).state_dict() == {}
    for wrong in (-0.1, 1.0):
        with pytest.raises(UserError, match=f"ema={wrong}"):
            WeightAverage(network, decay=wrong)


class StopBefore:
    """Ends a run as a kill would, before the checkpoint of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def attach(self, engine: MethodTrainer) -> None:
        def stop(trainer: MethodTrainer) -> None:
            if trainer.state.iteration == self.step:
                raise KeyboardInterrupt

        engine.add_event_handler(Events.ITERATION_COMPLETED, stop)


def test_a_run_that_was_stopped_goes_on_to_the_same_average(tmp_path: Path) -> None:
    def run(folder: Path, *handlers: StopBefore, resume: bool = False) -> dict[str, torch.Tensor]:
        method = guess(batch_norm=True)
        average = WeightAverage(method, decay=0.5)
        trainer = trainer_of(method, folder, train_handlers=[average, *handlers], resume=resume, checkpoint_steps=1)
        try:
            trainer.run()
        except KeyboardInterrupt:
            assert handlers
        return dict(average.network.state_dict())

    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "parts", StopBefore(3))
    resumed = run(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], value) for name, value in stopped.items())
