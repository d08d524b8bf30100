"""A comparison: its jobs are fair, go on where they were stopped, and do not depend on how many run at once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.pages import Elements
from volssl.bundle.compare import compare, equal_lines, note_opening, notes
from volssl.bundle.compare_jobs import Basis, Job, plan_jobs, read_arms, read_basis
from volssl.bundle.compare_runner import run_all, train_all
from volssl.bundle.config import split_word
from volssl.data import Store, prepare
from volssl.data.keys import study_alias
from volssl.encoders import build_encoder, save_encoder
from volssl.errors import UsageError, UserError
from volssl.simulate.cohort import simulate_cohort
from volssl.tasks import Hemorrhage
from volssl.tasks.hemorrhage import TYPES

GRID = (24, 28, 10)
DRAWN = "Patients are drawn anew for each repeat."
WORDS = (f"task::grid={list(GRID)}", "batch_size=4", "max_epochs=3")


@dataclass(frozen=True)
class Cohort:
    """Forty simulated patients of one study: 20 to train, 10 to validate, 10 to test; and two encoders."""

    store: Path
    labels: Path
    swav: Path
    seen: Path

    def basis(self, *encoders: object, words: tuple[str, ...] = WORDS) -> tuple[list[str], Basis]:
        names = [str(encoder) for encoder in encoders]
        return names, read_basis("hemorrhage", store=self.store, labels=self.labels, arms=read_arms(names), words=words)

    def hybrid(self, out: Path, basis: Basis, fraction: float) -> Path:
        """An encoder that learnt from the labels of a share of the first draw."""
        out.mkdir(exist_ok=True)
        labelled = basis.training_rows(fraction, 0)["patient"].to_pylist()
        encoder, contract = build_encoder("PaperDenseNet", in_channels=1), Hemorrhage(grid=GRID).contract
        file = out / "encoder.pt"
        save_encoder(file, encoder, contract=contract, patients=labelled, labelled=labelled, method="Combined")
        return file


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    root = tmp_path_factory.mktemp("comparison")
    simulate_cohort(root / "cohort", 60, spacing_mm=4.1, slice_mm=8.2, workers=1)
    table = pd.read_csv(root / "cohort" / "labels.csv", dtype=str).drop_duplicates("patient")
    mixed = table.sort_values("hemorrhage").head(40)
    patients = pd.read_csv(root / "cohort" / "patients.csv", dtype=str)
    sides = dict(zip(mixed["patient"], ["train", "train", "validation", "test"] * 10, strict=False))
    patients.assign(split=patients["patient"].map(sides).fillna("train")).to_csv(
        root / "cohort" / "patients.csv", index=False
    )
    mixed.to_csv(root / "labels.csv", index=False)
    prepare([root / "cohort"], root / "store", workers=0)
    rows = Store.open(root / "store").columns("patient", "split").to_pandas()
    task = Hemorrhage(grid=GRID)
    for name, splits in (("swav", ["train"]), ("seen", ["train", "test"])):
        torch.manual_seed(1)
        (root / name).mkdir()
        save_encoder(
            root / name / "encoder.pt",
            build_encoder("PaperDenseNet", settings={}, in_channels=1),
            contract=task.contract,
            patients=sorted(set(rows.loc[rows["split"].isin(splits), "patient"])),
            method="SwAV",
        )
    return Cohort(root / "store", root / "labels.csv", root / "swav", root / "seen")


def planned(cohort: Cohort, out: Path, *, fractions: tuple[float, ...] = (0.25, 1.0), repeats: int = 2) -> list[Job]:
    names, basis = cohort.basis("scratch", cohort.swav)
    return plan_jobs(basis, read_arms(names), modes=["full"], fractions=fractions, repeats=repeats, out=out)


def value(job: Job, key: str) -> str:
    return next(word.partition("=")[2] for word in job.settings["words"] if split_word(word)[0] == key)


def test_every_share_of_labels_has_the_same_steps_validations_and_warm_up(cohort: Cohort, tmp_path: Path) -> None:
    jobs = planned(cohort, tmp_path)
    assert {(job.fraction, job.studies) for job in jobs} == {(1.0, 20), (0.25, 5)}
    # 20 studies are 5 steps an epoch, in 3 epochs 15; 5 studies are 1 step: 15 epochs, validated after every fifth.
    for job in jobs:
        per_epoch = job.studies // 4
        assert job.epochs * per_epoch == 15
        assert job.every * per_epoch == 5
        assert float(value(job, "train::trainer::schedule::warmup_epochs")) * per_epoch == 5
        assert value(job, "max_epochs") == str(job.epochs)


def test_encoders_share_seed_patients_and_words_and_differ_in_weights_alone(cohort: Cohort, tmp_path: Path) -> None:
    jobs = planned(cohort, tmp_path)
    assert len({job.folder for job in jobs}) == len(jobs) == 8
    for job in jobs:
        twin = next(o for o in jobs if o.arm != job.arm and (o.fraction, o.repeat) == (job.fraction, job.repeat))
        assert job.settings["words"] == twin.settings["words"]
        assert job.settings["encoder"] != twin.settings["encoder"]
        assert "network=PaperDenseNet" in job.settings["words"]
        assert value(job, "seed") == value(job, "train::dataset::draw") == str(job.repeat)


def test_an_encoder_that_saw_a_test_patient_is_refused_before_anything_is_trained(cohort: Cohort) -> None:
    with pytest.raises(UserError, match="10 patients of validation and test were seen in training"):
        cohort.basis("scratch", cohort.seen)


def test_an_encoder_that_learnt_from_labels_which_a_job_does_not_have_is_refused(
    cohort: Cohort, tmp_path: Path
) -> None:
    basis = cohort.basis("scratch")[1]

    def told(drawn: float, fractions: tuple[float, ...], repeats: int) -> None:
        names = ["scratch", f"HYBRID={cohort.hybrid(tmp_path / str(drawn), basis, drawn)}"]
        plan_jobs(basis, read_arms(names), modes=["full"], fractions=fractions, repeats=repeats, out=tmp_path)

    told(0.25, (0.25, 1.0), 1)  # the share of its first draw, and all, in which it lies
    told(1.0, (1.0,), 3)
    with pytest.raises(UserError, match=r"HYBRID, 25 % of labels, repeat 2: .* pretrained with fraction=0.25 draw=1,"):
        told(0.25, (0.25, 1.0), 2)
    with pytest.raises(UserError, match="HYBRID, 25 % of labels, repeat 1: the encoder learnt from labels of 15 "):
        told(1.0, (0.25, 1.0), 1)


def test_encoders_of_two_architectures_are_no_equal_comparison(cohort: Cohort, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    encoder = build_encoder("DenseNet121", settings={}, in_channels=1)
    save_encoder(other / "encoder.pt", encoder, contract=Hemorrhage(grid=GRID).contract, patients=[], method="SwAV")
    with pytest.raises(UserError, match="different architectures"):
        cohort.basis("scratch", cohort.swav, other)


@pytest.mark.parametrize("word", ["seed=3", "fraction=0.5", "patience=4", "mode=frozen"])
def test_what_the_comparison_sets_itself_cannot_be_overridden(cohort: Cohort, word: str) -> None:
    with pytest.raises(UsageError, match="for all alike"):
        cohort.basis("scratch", words=(*WORDS, word))


def test_labels_that_do_not_fill_a_batch_are_named_with_their_share(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="10 % of labels, repeat 1: 2 studies are fewer than one batch of 4"):
        planned(cohort, tmp_path, fractions=(0.1, 1.0))
    with pytest.raises(UserError, match="above 0 and at most 1"):
        planned(cohort, tmp_path, fractions=(10.0,))


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ((0.25, 1.0), f", and those of 25 % lie among those of every larger share. {DRAWN}"),
        ((0.25,), f". {DRAWN}"),
        ((1.0,), "."),
    ],
    ids=["two shares", "a share", "all labels"],
)
def test_the_page_says_of_the_labels_what_holds_for_its_shares(
    cohort: Cohort, tmp_path: Path, fractions: tuple[float, ...], said: str
) -> None:
    jobs = planned(cohort, tmp_path, fractions=fractions)
    lines = equal_lines(cohort.basis("scratch")[1], jobs, split="test", words=WORDS, cases=4, draws=0)
    assert f"Labels: in each repeat all encoders learn from the same patients{said}" in lines


def test_two_encoders_of_one_name_need_names(cohort: Cohort) -> None:
    with pytest.raises(UserError, match="NAME=RUN"):
        read_arms([str(cohort.swav), str(cohort.swav)])
    assert [arm.name for arm in read_arms(["scratch", f"a={cohort.swav}", f"b={cohort.swav}"])] == ["scratch", "a", "b"]
    with pytest.raises(UserError, match="no encoder there"):
        read_arms(["scratch", "nowhere"])


def test_a_changed_setting_is_refused_and_named(cohort: Cohort, tmp_path: Path) -> None:
    job = planned(cohort, tmp_path)[0]
    job.begin()
    job.begin()
    (job.folder / "checkpoints").mkdir()
    with pytest.raises(UserError, match="was made with studies 20, now 21"):
        changed(job).begin()


def changed(job: Job) -> Job:
    """The job with another setting."""
    return replace(job, settings={**job.settings, "studies": 21})


@pytest.mark.parametrize("left", ["suspects", "model.pt", "done.json"])
def test_a_folder_in_which_nothing_was_trained_takes_other_settings(cohort: Cohort, tmp_path: Path, left: str) -> None:
    job = planned(cohort, tmp_path)[0]
    job.begin()
    (job.folder / "job.log").write_text("error: labels are all of one class\n")
    (job.folder / "config.yaml").write_text("max_epochs: 3\n")
    job.begin()
    assert (job.folder / "config.yaml").exists()  # the same settings go on with it
    changed(job).begin()
    assert json.loads((job.folder / "settings.json").read_text())["studies"] == 21
    assert not (job.folder / "config.yaml").exists()
    (job.folder / left).mkdir()
    with pytest.raises(UserError, match="was made with studies 21, now 20"):
        job.begin()


def test_validation_of_one_class_and_blank_rows_are_told_before_any_job_begins(cohort: Cohort, tmp_path: Path) -> None:
    table = pd.read_csv(cohort.labels, dtype=str, keep_default_na=False)
    store = Store.open(cohort.store)
    rows = store.columns("aliases", "split").to_pylist()
    sides = {alias: row["split"] for row in rows for alias in row["aliases"]}
    side = table["study"].map(lambda name: sides[study_alias(store.key, name)])
    types = [name for name in TYPES if name in table]
    one = table.drop(columns="slices")
    one.loc[side == "validation", ["hemorrhage", *types]] = "0"
    one.to_csv(tmp_path / "labels.csv", index=False)
    given = {"store": cohort.store, "labels": tmp_path / "labels.csv", "encoders": ["scratch"], "words": WORDS}
    with pytest.raises(UserError, match="the 10 labelled validation studies are all of one class in hemorrhage"):
        compare("hemorrhage", out=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    # Of the 20 training studies 12 lose all that is known of them: what counts, and what a batch is filled with, is 8.
    blank = table.copy()
    lost = blank.index[side == "train"][np.arange(20) % 5 >= 2]
    blank.loc[lost, ["hemorrhage", *types, "slices"]] = ""
    blank.to_csv(tmp_path / "labels.csv", index=False)
    arms = read_arms(["scratch"])
    basis = read_basis("hemorrhage", store=cohort.store, labels=tmp_path / "labels.csv", arms=arms, words=WORDS)
    assert basis.training(1.0, 0) == (8, 8)
    assert len(basis.training_rows(0.5, 1)) == 4
    assert len(basis.table) == 40


def test_a_failing_job_is_named_and_the_others_go_on(cohort: Cohort, tmp_path: Path) -> None:
    jobs = planned(cohort, tmp_path, repeats=1)[:2]
    for job in jobs:
        job.begin()
    said = "no such part"
    with pytest.raises(UserError, match=rf"2 of 2 jobs failed.*{jobs[0].arm.name}|{jobs[1].arm.name}.*KeyError"):
        run_all([(job, {"part": said}) for job in jobs], "training", workers=2)
    assert [said in (job.folder / "job.log").read_text() for job in jobs] == [True, True]


def test_what_is_done_is_not_done_again(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = planned(cohort, tmp_path, repeats=1)
    for job in jobs:
        job.begin()
        (job.folder / "done.json").write_text("{}")
    train_all(jobs, {}, workers=1)  # would fail: it has nothing to train with
    assert "4 of 4 jobs are done already" in capsys.readouterr().err


def test_each_opening_of_the_test_split_for_new_jobs_is_kept(cohort: Cohort, tmp_path: Path) -> None:
    jobs = planned(cohort, tmp_path)
    for some in (jobs[:3], jobs[:3], jobs):
        note_opening(tmp_path, some)
    assert [len(names) for names in json.loads((tmp_path / "opened.json").read_text())] == [3, 8]
    assert "was opened twice in this folder: jobs were added or changed" in notes(jobs, tmp_path, split="test")[0]
    note_opening(tmp_path, [changed(jobs[0]), *jobs[1:]])  # deleted, and made anew by another recipe
    assert "was opened 3 times in this folder" in notes(jobs, tmp_path, split="test")[0]


def test_a_folder_whose_openings_have_names_alone_goes_on(cohort: Cohort, tmp_path: Path) -> None:
    jobs = planned(cohort, tmp_path)
    before = [sorted(job.folder.name for job in jobs)]
    (tmp_path / "opened.json").write_text(json.dumps(before))
    note_opening(tmp_path, jobs)
    assert json.loads((tmp_path / "opened.json").read_text()) == before


COMMON = {"fractions": (0.5, 1.0), "seeds": 2, "cases": 4, "draws": 2, "words": WORDS}


@pytest.mark.slow
def test_a_comparison_that_was_killed_gives_the_figures_of_one_that_was_not(cohort: Cohort, tmp_path: Path) -> None:
    encoders, whole, killed = ["scratch", f"SwAV={cohort.swav}"], tmp_path / "whole", tmp_path / "killed"
    files = compare(
        "hemorrhage", store=cohort.store, labels=cohort.labels, encoders=encoders, out=whole, workers=1, **COMMON
    )
    options = ["--store", cohort.store, "--labels", cohort.labels, "--out", killed, "--seeds", "2"]
    options += ["--cases", "4", "--draws", "2", "--encoders", *encoders, "--fractions", "0.5", "1"]
    command = [sys.executable, "-m", "volssl.cli", "compare", "hemorrhage", *map(str, options), *WORDS]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(killed.glob("runs/*/checkpoints/*")):
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)  # the parent alone: its workers must notice
    process.wait()
    assert not (killed / "results.parquet").exists()
    deadline = time.monotonic() + 30
    while workers_of(killed) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers_of(killed) == []
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    one, two = pd.read_csv(whole / "results.csv"), pd.read_csv(killed / "results.csv")
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"))
    assert (whole / "summary.csv").read_text() == (killed / "summary.csv").read_text()
    assert (whole / "robustness.csv").read_text() == (killed / "robustness.csv").read_text()
    assert set(one["encoder"]) == {"scratch", "SwAV", "intensity rule"}
    assert len(one[one["output"] == "hemorrhage"]) == 2 * 2 * 3
    page = Elements(files[0]).text
    assert "The test split was opened once in this folder, when all 8 jobs were done." in page
    assert re.search("Of “(scratch|SwAV), 100 % of labels, repeat [12]”", page)
    assert "Highest true · score" in page


def workers_of(out: Path) -> list[int]:
    """Processes that have a log of this comparison open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        if int(folder.parent.name) == os.getpid():
            continue
        try:
            links = [os.readlink(file) for file in folder.iterdir()]
        except OSError:  # gone by now, or of another user
            continue
        if any(link.startswith(str(out)) for link in links):
            found.append(int(folder.parent.name))
    return found
