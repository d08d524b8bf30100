"""The line of metastasis on a tiny simulated cohort: two stages in one command, evaluated, exported, asked."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.tiny import split_cohort
from volssl.bundle.evaluate import evaluate_run, load_run
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.suspects import SuspectTraining
from volssl.bundle.workflow import finetune
from volssl.data import Store, prepare
from volssl.errors import UsageError, UserError
from volssl.simulate.cohort import simulate_brain_mr_cohort
from volssl.tensors import load_tensors, save_tensors

WORDS = ["max_epochs=1", "suspect_epochs=2", "batch_size=4", "scored=4", "ema=0.5"]
GRID = ["task::grid=[32, 32, 16]", "task::spacing_mm=[6.0, 6.0, 10.0]"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four coarse brains: half of the patients for training, a quarter each for validation and test."""
    folder = tmp_path_factory.mktemp("brains") / "cohort"
    simulate_brain_mr_cohort(folder, 24, seed=5, spacing_mm=6.0, slice_mm=9.0, stripped=True, workers=1)
    split_cohort(folder, train=0.5, validation=0.25)
    return folder


@pytest.fixture(scope="module")
def brains(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their store."""
    folder = tmp_path_factory.mktemp("store") / "store"
    prepare([cohort], folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def run(cohort: Path, brains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One command."""
    out = tmp_path_factory.mktemp("runs") / "run"
    finetune("metastasis", store=brains, labels=cohort / "labels.csv", out=out, words=[*WORDS, *GRID])
    return out


def test_the_second_stage_looks_at_the_best_epoch_of_the_first_and_leaves_it_alone(run: Path) -> None:
    first, second = load_tensors(run / "suspects" / "model.pt"), load_tensors(run / "model.pt")
    kept = {k.removeprefix("suspects."): v for k, v in second["network"].items() if k.startswith("suspects.")}
    assert kept.keys() == first["network"].keys()
    assert all(torch.equal(kept[key], value) for key, value in first["network"].items())
    rows = [json.loads(line) for line in (run / "suspects" / "metrics.jsonl").read_text().splitlines()]
    aucs = [row["validation_auc"] for row in rows if "validation_auc" in row]
    assert (len(aucs), first["validation_auc"]) == (2, max(aucs))
    assert not any("mask" in path.name for path in run.rglob("*"))


def test_a_run_stopped_between_the_stages_goes_on_to_the_same_weights(
    cohort: Path, brains: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, labels = tmp_path / "run", cohort / "labels.csv"
    fit = SuspectTraining.fit

    def stopped(stage: SuspectTraining) -> None:
        fit(stage)
        raise KeyboardInterrupt

    monkeypatch.setattr(SuspectTraining, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        finetune("metastasis", store=brains, labels=labels, out=out, words=[*WORDS, *GRID])
    monkeypatch.undo()
    finetune("metastasis", store=brains, labels=labels, out=out, words=[*WORDS, *GRID], resume=True)
    ours, theirs = (load_tensors(folder / "model.pt")["network"] for folder in (out, run))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_both_stages_saw_the_training_patients_and_nobody_else(run: Path, brains: Path) -> None:
    rows = Store.open(brains).columns("patient", "split").to_pandas()
    inside, outside = (set(rows.loc[(rows["split"] == "train") == side, "patient"]) for side in (True, False))
    for part in (run, run / "suspects"):
        seen = set(load_tensors(part / "model.pt")["patients"])
        assert seen <= inside
        assert not seen & outside
    assert set(load_tensors(run / "model.pt")["patients"]) == inside


def test_slices_and_studies_are_evaluated_with_intervals_by_patient(cohort: Path, brains: Path, run: Path) -> None:
    out = run / "test"
    metrics = evaluate_run(run, store=brains, labels=cohort / "labels.csv", split="test", out=out)
    table = pd.read_parquet(out / "predictions.parquet")
    y, p = (np.concatenate([np.array(cell, float) for cell in table[f"{side}_slices"]]) for side in "yp")
    known = ~np.isnan(y)
    slices = metrics["outputs"]["slices"]
    assert slices["n"] == known.sum()
    assert slices["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(y[known], p[known]))
    assert slices["metrics"]["auc"]["low"] < slices["metrics"]["auc"]["value"]
    assert np.allclose(table["p_metastasis"], [max(cell) for cell in table["p_slices"]], atol=1e-6)


def test_a_bundle_answers_for_a_file_as_the_runs_network_does(cohort: Path, run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "bundle")
    table = pd.read_parquet(run / "test" / "predictions.parquet")
    volumes = sorted((cohort / "volumes").glob("*.nii.gz"))
    answers = predict_studies(tmp_path / "bundle", volumes, tmp_path / "answers")
    found = [one.content["volume"]["metastasis"] for one in answers]
    assert all(np.abs(np.array(found) - p).min() < 1e-5 for p in table["p_metastasis"])
    scan = nibabel.load(volumes[0])
    assert len(answers[0].content["slices"]) == scan.shape[2]


def test_another_run_takes_the_suspects_over_and_knows_whose_scans_they_saw(
    cohort: Path, brains: Path, run: Path, tmp_path: Path
) -> None:
    labels = cohort / "labels.csv"
    words = [*WORDS, *GRID, f"suspects_path={run}"]
    finetune("metastasis", store=brains, labels=labels, out=tmp_path / "second", encoder=run, words=words)
    ours, theirs = (load_run(folder).network.state_dict() for folder in (tmp_path / "second", run))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items() if key.startswith("suspects."))
    assert not (tmp_path / "second" / "suspects").exists()

    rows = Store.open(brains).columns("patient", "split").to_pandas()
    model = load_tensors(run / "model.pt")
    (tmp_path / "leaking").mkdir()
    leaking = model | {"patients": [*model["patients"], rows.loc[rows["split"] == "test", "patient"].iloc[0]]}
    save_tensors(tmp_path / "leaking" / "model.pt", leaking)
    words = [*WORDS, *GRID, f"suspects_path={tmp_path / 'leaking'}"]
    with pytest.raises(UserError, match=r"1 patients of .* were seen in training"):
        finetune("metastasis", store=brains, labels=labels, out=tmp_path / "third", words=words)
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("task::spacing_mm=[1.5, 1.5, 3.0]", "suspects of .*trained with 6.0 mm along R and would be fed 1.5 mm"),
        ("suspects_path=nowhere", "no fine-tuned run there"),
    ],
)
def test_suspects_of_another_kind_are_refused(
    cohort: Path, brains: Path, run: Path, tmp_path: Path, word: str, match: str
) -> None:
    words = [*WORDS, *GRID, f"suspects_path={run}", word]
    with pytest.raises(UserError, match=match):
        finetune("metastasis", store=brains, labels=cohort / "labels.csv", out=tmp_path / "run", words=words)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("no column", "no column mask"),
        ("blank", "no positive training study has a mask"),
        ("elsewhere", "masks are not where mask says"),
        ("other", "not a mask of its scan"),
    ],
)
def test_a_label_table_without_fitting_masks_has_one_clear_line(
    cohort: Path, brains: Path, tmp_path: Path, change: str, match: str
) -> None:
    table = pd.read_csv(cohort / "labels.csv")
    masks = {"blank": "", "elsewhere": "gone.nii.gz", "other": str(cohort / "labels.csv")}
    table["mask"] = masks.get(change, "")
    table = table.drop(columns="mask") if change == "no column" else table
    table.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(UserError, match=match) as caught:
        finetune(
            "metastasis", store=brains, labels=tmp_path / "labels.csv", out=tmp_path / "run", words=[*WORDS, *GRID]
        )
    assert "\n" not in str(caught.value)


def test_modes_that_train_no_head_are_refused(cohort: Path, brains: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="take --mode frozen"):
        finetune("metastasis", store=brains, labels=cohort / "labels.csv", out=tmp_path / "run", mode="probe")
