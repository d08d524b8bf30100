"""Two processes over gloo train as one with the joined batch, and a run of theirs resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.engine.tiny import TinyData, guess, moco, swav, trainer_of
from tests.engine.uneven import LabelsOnTheFirstRank, UnevenModalities, hybrid
from tests.ranks import on_ranks
from volssl.engine.batchnorm import RankBatchNorm, average_statistics
from volssl.engine.distributed import average_gradients, gather_rows, join_ranks, mean_over_ranks, rank
from volssl.engine.schedule import scaled_rate
from volssl.engine.trainer import MethodTrainer
from volssl.errors import UserError
from volssl.methods.base import Method


def of_two_modalities() -> Method:
    return swav(modalities=["CT", "MR"], queue_length=4)


# What is trained: how the method is made, its data, and options of the trainer.
CASES: dict[str, tuple[Callable[[], Method], Callable[[], TinyData], dict[str, Any]]] = {
    "swav": (swav, TinyData, {}),
    "parts": (swav, TinyData, {"accumulate": 2}),
    "modalities": (of_two_modalities, lambda: TinyData(modalities=(0, 1)), {"clip_norm": 0.1}),
    "a modality on one rank": (of_two_modalities, UnevenModalities, {}),
    "independent": (guess, TinyData, {}),
    "statistics": (lambda: swav(batch_norm=True), TinyData, {"sync_batchnorm": True}),
    "labels on one rank": (hybrid, LabelsOnTheFirstRank, {}),
    "labels and statistics": (lambda: hybrid(batch_norm=True), LabelsOnTheFirstRank, {"sync_batchnorm": True}),
}
# Keys are made by running statistics, which each rank counts of its own samples.
OWN_STATISTICS = (lambda: moco(batch_norm=True), TinyData, {})


class StopAfterOneEpoch:
    """A handler that ends a run, on the rank that has it."""

    def attach(self, engine: MethodTrainer) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda trainer: trainer.terminate())


def train(case: str, folder: Path, batch_size: int, **options: Any) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """The weights and buffers after two epochs, and what was served."""
    make, data_of, settings = CASES.get(case, OWN_STATISTICS)
    method, data = make(), data_of()
    if rank() > 0:
        with torch.no_grad():
            next(method.parameters()).add_(1.0)  # as if it had been made with other draws
    trainer_of(method, folder, data=data, batch_size=batch_size, **(settings | options)).run()
    return {name: value.clone() for name, value in method.state_dict().items()}, data.served


def counted(layer: _BatchNorm, rank: int) -> dict[str, Tensor]:
    """The statistics of a layer after those of the ranks, (1, 2) and (3, 6), were brought together."""
    layer.load_state_dict(
        {
            "running_mean": torch.tensor([1.0, 2.0]) * (3 if rank else 1),
            "running_var": torch.full((2,), 0.1),
            "num_batches_tracked": torch.tensor(3 if rank else 1),
        },
        strict=False,
    )
    average_statistics(layer)
    return layer.state_dict()


def everything(rank: int, folder: Path) -> dict[str, Any]:
    """All that two ranks are asked, in one start of processes."""
    device = join_ranks("cpu")
    rows = torch.full((1 + rank, 2), float(rank + 1), requires_grad=True)
    some = torch.full((3 * rank, 2), 5.0, requires_grad=True)
    gather_rows(some).sum().backward()
    joined = gather_rows(rows)
    (joined * torch.tensor([[1.0], [2.0], [3.0]])).sum().backward()
    mine, never, always = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    mine.grad = torch.tensor([2.0, 4.0]) if rank == 0 else None
    always.grad = torch.full((2,), float(rank))
    average_gradients([mine, never, always])
    found: dict[str, Any] = {
        "joined": joined.detach(),
        "slope": rows.grad,
        "joined with none": gather_rows(some).detach(),
        "none joined": gather_rows(rows[:0]).detach(),
        "slope of none": some.grad,
        "averaged": [mine.grad, never.grad, always.grad],
        "counted": [counted(layer, rank) for layer in (nn.BatchNorm1d(2), RankBatchNorm(2))],
        "mean": mean_over_ranks({"a": float(rank), "b": torch.tensor(2.0)}, device),
        "rate": scaled_rate(0.6, 4),
    }
    found |= {case: train(case, folder / case, batch_size=2) for case in CASES}
    found["moco"] = train("moco", folder / "moco", batch_size=2)
    for case in ("swav", "moco"):
        stopped = folder / f"{case} stopped"
        train(case, stopped, 2, train_handlers=[StopAfterOneEpoch()])
        found[f"steps of {case} before the stop"] = torch.load(stopped / "checkpoints" / "last.pt")["step"]
        found[f"{case} resumed"] = train(case, stopped, 2, resume=True)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return on_ranks(everything, folder, folder)


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """To 1e-5 of the largest number in each tensor."""
    pairs = [(a[name].float(), b[name].float()) for name in a]
    return a.keys() == b.keys() and all((x - y).abs().max() <= 1e-5 * y.abs().max().clamp(min=1) for x, y in pairs)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_and_losses_of_one(
    ranks: list[dict[str, Any]], folder: Path, tmp_path: Path, case: str
) -> None:
    alone, served = train(case, tmp_path, batch_size=4)
    first, second = ranks[0][case], ranks[1][case]
    assert close(first[0], alone)
    assert close(first[0], second[0])
    assert sorted(first[1] + second[1]) == sorted(served)
    rows, expected = (
        [json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (folder / case, tmp_path)
    )
    assert len(rows) == len(expected) == 4
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5)
    if case == "independent":
        assert torch.equal(first[0]["unused"], torch.ones(1))  # without gradient on all ranks: no decay
    else:
        (name,) = (name for name in alone if name.endswith("prototypes"))
        assert not torch.equal(alone[name], CASES[case][0]().state_dict()[name])


def test_no_sample_is_seen_twice_in_an_epoch(ranks: list[dict[str, Any]]) -> None:
    served = ranks[0]["swav"][1] + ranks[1]["swav"][1]
    assert len(set(served)) == len(served) == 16  # two epochs of two steps of two on each of two ranks
    assert {epoch for epoch, _ in served} == {0, 1}


@pytest.mark.parametrize("case", ["swav", "moco"])
def test_a_run_stopped_by_the_first_rank_ends_on_both_and_resumes_to_the_same_bits(
    ranks: list[dict[str, Any]], case: str
) -> None:
    for found in ranks:
        assert found[f"steps of {case} before the stop"] == 2
        weights, resumed = found[case][0], found[f"{case} resumed"][0]
        assert [name for name in weights if not torch.equal(weights[name], resumed[name])] == []
    assert ranks[0][f"{case} resumed"][1] == ranks[0][case][1][4:]


def test_ranks_that_count_statistics_of_their_own_samples_keep_the_mean(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["moco"][0] for found in ranks)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    for found in ranks:
        own, _ = found["counted"]
        assert own["running_mean"].tolist() == [2.0, 4.0]
        assert torch.equal(own["running_var"], torch.full((2,), 0.1))
        assert own["num_batches_tracked"] == 2
    assert [found["counted"][1]["running_mean"].tolist() for found in ranks] == [[1.0, 2.0], [3.0, 6.0]]


def test_rows_are_joined_in_order_and_their_gradient_comes_back(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["joined"].tolist() == [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    # each rank's part of (1, 2, 3), times two ranks: the mean over ranks then is the gradient of one process
    assert ranks[0]["slope"].tolist() == [[2.0, 2.0]]
    assert ranks[1]["slope"].tolist() == [[4.0, 4.0], [6.0, 6.0]]


def test_a_rank_may_hold_no_row(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert found["joined with none"].tolist() == [[5.0, 5.0]] * 3
        assert found["none joined"].shape == (0, 2)
    assert ranks[0]["slope of none"].shape == (0, 2)
    assert ranks[1]["slope of none"].tolist() == [[2.0, 2.0]] * 3


def test_gradients_are_averaged_and_what_has_none_anywhere_keeps_none(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        mine, never, always = found["averaged"]
        assert mine.tolist() == [1.0, 2.0]
        assert never is None
        assert always.tolist() == [0.5, 0.5]
        assert found["mean"] == {"a": 0.5, "b": 2.0}
        assert found["rate"] == pytest.approx(0.6 * 8 / 128)


def test_ranks_get_each_its_own_draws() -> None:
    from volssl.engine.step import step_seed

    assert len({step_seed(seed, rank, step) for seed in range(3) for rank in range(3) for step in range(3)}) == 27


def in_trouble(rank: int, folder: Path) -> list[str]:
    """A loss that is no number on the second rank alone; then that rank leaves, and the first waits for it."""
    method = guess()
    if rank == 1:
        losses = method.losses
        method.losses = lambda embedded: losses(embedded) | {"loss": embedded["error"].mean() * float("nan")}  # type: ignore[method-assign]
    with pytest.raises(UserError) as stopped:
        trainer_of(method, folder, batch_size=2).run()
    if rank == 1:
        return [str(stopped.value)]
    with pytest.raises(RuntimeError) as left:
        gather_rows(torch.zeros(2))
    return [str(stopped.value), str(left.value)]


@pytest.mark.slow
def test_trouble_on_one_rank_ends_all(tmp_path: Path) -> None:
    (said, then), (other,) = on_ranks(in_trouble, tmp_path, tmp_path)
    assert said.startswith("the loss is nan at step 1 of 4")
    assert other == "the loss is nan"
    assert not (tmp_path / "checkpoints").exists()
    assert "onnection" in then
