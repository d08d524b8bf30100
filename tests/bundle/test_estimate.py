"""What a run will take, against runs whose parts take a known time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.pretraining import TinyEncoder, UnlabelledScans, Wander, labelled, trainer, views_of
from tests.tiny import CROPS
from volssl.bundle import estimate as module
from volssl.bundle.estimate import WARM_UP, StepTimer, bytes_in, estimate, time_of_a_probe, watched_memory
from volssl.errors import UsageError, UserError
from volssl.evaluation.online_probe import OnlineProbe
from volssl.methods.base import Batch, Losses

WORDS = ["max_epochs=30", "batch_size=4", "workers=0", *CROPS]


class Clock:
    """Stands still but where a step or a view takes its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    told = Clock()
    monkeypatch.setattr(module, "time", told)
    return told


class Slow(Wander):
    """A step of 60 ms."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(TinyEncoder())
        self.clock = clock

    def forward(self, batch: Batch) -> Losses:
        self.clock.now += 0.06
        return super().forward(batch)


def timed_run(run: Path, clock: Clock, *, epochs: int) -> StepTimer:
    """A run of two steps an epoch and views of 30 ms, 120 ms for a batch of four, that a timer ends."""

    def slow_view(scan: Any, rng: np.random.RandomState) -> dict[str, Tensor]:
        clock.now += 0.03
        return {"x": torch.rand(1, 8, 8, 4)}

    timer = StepTimer(steps=5)
    made = trainer(Slow(clock), run, timer, epochs=epochs)
    made.dataset.views = slow_view  # type: ignore[attr-defined]
    made.run()
    return timer


def test_computing_and_waiting_are_told_apart_and_the_run_ends_early(tmp_path: Path, clock: Clock) -> None:
    timer = timed_run(tmp_path / "run", clock, epochs=50)
    assert timer.engine.state.iteration == WARM_UP + 5
    told = timer.estimate("slow", memory_bytes=7)
    assert (told.compute_s, told.wait_s, told.batch_s) == pytest.approx((0.06, 0.12, 0.12))
    assert told.step_s == pytest.approx(0.18)
    assert told.total_s == pytest.approx(100 * 0.18)
    assert (told.total_steps, told.timed_steps, told.volumes, told.memory_bytes) == (100, 5, 8, 7)
    assert "0.18 s: computing 0.06 s, waiting for data 67%" in str(told)
    assert "to the end   18 s, 100 steps" in str(told)
    assert "workers=2 would keep up" in str(told)


def test_workers_that_are_slower_than_the_steps_set_the_pace(tmp_path: Path, clock: Clock) -> None:
    timer = timed_run(tmp_path / "run", clock, epochs=50)
    timer.waits = [0.0] * len(timer.waits)  # batches made ahead hide it in the few steps that are timed
    for workers, step_s in ((1, 0.12), (2, 0.06), (50, 0.06)):
        timer.engine.workers = workers
        assert timer.estimate("slow", memory_bytes=0).step_s == pytest.approx(step_s)


def test_a_run_shorter_than_the_warm_up_is_timed_by_its_last_step(tmp_path: Path, clock: Clock) -> None:
    told = timed_run(tmp_path / "run", clock, epochs=1).estimate("slow", memory_bytes=0)
    assert (told.timed_steps, told.compute_s) == (1, pytest.approx(0.06))


def test_probes_are_counted_as_a_run_has_them(tmp_path: Path) -> None:
    method, sides = Wander(TinyEncoder()), (labelled("train", 10, 1), labelled("validation", 10, 2))
    probe = OnlineProbe(method.encoder, views=views_of(*sides), train=sides[0], validation=sides[1], every=3)
    run = trainer(method, tmp_path / "run", probe, epochs=7)
    calls: list[int] = []
    figures = probe.figures
    probe.figures = lambda: calls.append(1) or figures()  # type: ignore[func-returns-value,method-assign]
    run.run()
    assert time_of_a_probe(run)[1] == len(calls) - 1 == 4  # before the first step, after 3, 6 and 7; the last is timed


def test_tensors_are_counted_wherever_they_lie() -> None:
    state = {
        "a": torch.zeros(10),
        "b": [torch.zeros(3, dtype=torch.int64), {"c": torch.zeros(2, dtype=torch.half)}],
        "d": 7,
    }
    assert bytes_in(state) == 40 + 24 + 4


def test_memory_that_is_given_back_is_remembered() -> None:
    with watched_memory() as memory:
        before = memory[0]
        block = np.ones(25_000_000)
        time.sleep(0.2)
        del block
    assert memory[0] - before == pytest.approx(200e6, rel=0.2)


def test_a_few_steps_of_a_real_method_tell_the_whole(store: Path, cohort: Path) -> None:
    before = sorted(path.name for path in store.rglob("*"))
    told = estimate("swav", store=store, words=WORDS, labels=cohort / "labels.csv", steps=2)
    from volssl.data import TrainingScans

    volumes = len(TrainingScans(store, views=UnlabelledScans().views))
    assert told.volumes == volumes
    assert told.total_steps == 30 * (volumes // 4)
    assert told.timed_steps == 2
    assert told.step_s >= told.compute_s > 0
    assert told.probes == 7  # before, and every fifth epoch of thirty
    assert told.total_s == pytest.approx(told.step_s * told.total_steps + 7 * told.probe_s)
    assert told.memory_bytes > 200e6
    # Weights and momentum of the network with its head, and the encoder once more; the queue too.
    assert 1e6 < told.run_bytes < 100e6
    assert told.as_dict()["method"] == "swav"
    assert sorted(path.name for path in store.rglob("*")) == before


def test_what_pretrain_refuses_is_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="max_epoch: unknown option, did you mean max_epochs"):
        estimate("swav", store=store, words=["max_epoch=3"])
    with pytest.raises(UserError, match="fewer than one batch"):
        estimate("swav", store=store, words=[*WORDS, "batch_size=500"])
