"""`volssl evaluate`: subgroups, a store of another site, and label tables that are wrong."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.internal import internal_auc
from volssl.bundle.runs import load_run
from volssl.bundle.workflow import finetune
from volssl.data import Store, prepare
from volssl.errors import UserError
from volssl.evaluation.operating_points import equal_point
from volssl.evaluation.terminal import beside, summary
from volssl.simulate.cohort import simulate_cohort
from volssl.tensors import load_tensors, save_tensors


@pytest.fixture(scope="module")
def run(store: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of one epoch; it knows nothing, and is judged all the same."""
    folder = tmp_path_factory.mktemp("runs") / "hemorrhage"
    words = ("max_epochs=1", "batch_size=4", "task::grid=[24, 28, 10]")
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=folder, words=words)
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The store and the labels of another site, eight studies of patients whom nobody has seen."""
    root = tmp_path_factory.mktemp("elsewhere")
    simulate_cohort(root / "cohort", 8, seed=9, site="B", spacing_mm=6.0, slice_mm=9.0, workers=1)
    prepare([root / "cohort"], root / "store", workers=0)
    return root / "store", root / "cohort" / "labels.csv"


def changed(labels: Path, out: Path, **columns: object) -> Path:
    """A label table with other values in some columns."""
    pd.read_csv(labels, dtype=str).assign(**columns).to_csv(out, index=False)
    return out


def patients_of(store: Path) -> set[str]:
    """The patients of a store."""
    return set(Store.open(store).rows["patient"].to_pylist())


def sides_of(store: Path) -> set[str]:
    """The splits that a store has patients in."""
    return set(Store.open(store).rows["split"].to_pylist())


def facts_of(page: str) -> dict[str, str]:
    """What the head of a page says, by name."""
    return dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", page))


def copied(run: Path, out: Path, **facts: object) -> Path:
    """A run in which model.pt says something else."""
    shutil.copytree(run, out)
    save_tensors(out / "model.pt", load_tensors(run / "model.pt") | facts)
    return out


def test_groups_are_told_apart_on_the_page_in_the_json_and_on_the_terminal(
    run: Path, store: Path, cohort: Path, tmp_path: Path
) -> None:
    labels, out = cohort / "labels.csv", tmp_path / "test"
    metrics = evaluate_run(run, store=store, labels=labels, split="test", out=out, by=["sex", "site"])
    rows = [row for row in Store.open(store).rows.to_pylist() if row["split"] == "test"]
    groups = json.loads((out / "metrics.json").read_text())["outputs"]["hemorrhage"]["subgroups"]
    assert {sex: figures["n"] for sex, figures in groups["sex"].items()} == {
        sex: sum(row["sex"] == sex for row in rows) for sex in sorted({row["sex"] for row in rows})
    }
    assert all(figures["small"] for figures in groups["sex"].values())
    page = (out / "report.html").read_text()
    assert "Subgroups" in page
    assert "HiResCAM (MONAI) at level" in page
    assert "site A (small)" in list(summary(metrics).columns[0].cells)


def test_another_sites_store_is_judged_whole_at_the_thresholds_of_the_runs_own_validation(
    run: Path, store: Path, cohort: Path, elsewhere: tuple[Path, Path], tmp_path: Path
) -> None:
    evaluate_run(run, store=store, labels=cohort / "labels.csv", split="validation", out=tmp_path / "validation")
    own = pd.read_parquet(tmp_path / "validation" / "predictions.parquet")
    other, labels = elsewhere
    metrics = evaluate_run(run, store=other, labels=labels, split="all", out=tmp_path / "all")
    assert (metrics["n_studies"], metrics["split"], metrics["external"]) == (8, "all", True)
    point = metrics["outputs"]["hemorrhage"]["operating_points"]["equal"]
    assert point["threshold"] == equal_point(own["y_hemorrhage"].to_numpy(), own["p_hemorrhage"].to_numpy())
    assert point["chosen_on"] == "validation"
    page = (tmp_path / "all" / "report.html").read_text()
    assert "all patients of another store" in page
    assert metrics["patients_compared"] is True
    assert facts_of(page)["Of them in this store"] == "none"


def test_where_keys_differ_nothing_claims_that_training_saw_nobody_of_another_store(
    run: Path,
    store: Path,
    cohort: Path,
    elsewhere: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved, (other, labels) = copied(run, tmp_path / "run", keys=["f" * 24]), elsewhere
    evaluate_run(moved, store=store, labels=cohort / "labels.csv", split="test", out=moved / "test")
    capsys.readouterr()
    split = next(side for side in ("test", "validation", "train") if side in sides_of(other))
    metrics = evaluate_run(moved, store=other, labels=labels, split=split, out=tmp_path / "out")
    told = capsys.readouterr().err
    assert told.count(f"cannot tell whether patients of {other} were seen by {moved / 'model.pt'}") == 1
    assert "none of its patients is known to have been trained on" in told
    assert (metrics["external"], metrics["patients_compared"]) == (True, False)
    page = (tmp_path / "out" / "report.html").read_text()
    assert facts_of(page)["Of them in this store"].startswith("cannot be told")
    assert "Whether a patient is in both, or was seen in training, cannot be told." in page
    assert "The two are of different patients" not in page


def test_another_sites_auc_stands_beside_the_runs_own_and_only_its_test_patients_are_a_hint(
    run: Path,
    store: Path,
    cohort: Path,
    elsewhere: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved, (other, labels) = copied(run, tmp_path / "run"), elsewhere
    alone = evaluate_run(moved, store=other, labels=labels, split="all", out=tmp_path / "alone")
    assert alone["internal"] is None
    assert beside(alone) is None
    assert "Internal and external" not in (tmp_path / "alone" / "report.html").read_text()
    assert "--split all" not in capsys.readouterr().err
    mine = evaluate_run(moved, store=store, labels=cohort / "labels.csv", split="test", out=moved / "test")
    assert mine["internal"] is None
    assert "--split all" not in capsys.readouterr().err
    split = next(side for side in ("test", "validation", "train") if side in sides_of(other))
    found = evaluate_run(moved, store=other, labels=labels, split=split, out=moved / "elsewhere")
    told = f"its {split} patients alone are scored, {found['n_patients']} of {len(patients_of(other))} labelled"
    assert told in capsys.readouterr().err
    wanted = json.loads((moved / "test" / "metrics.json").read_text())["outputs"]["hemorrhage"]["metrics"]["auc"]
    kept = json.loads((moved / "elsewhere" / "metrics.json").read_text())["internal"]
    assert kept["n_patients"] == mine["n_patients"]
    assert kept["auc"]["hemorrhage"] == {key: wanted[key] for key in ("value", "low", "high")}
    table = beside(found)
    assert table is not None
    here = found["outputs"]["hemorrhage"]["metrics"]["auc"]
    first = [next(iter(column.cells)) for column in table.columns]
    assert first[0] == "hemorrhage"
    assert str(first[1]).startswith(f"{wanted['value']:.2f} (")
    assert first[2] == "–" if here["value"] is None else str(first[2]).startswith(f"{here['value']:.2f}")
    assert "The two are of different patients" in (moved / "elsewhere" / "report.html").read_text()
    save_tensors(moved / "model.pt", load_tensors(moved / "model.pt") | {"epoch": 7})  # another file: other weights
    assert internal_auc(moved) is None


def test_a_bundles_metadata_tell_the_internal_auc_of_its_own_weights_on_test_patients(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    for name in ("configs", "models"):
        (bundle / name).mkdir(parents=True)
    (bundle / "models" / "model.pt").write_bytes(b"weights")
    shown = {"value": 0.9, "low": 0.8, "high": 0.95}
    kept = {"split": "test", "n_studies": 9, "n_patients": 8, "outputs": {"a": {"auc": shown, "brier": shown}, "b": {}}}
    facts = {
        "format": 1,
        "task": "hemorrhage",
        "labels": ["a"],
        "volume": 1,
        "slices": 0,
        "dim": 0,
        "box": "head",
        "input_contract": {"modality": "CT", "window_hu": [55, 200], "spacing_mm": [1, 1, 1], "grid": [8, 8, 8]},
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "simulated_training_data": None,
        "training_ranges": None,
    }
    said = {"name": "x", "version": "1", "eval_metrics": kept, "volssl": facts}

    def told(**changes: object) -> object:
        (bundle / "configs" / "metadata.json").write_text(json.dumps({**said, **changes}))
        return internal_auc(bundle / "models")

    assert told() == {"n_studies": 9, "n_patients": 8, "auc": {"a": shown}}
    assert told(eval_metrics={}) is None
    assert told(eval_metrics=kept | {"external": True}) is None
    assert told(eval_metrics=kept | {"split": "validation"}) is None
    assert told(volssl=facts | {"weights_sha256": "0" * 64}) is None


def test_weights_with_a_tensor_too_many_are_not_the_runs(run: Path, tmp_path: Path) -> None:
    state = load_tensors(run / "model.pt")["network"]
    stranger = copied(run, tmp_path / "run", network=state | {"left.over": state["labels.bias"]})
    with pytest.raises(UserError, match=r"model.pt: holds 1 tensors that the network has no place for.*left\.over"):
        load_run(stranger)


def test_thresholds_travel_with_the_run_and_not_with_other_weights(
    run: Path, store: Path, cohort: Path, elsewhere: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = copied(run, tmp_path / "run")
    mine = evaluate_run(moved, store=store, labels=cohort / "labels.csv", split="test", out=tmp_path / "test")
    assert mine["external"] is False
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(f"dataset_dir: {store}", f"dataset_dir: {tmp_path}/gone"))
    other, labels = elsewhere
    found = evaluate_run(moved, store=other, labels=labels, split="all", out=tmp_path / "all")
    thresholds = [
        metrics["outputs"]["hemorrhage"]["operating_points"]["equal"]["threshold"] for metrics in (mine, found)
    ]
    assert thresholds[0] == thresholds[1]
    save_tensors(moved / "model.pt", load_tensors(moved / "model.pt") | {"epoch": 7})  # another file: other weights
    lost = evaluate_run(moved, store=other, labels=labels, split="all", out=tmp_path / "lost")
    point = lost["outputs"]["hemorrhage"]["operating_points"]["equal"]
    assert (point["chosen_on"], lost["validation"]) == ("the evaluated cases themselves", None)


def test_all_of_the_runs_own_store_is_refused_and_so_is_a_seen_patient_of_another(
    run: Path, store: Path, cohort: Path, elsewhere: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"were seen in training .* --split all is for a store of other patients"):
        evaluate_run(run, store=store, labels=cohort / "labels.csv", split="all", out=tmp_path / "out")
    other, labels = elsewhere
    patient = Store.open(other).rows["patient"][0].as_py()
    seen = copied(run, tmp_path / "run", patients=[*load_tensors(run / "model.pt")["patients"], patient])
    with pytest.raises(UserError, match="1 labelled patients were seen in training"):
        evaluate_run(seen, store=other, labels=labels, split="all", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_patient_who_chose_the_thresholds_is_not_evaluated(
    run: Path, store: Path, cohort: Path, tmp_path: Path
) -> None:
    stranger = copied(run, tmp_path / "run", patients=["f" * 24])  # as if training had seen nobody of this store
    with pytest.raises(UserError, match=r"\d patients chose the run's epoch and thresholds"):
        evaluate_run(stranger, store=store, labels=cohort / "labels.csv", split="all", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"hemorrhage": "bleeding"}, "line 2: hemorrhage holds 'bleeding', no number; blank is unknown"),
        ({"hemorrhage": "2"}, "hemorrhage holds 2; write 0, 1, or leave it blank"),
        ({"study": "S00"}, "names the study 'S00' twice|none of its 16 studies is in the store"),
        ({"study": [f"unknown-{i}" for i in range(16)]}, "none of its 16 studies is in the store"),
    ],
)
def test_a_wrong_label_table_is_one_line(
    run: Path, store: Path, cohort: Path, tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    labels = changed(cohort / "labels.csv", tmp_path / "labels.csv", **columns)
    with pytest.raises(UserError, match=message) as caught:
        evaluate_run(run, store=store, labels=labels, split="test", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_study_named_twice_is_one_line(run: Path, store: Path, cohort: Path, tmp_path: Path) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    pd.concat([table, table.iloc[:1]]).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(UserError, match="twice"):
        evaluate_run(run, store=store, labels=tmp_path / "labels.csv", split="test", out=tmp_path / "out")


@pytest.mark.parametrize("value", ["0", "1"])
def test_labels_of_one_class_leave_figures_open_with_the_reason(
    run: Path, store: Path, cohort: Path, tmp_path: Path, value: str
) -> None:
    labels = changed(cohort / "labels.csv", tmp_path / "labels.csv", hemorrhage=value)
    metrics = evaluate_run(run, store=store, labels=labels, split="test", out=tmp_path / "out")
    output = metrics["outputs"]["hemorrhage"]
    assert output["metrics"]["auc"]["value"] is None
    tested = sum(row["split"] == "test" for row in Store.open(store).rows.to_pylist())
    assert output["reason"] == f"all {tested} labelled cases are {'positive' if value == '1' else 'negative'}"
    assert output["operating_points"] == {}
    assert output["reason"] in (tmp_path / "out" / "report.html").read_text()


def test_without_a_positive_in_validation_thresholds_are_chosen_on_the_test_and_both_places_say_so(
    run: Path, store: Path, cohort: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    split = dict(pd.read_csv(cohort / "patients.csv", dtype=str)[["study", "split"]].to_numpy())
    of_study = table["study"].map(split)
    wanted = np.where(of_study == "validation", "0", np.where(np.arange(16) % 2, "1", "0"))
    types = {name: "" for name in table.columns if name not in ("study", "patient", "hemorrhage")}
    labels = changed(cohort / "labels.csv", tmp_path / "labels.csv", hemorrhage=wanted, **types)
    metrics = evaluate_run(run, store=store, labels=labels, split="test", out=tmp_path / "out")
    point = metrics["outputs"]["hemorrhage"]["operating_points"]["equal"]
    assert point["why_not_on_validation"] == f"all {(of_study == 'validation').sum()} labelled cases are negative"
    assert point["chosen_on"] == "the evaluated cases themselves"
    assert "flatter the model" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("option", "message"),
    [({"split": "tset"}, "split tset: unknown; choose test"), ({"by": ["age"]}, "--by age: unknown; choose from sex")],
)
def test_a_word_that_does_not_exist_is_refused_before_anything_is_read(
    run: Path, tmp_path: Path, option: dict[str, object], message: str
) -> None:
    given = {"split": "test", "store": tmp_path / "none", "labels": tmp_path / "none.csv", "out": tmp_path} | option
    with pytest.raises(UserError, match=message):
        evaluate_run(run, **given)
