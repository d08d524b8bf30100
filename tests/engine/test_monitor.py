"""Collapse is told in words, once, and stops a run where asked; healthy features are left in peace."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.evaluation.pretraining import TinyEncoder, Wander, trainer, whole_view
from volssl.engine import WarmupCosine
from volssl.engine.monitor import CollapseMonitor
from volssl.errors import UserError
from volssl.losses.collapse import effective_rank, feature_spread, prototype_use
from volssl.methods.base import Batch
from volssl.methods.swav import SwAV

HEALTHY = {"feature_std": 0.9, "effective_rank": 40.0, "prototype_entropy": 0.95, "prototypes_dead": 0.0}


def told(monitor: CollapseMonitor, numbers: dict[str, float], *, steps: int, start: int = 1) -> list[tuple[int, str]]:
    """The step and sign of each warning, where every step has the same numbers."""
    return [(s, name) for s in range(start, start + steps) for name in monitor.judge(s, {"loss": 3.0} | numbers)]


def measured(features: Tensor, scores: Tensor) -> dict[str, float]:
    entropy, dead = prototype_use(scores, temperature=0.1)
    return {
        "feature_std": float(feature_spread(features)),
        "effective_rank": float(effective_rank(features)),
        "prototype_entropy": float(entropy),
        "prototypes_dead": float(dead),
    }


def test_healthy_features_are_passed_over_and_collapsed_ones_show_every_sign() -> None:
    torch.manual_seed(0)
    prototypes = torch.nn.functional.normalize(torch.randn(32, 64), dim=1)
    healthy = torch.nn.functional.normalize(torch.randn(512, 64), dim=1)
    collapsed = prototypes[:1] + 1e-4 * torch.randn(512, 64)  # every scan at the first prototype
    monitor = CollapseMonitor(window=5, grace_steps=10)
    assert told(monitor, measured(healthy, healthy @ prototypes.T), steps=30) == []
    found = told(CollapseMonitor(window=5, grace_steps=10), measured(collapsed, collapsed @ prototypes.T), steps=30)
    assert {name for _, name in found} == {"feature_std", "effective_rank", "prototype_entropy", "prototypes_dead"}
    assert {step for step, _ in found} == {10}  # not before the first steps are over, and once


def test_a_sign_is_told_again_only_after_it_was_gone() -> None:
    monitor, sick = CollapseMonitor(window=4, grace_steps=1), HEALTHY | {"feature_std": 0.05}
    assert told(monitor, sick, steps=20) == [(4, "feature_std")]  # when the window is full
    assert told(monitor, HEALTHY, steps=20, start=21) == []
    # Of the window's mean: (3 x .9 + .05) / 4 and so on; under .1 when all but none are sick.
    assert told(monitor, sick, steps=20, start=41) == [(44, "feature_std")]


def test_one_strange_batch_is_no_sign() -> None:
    monitor = CollapseMonitor(window=20, grace_steps=1)
    assert told(monitor, HEALTHY, steps=30) == []
    assert told(monitor, HEALTHY | {"feature_std": 0.0}, steps=1, start=31) == []


def test_a_loss_that_stays_at_its_floor_is_told_once_it_means_what_it_will_mean() -> None:
    at_floor = HEALTHY | {"loss": math.log(64), "loss_floor": math.log(64)}
    monitor = CollapseMonitor(window=5, grace_steps=1)
    assert told(monitor, at_floor | {"loss_settled": 0.0}, steps=20) == []
    assert told(monitor, at_floor | {"loss_settled": 1.0}, steps=20, start=21) == [(25, "loss over loss_floor")]
    assert told(CollapseMonitor(window=5, grace_steps=1), at_floor | {"loss": 0.98 * math.log(64)}, steps=20) == []


def test_each_part_of_a_combined_method_is_watched_under_its_name(tmp_path: Path) -> None:
    says = {"swav_feature_std": 0.02, "pairs_feature_std": 0.8, "swav_loss": 3.0, "swav_loss_floor": 3.0}
    says |= {"pairs_loss": 1.0, "pairs_loss_floor": 3.0, "swav_prototype_entropy": 1.0}
    monitor = CollapseMonitor(window=2, grace_steps=1)
    assert told(monitor, says, steps=5) == [(2, "swav_feature_std"), (2, "swav_loss over loss_floor")]
    trainer(Wander(TinyEncoder(), says=says), tmp_path / "run", CollapseMonitor(window=2, grace_steps=1)).run()
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "swav: the features of all scans are nearly alike: spread 0.020" in log
    assert "swav: the loss stays at 100.0%" in log
    assert "method::epsilon=0.03" in log


def test_a_resumed_monitor_says_what_one_never_stopped_says() -> None:
    sick = HEALTHY | {"effective_rank": 1.2}
    monitor = CollapseMonitor(window=5, grace_steps=1)
    told(monitor, sick, steps=3)
    resumed = CollapseMonitor(window=5, grace_steps=1)
    resumed.load_state_dict(monitor.state_dict())
    assert told(resumed, sick, steps=5, start=4) == told(monitor, sick, steps=5, start=4) == [(5, "effective_rank")]
    again = CollapseMonitor(window=5, grace_steps=1)
    again.load_state_dict(resumed.state_dict())
    assert told(again, sick, steps=5, start=9) == []


def test_a_warning_stands_in_the_log_beside_the_numbers_and_names_a_cure(tmp_path: Path) -> None:
    method = Wander(TinyEncoder(), says={"feature_std": 0.03})
    trainer(method, tmp_path / "run", CollapseMonitor(window=2, grace_steps=3)).run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    warnings = [row for row in rows if "warning" in row]
    assert [row["step"] for row in warnings] == [3]
    assert "features of all scans are nearly alike: spread 0.030 of 1" in warnings[0]["warning"]
    assert "lower learning_rate" in warnings[0]["warning"]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))


def test_nothing_is_said_while_the_learning_rate_warms_up(tmp_path: Path) -> None:
    method, monitor = Wander(TinyEncoder(), says={"feature_std": 0.03}), CollapseMonitor(window=2, grace_steps=3)
    made = trainer(method, tmp_path / "run", monitor)
    made.schedule = WarmupCosine(warmup_epochs=1.5)  # three of the eight steps
    made.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "warning" in row] == [6]


def test_dead_prototypes_alone_stop_no_run(tmp_path: Path) -> None:
    method = Wander(TinyEncoder(), says={"prototypes_dead": 0.95})
    trainer(method, tmp_path / "run", CollapseMonitor(window=2, grace_steps=1, stop=True)).run()
    assert "95% of the prototypes are hardly used" in (tmp_path / "run" / "metrics.jsonl").read_text()


class WholeSwAV(SwAV):
    """SwAV on two noisy looks at a whole tiny scan."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["x"]
        return super().embed({"crop0": x, "crop1": x.flip(2), "modality": batch["modality"]})


