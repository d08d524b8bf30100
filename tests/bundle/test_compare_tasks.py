"""A comparison of every mode, of columns of one's own, with the test closed; and one of metastasis."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from tests.bundle.conftest import BRAIN_SIZE, BRAIN_WORDS
from tests.jobs import RUN_PART, run_here
from tests.pages import Elements
from volssl.bundle import compare_runner, workflow
from volssl.bundle.compare import compare
from volssl.bundle.compare_jobs import Job

MODES = ("last", "frozen", "probe", "knn")
RULE = ("intensity rule", "intensity rule")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job here; test_compare.py has them in processes of their own."""
    monkeypatch.setattr(RUN_PART, run_here)


def rows_of(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    return sorted(zip(table["encoder"], table["mode"], table["output"], strict=True))


def all_of(arms: list[tuple[str, str]], outputs: tuple[str, ...]) -> list[tuple[str, str, str]]:
    return sorted((*arm, output) for arm in [*arms, RULE] for output in outputs)


def test_a_job_of_classification_takes_its_columns_from_the_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(workflow, "run_training", lambda config, **told: asked.update(told))
    monkeypatch.setattr(workflow, "write_run_report", lambda *told, **more: None)
    words = ['task::columns=["a", "b"]', 'task::kind="multi-label"']
    workflow.finetune(
        "classification", store=tmp_path, labels=tmp_path, out=tmp_path / "run", words=words, ranges=False
    )
    assert asked["words"] == words


@pytest.mark.parametrize(("written", "waits"), [((), True), (("_metrics.json",), False)])
def test_what_training_left_of_the_validation_patients_is_no_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: tuple[str, ...], waits: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(compare_runner, "run_all", lambda waiting, said, *, workers: asked.extend(waiting))
    for end in (".parquet", *written):
        (tmp_path / f"validation{end}").touch()
    job = SimpleNamespace(
        folder=tmp_path, arm=SimpleNamespace(encoder=None), mode="full", fraction=1.0, settings={"words": []}
    )
    common = {"split": "validation", "draws": 0, "boxes": "boxes"}
    compare_runner.evaluate_all([cast(Job, job)], common, robust=1.0, workers=1)
    assert bool(asked) is waits


@pytest.mark.slow
def test_every_mode_is_compared_on_columns_of_ones_own_and_the_test_stays_closed(
    store: Path, cohort: Path, swav_run: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    table["grade"] = [("low", "high")[row % 2] for row in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    out = tmp_path / "comparison"
    files = compare(
        "classification",
        store=store,
        labels=tmp_path / "labels.csv",
        encoders=["scratch", f"SwAV={swav_run}"],
        out=out,
        fractions=[1.0],
        seeds=1,
        modes=MODES,
        split="validation",
        target="hemorrhage,grade",
        cases=2,
        draws=1,
        workers=1,
        words=["batch_size=4", "max_epochs=2"],
    )
    arms = [(name, mode) for name in ("scratch", "SwAV") for mode in MODES]
    results, summary = pd.read_parquet(out / "results.parquet"), pd.read_csv(out / "summary.csv")
    assert rows_of(results) == rows_of(summary) == all_of(arms, ("hemorrhage", "grade=high", "grade=low"))
    of_run = pd.read_parquet(out / "runs" / "swav-knn-1-0" / "validation.parquet")
    assert set(results["n"]) == {len(of_run)}
    differences = summary[summary["encoder"] == "SwAV"].set_index(["mode", "output"])["to_reference"]
    aucs = summary.set_index(["encoder", "mode", "output"])["auc"]
    for (mode, output), difference in differences.items():
        assert difference == pytest.approx(aucs["SwAV", mode, output] - aucs["scratch", mode, output])

    assert not (out / "opened.json").exists()
    assert list(out.rglob("test*")) == []
    page = Elements(files[0])
    assert "The test split is closed." in page.text
    alts = [picture["alt"] or "" for picture in page.pictures()]
    assert sum(alt.startswith("Relative change of the probability") for alt in alts) == len(MODES)
    assert sum(alt.startswith("Validation AUC over epochs") for alt in alts) == 2  # of those that train over epochs
    assert set(pd.read_csv(out / "robustness.csv")["mode"]) == set(MODES)
    assert set(pd.read_csv(out / "convergence.csv")["mode"]) == {"last", "frozen"}


@pytest.mark.slow
def test_metastasis_is_compared(brain_store: Path, brain_cohort: Path, brain_run: Path, tmp_path: Path) -> None:
    files = compare(
        "metastasis",
        store=brain_store,
        labels=brain_cohort / "labels.csv",
        encoders=["scratch"],
        out=tmp_path,
        fractions=[1.0],
        seeds=1,
        cases=2,
        draws=1,
        workers=1,
        words=[*BRAIN_WORDS, *BRAIN_SIZE, f"suspects_path={brain_run}"],
    )
    results, summary = pd.read_parquet(tmp_path / "results.parquet"), pd.read_csv(tmp_path / "summary.csv")
    assert rows_of(results) == rows_of(summary) == all_of([("scratch", "full")], ("metastasis", "slices"))
    answers = pd.read_parquet(tmp_path / "runs" / "scratch-full-1-0" / "test.parquet")
    assert (results[results["output"] == "metastasis"]["n"] == len(answers)).all()
    assert (results[results["output"] == "slices"]["n"] > len(answers)).all()
    page = Elements(files[0])
    assert "The test split was opened once in this folder, when the job was done." in page.text
    told = [(picture["alt"] or "").split(",")[0] for picture in page.pictures()]
    assert [alt for alt in told if not alt.startswith("Axial slice")] == ["Relative change of the probability"]
    assert "Axial slice 1 from below" in told  # of the worked examples
