"""The line of metastasis on a tiny simulated cohort: two stages in one command, evaluated, exported, asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, create_workflow, load, verify_net_in_out
from sklearn.metrics import roc_auc_score

from tests.bundle.conftest import BRAIN_GRID, BRAIN_SIZE, BRAIN_WORDS
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.runs import load_run
from volssl.bundle.suspects import SuspectTraining
from volssl.bundle.verify import build, check_bundle
from volssl.bundle.workflow import finetune
from volssl.data import Store
from volssl.errors import UsageError, UserError
from volssl.slabs import HeldOut
from volssl.tensors import load_tensors, save_tensors

WORDS, GRID = BRAIN_WORDS, BRAIN_SIZE


@pytest.fixture(scope="module")
def cohort(brain_cohort: Path) -> Path:
    return brain_cohort


@pytest.fixture(scope="module")
def brains(brain_store: Path) -> Path:
    return brain_store


@pytest.fixture(scope="module")
def run(brain_run: Path) -> Path:
    return brain_run


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

    def stopped(stage: SuspectTraining, *given: Any) -> None:
        fit(stage, *given)
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


def test_a_bundle_answers_for_a_file_as_the_runs_network_does(
    cohort: Path, run: Path, brain_bundle: Path, tmp_path: Path
) -> None:
    table = pd.read_parquet(run / "test" / "predictions.parquet")
    volumes = sorted((cohort / "volumes").glob("*.nii.gz"))
    answers = predict_studies(brain_bundle, volumes, tmp_path / "answers")
    found = [one.content["volume"]["metastasis"] for one in answers]
    assert all(np.abs(np.array(found) - p).min() < 1e-5 for p in table["p_metastasis"])
    scan = nibabel.load(volumes[0])
    assert len(answers[0].content["slices"]) == scan.shape[2]


def test_monai_checks_verifies_and_exports_the_bundle(
    cohort: Path, run: Path, brain_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configs = brain_bundle / "configs"
    given = {"config_file": str(configs / "inference.yaml"), "meta_file": str(configs / "metadata.json")}
    study = sorted((cohort / "volumes").glob("*.nii.gz"))[0]
    places = {"bundle_root": str(brain_bundle), "dataset_dir": [str(study)], "output_dir": "answers"}
    workflow = create_workflow(**given, workflow_type="inference", **places)
    assert workflow.check_properties() == []
    workflow.run()
    (answer,) = (json.loads(path.read_text()) for path in Path("answers").glob("*.json"))
    (ours,) = predict_studies(brain_bundle, [study], tmp_path / "ours")
    assert answer["volume"]["metastasis"] == pytest.approx(ours.content["volume"]["metastasis"], abs=1e-6)

    verify_net_in_out("network_def", **given, device="cpu")
    network, image = load_run(run).network, torch.rand(1, 1, *BRAIN_GRID)
    state = load(brain_bundle.name, bundle_dir=brain_bundle.parent, workflow_type="inference", device="cpu")
    assert state.keys() == network.state_dict().keys()
    ckpt_export(filepath="model.ts", bundle_root=str(brain_bundle), **given)
    with torch.no_grad():
        assert torch.equal(torch.jit.load("model.ts")(image), network(image))


def test_the_training_and_the_evaluation_of_the_bundle_miss_no_property(
    cohort: Path, brains: Path, run: Path, brain_bundle: Path, tmp_path: Path
) -> None:
    places = {
        "bundle_root": str(brain_bundle),
        "dataset_dir": str(brains),
        "labels": str(cohort / "labels.csv"),
        "suspects_path": str(run),
    }
    out = {name: str(tmp_path / name) for name in ("trained", "evaluated")}
    files = [str(brain_bundle / "configs" / f"{name}.yaml") for name in ("train", "evaluate")]
    training = ConfigWorkflow(files[0], workflow_type="train", logging_file=False, output_dir=out["trained"], **places)
    training.initialize()
    assert training.check_properties() == []
    evaluation = ConfigWorkflow(files, workflow_type="train", logging_file=False, output_dir=out["evaluated"], **places)
    evaluation.initialize()
    assert evaluation.check_properties() == []
    evaluation.run()
    theirs = pd.read_parquet(tmp_path / "evaluated" / "predictions.parquet")
    evaluate_run(run, store=brains, labels=cohort / "labels.csv", split="test", out=tmp_path / "ours")
    pd.testing.assert_frame_equal(theirs, pd.read_parquet(tmp_path / "ours" / "predictions.parquet"))


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


def test_with_folds_the_second_stage_learns_from_marks_of_networks_that_have_not_seen_the_patient(
    cohort: Path, brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[str, set[int]] = {}
    forward, fit = HeldOut.voxels, SuspectTraining.fit

    def watched(self: HeldOut, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        held.setdefault("samples", set()).update(index.tolist())
        return forward(self, x, index)

    monkeypatch.setattr(HeldOut, "voxels", watched)
    stages: list[SuspectTraining] = []
    monkeypatch.setattr(SuspectTraining, "fit", lambda stage, *a, **k: (stages.append(stage), fit(stage, *a, **k)))
    out, labels = tmp_path / "run", cohort / "labels.csv"
    finetune("metastasis", store=brains, labels=labels, out=out, words=[*WORDS, *GRID, "suspect_folds=2"])
    assert len(stages) == 3  # all patients, and without each half
    seen = [set(load_tensors(out / "suspects" / f"fold{k}" / "model.pt")["patients"]) for k in (0, 1)]
    every = set(load_tensors(out / "suspects" / "model.pt")["patients"])
    assert seen[0] | seen[1] == every
    assert not seen[0] & seen[1]
    stage = stages[0]
    assert stage.network.held_out is not None
    for place, patient in zip(stage.network.held_out.which.tolist(), stage.train.patients, strict=True):
        assert patient not in seen[place]
    assert len(held["samples"]) >= len(stage.train) // 4 * 4  # an epoch's batches, and nothing of validation
    first = load_tensors(out / "suspects" / "model.pt")["network"]
    final = load_tensors(out / "model.pt")["network"]
    assert {k for k in final if k.startswith("suspects.")} == {f"suspects.{k}" for k in first}
    assert all(torch.equal(final[f"suspects.{key}"], value) for key, value in first.items())

    words = [*WORDS, *GRID, f"suspects_path={out}", "suspect_folds=2"]
    finetune("metastasis", store=brains, labels=labels, out=tmp_path / "second", words=words, ranges=False)
    again = load_tensors(tmp_path / "second" / "model.pt")["network"]
    assert all(torch.equal(again[key], value) for key, value in final.items())


@pytest.mark.parametrize(
    ("words", "match"),
    [(["suspect_folds=1"], "suspect_folds=1: give 2 or more"), (["suspect_folds=500"], "give fewer")],
)
def test_folds_that_cannot_be_are_refused(
    cohort: Path, brains: Path, tmp_path: Path, words: list[str], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        finetune(
            "metastasis",
            store=brains,
            labels=cohort / "labels.csv",
            out=tmp_path / "run",
            words=[*WORDS, *GRID, *words],
        )


def test_folds_are_not_taken_over_from_a_run_that_has_none(
    cohort: Path, brains: Path, run: Path, tmp_path: Path
) -> None:
    words = [*WORDS, *GRID, f"suspects_path={run}", "suspect_folds=2"]
    with pytest.raises(UserError, match="training scans are of patients whom every network there has seen"):
        finetune("metastasis", store=brains, labels=cohort / "labels.csv", out=tmp_path / "run", words=words)


def test_preprocessing_is_that_of_training_to_the_last_bit(
    cohort: Path, brains: Path, run: Path, brain_bundle: Path
) -> None:
    task, store = load_run(run).task, Store.open(brains)
    trained = [task.preprocess(store.scan(volume_id))[0] for volume_id in store.rows["id"].to_pylist()[:6]]
    places = {"bundle_root": brain_bundle, "dataset_dir": sorted((cohort / "volumes").glob("*.nii.gz"))}
    dataset = build(check_bundle(brain_bundle).config | places, "dataset")
    predicted = [sample["image"][0] for sample in dataset]
    assert len(predicted) == 24
    assert [sum(torch.equal(image, known) for image in predicted) for known in trained] == [1] * 6