def test_swav_says_when_its_loss_means_what_it_will_mean(tmp_path: Path) -> None:
    # Two steps of four samples an epoch: a queue of eight, filled from the second epoch on, is full after step 4.
    torch.manual_seed(0)
    options = {"prototypes": 16, "feature_dim": 8, "hidden_dim": 16, "queue_length": 8, "queue_start_epoch": 1}
    for freeze_steps, settled in ((2, [0, 0, 0, 1, 1, 1, 1, 1]), (6, [0, 0, 0, 0, 0, 1, 1, 1])):
        run = tmp_path / str(freeze_steps)
        trainer(WholeSwAV(TinyEncoder(), views=whole_view, freeze_steps=freeze_steps, **options), run).run()
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["loss_settled"] for row in rows if "loss" in row] == settled


def test_swav_whose_codes_say_nothing_is_stopped_with_the_cure(tmp_path: Path) -> None:
    # An entropy weight this large makes every code uniform, so the best prediction is uniform too: loss ln K.
    torch.manual_seed(0)
    method = WholeSwAV(
        TinyEncoder(),
        views=whole_view,
        prototypes=16,
        feature_dim=8,
        hidden_dim=16,
        epsilon=1000.0,
        queue_length=0,
        freeze_steps=0,
    )
    monitor = CollapseMonitor(window=5, grace_steps=20, stop=True)
    with pytest.raises(
        UserError, match=r"collapsed by step 2\d.*what telling no scan from another costs.*epsilon=0.03"
    ):
        trainer(method, tmp_path / "run", monitor, epochs=40).run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] >= math.log(16) * 0.99
