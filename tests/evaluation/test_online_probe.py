"""The probe of a run: right figures, no trace in the run, the best epoch kept, test patients and leaks kept out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events

from tests.evaluation.pretraining import CONTRACT, Labelled, TinyEncoder, Wander, labelled, trainer, views_of
from volssl.engine import SaveEncoder
from volssl.engine.checkpoint import LAST
from volssl.errors import UserError
from volssl.evaluation.features import pooled_features
from volssl.evaluation.knn import knn_auc
from volssl.evaluation.online_probe import OnlineProbe
from volssl.evaluation.probe import linear_probe
from volssl.tensors import load_tensors

TRAIN, VALIDATION = labelled("train", 30, 1), labelled("validation", 30, 2)
VIEWS = views_of(TRAIN, VALIDATION)


def built(**options: Any) -> tuple[Wander, OnlineProbe]:
    torch.manual_seed(0)
    method = Wander(TinyEncoder())
    return method, OnlineProbe(
        method.encoder, views=VIEWS, **{"train": TRAIN, "validation": VALIDATION, "every": 1, **options}
    )


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def probed(run: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run) if "probe_knn_auc" in row]


def weights(path: Path) -> torch.Tensor:
    return torch.cat([v.flatten().float() for v in load_tensors(path)["state_dict"].values()])


def test_the_figures_are_those_of_the_encoder_on_validation_and_the_untrained_comes_first(tmp_path: Path) -> None:
    method, probe = built(every=3)
    y, truth = (np.arange(30) % 2 for _ in range(2))

    def expected() -> dict[str, float]:
        train, seen = (pooled_features(method.encoder, side.scans, VIEWS).features for side in (TRAIN, VALIDATION))
        return {
            "probe_linear_auc": linear_probe(train, y, seen, truth).auc,
            "probe_knn_auc": knn_auc(train, y, seen, truth),
        }

    untrained = expected()
    trainer(method, tmp_path / "run", probe).run()
    logged = probed(tmp_path / "run")
    assert [(row["step"], row["epoch"]) for row in logged] == [(0, 0), (6, 3), (8, 4)]  # every third, and the last
    assert logged[0] == {"step": 0, "epoch": 0, **untrained, "probe_scans": 30, "probe_validation_scans": 30}
    assert logged[-1] == {"step": 8, "epoch": 4, **expected()}
    assert 0.5 < logged[-1]["probe_linear_auc"] <= 1


def test_a_run_is_the_same_to_the_bit_with_and_without_a_probe(tmp_path: Path) -> None:
    random = []
    for name in ("with", "without"):
        method, probe = built()
        trainer(method, tmp_path / name, *([probe] if name == "with" else [])).run()
        random.append(torch.get_rng_state())
    one, other = (load_tensors(tmp_path / name / LAST) for name in ("with", "without"))
    assert all(torch.equal(one["method"][key], other["method"][key]) for key in other["method"])
    assert torch.equal(*random)
    assert [r for r in rows(tmp_path / "with") if "loss" in r] == rows(tmp_path / "without")


def test_the_encoder_of_the_best_probe_is_kept_and_the_last_beside_it(tmp_path: Path) -> None:
    method, probe = built()
    figures = iter([{}, *({"probe_linear_auc": auc, "probe_knn_auc": -auc} for auc in (0.6, 0.8, 0.8, 0.7))])
    probe.figures = lambda: next(figures)  # type: ignore[method-assign]
    trainer(method, tmp_path / "run", probe, SaveEncoder(contract=CONTRACT, chosen_by=probe)).run()
    assert (probe.best, probe.best_epoch) == (0.8, 2)  # of two equals the first stands
    assert [row["epoch"] for row in rows(tmp_path / "run") if "encoder_epoch" in row] == [1, 2]
    last = torch.cat([v.flatten().float() for v in method.encoder.state_dict().values()])
    assert torch.equal(weights(tmp_path / "run" / "encoder_last.pt"), last)
    assert not torch.equal(weights(tmp_path / "run" / "encoder.pt"), last)


def test_a_stopped_run_goes_on_to_the_same_choice(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        method, probe = built()
        run = trainer(method, tmp_path / name, probe, SaveEncoder(contract=CONTRACT, chosen_by=probe))
        if name == "stopped":
            run.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run.run()
            method, probe = built()
            run = trainer(method, tmp_path / name, probe, SaveEncoder(contract=CONTRACT, chosen_by=probe), resume=True)
        run.run()
    whole, stopped = (load_tensors(tmp_path / name / LAST) for name in ("whole", "stopped"))
    assert whole["handlers"] == stopped["handlers"]
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "stopped" / "metrics.jsonl").read_text()
    assert torch.equal(*(weights(tmp_path / name / "encoder.pt") for name in ("whole", "stopped")))


def test_a_validation_of_one_class_leaves_the_last_epoch_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_class = Labelled(VALIDATION.scans[::2], VALIDATION.patients[::2])
    method, probe = built(validation=one_class)
    trainer(method, tmp_path / "run", probe, SaveEncoder(contract=CONTRACT, chosen_by=probe)).run()
    assert probed(tmp_path / "run") == []
    assert probe.best_epoch == 4
    assert f"the {len(one_class.scans)} labelled validation scans are of one class" in capsys.readouterr().err


def test_a_validation_patient_who_is_trained_on_is_refused(tmp_path: Path) -> None:
    for leak in (["train-patient-3"], ["unlabelled-patient-2"]):
        leaking = Labelled(VALIDATION.scans, leak + VALIDATION.patients[1:])
        method, probe = built(validation=leaking)
        with pytest.raises(UserError, match="1 validation patients of the probe are trained on"):
            trainer(method, tmp_path / leak[0], probe).run()


def test_training_labels_of_one_class_and_an_unknown_choice_are_refused() -> None:
    one_class = Labelled(TRAIN.scans[::2], TRAIN.patients[::2])
    _, probe = built(train=one_class)
    with pytest.raises(UserError, match="all 15 labelled cases are negative"):
        probe.figures()
    with pytest.raises(UserError, match="choose one of linear, knn"):
        built(chosen_by="loss")
    with pytest.raises(UserError, match="probe_epochs=0: give the epochs"):
        built(every=0)
