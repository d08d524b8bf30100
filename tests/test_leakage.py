"""Nothing of validation or test reaches training: a planted patient, a label in a name, a patient an encoder has seen.

What each test plants would let a network look better than it is; each is refused, or shown to be without effect.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.data.sources import block, write_nifti
from volssl.bundle import earlier
from volssl.bundle.compare_jobs import Arm, read_basis
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.workflow import finetune
from volssl.data import Store, TrainingScans, join_labels, prepare
from volssl.data.split_store import split_store
from volssl.encoders import build_encoder
from volssl.encoders.file import read_encoder_file, save_encoder
from volssl.errors import UserError
from volssl.seen import Seen
from volssl.tasks import Classification, TaskViews
from volssl.tensors import load_tensors

WORDS = ("max_epochs=1", "batch_size=4", "task::grid=[16, 16, 8]", "task::spacing_mm=[12.0, 12.0, 24.0]")


def sources(folder: Path, rows: list[tuple[str, str, str]], names: Callable[[int], str] = "S{:02d}".format) -> Path:
    """A folder of volumes with a patient table: (study, patient, split) a row; equal studies are one file."""
    for number, study in enumerate(dict.fromkeys(study for study, _, _ in rows)):
        write_nifti(folder / f"{study}.nii.gz", block(number))
    with (folder / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("study", "patient", "split"), *rows])
    return folder


def test_a_patient_whom_a_table_puts_on_two_sides_is_refused(tmp_path: Path) -> None:
    folder = sources(tmp_path / "in", [("S0", "Ann", "train"), ("S1", "Ann", "test"), ("S2", "Bob", "train")])
    with pytest.raises(UserError, match="puts the patient 'Ann' on two sides of the split"):
        prepare([folder], tmp_path / "store", workers=0)


def test_a_later_study_of_a_patient_joins_the_side_that_the_patient_has(tmp_path: Path) -> None:
    prepare([sources(tmp_path / "one", [("S0", "Ann", "test"), ("S1", "Bob", "train")])], tmp_path / "store", workers=0)
    folder = tmp_path / "two"
    for number in range(6):
        write_nifti(folder / f"T{number}.nii.gz", block(10 + number))
    lines = [f"T{number},{'Ann' if number % 2 else 'Bob'}" for number in range(6)]
    (folder / "patients.csv").write_text("\n".join(["study,patient", *lines]) + "\n")
    prepare([folder], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").columns("patient", "split").to_pandas()
    assert rows.groupby("patient")["split"].agg(["nunique", "count"]).to_numpy().tolist() == [[1, 4], [1, 4]]


def test_one_person_under_two_names_whom_the_label_table_calls_by_one_is_refused(tmp_path: Path) -> None:
    prepare([sources(tmp_path / "in", [("S0", "Ann", "train"), ("S1", "A. Smith", "test")])], tmp_path / "s", workers=0)
    (tmp_path / "labels.csv").write_text("study,patient,t\nS0,Ann Smith,1\nS1,Ann Smith,0\n")
    with pytest.raises(UserError, match="'Ann Smith' has studies in test and train"):
        join_labels(Store.open(tmp_path / "s"), tmp_path / "labels.csv", ["t"])


def test_a_copy_of_a_test_scan_under_another_name_is_not_trained_on(tmp_path: Path) -> None:
    """The planted copy is the same volume: it enters the store once, for the patient whom it was first."""
    rows = [("S0", "Ann", "test"), ("S1", "Bob", "train")]
    folder = sources(tmp_path / "in", rows)
    shutil.copy(folder / "S0.nii.gz", folder / "T9.nii.gz")
    with (folder / "patients.csv").open("a") as file:
        file.write("T9,Eve,train\n")
    summary = prepare([folder], tmp_path / "store", workers=0)
    assert "1 rejected (1 duplicate)" in str(summary)
    opened = Store.open(tmp_path / "store")
    views = TaskViews(Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(8, 8, 4)))
    trained = TrainingScans(tmp_path / "store", views=views).ids
    assert len(trained) == 1
    assert (opened.read(trained[0])[0] == block(1)).all()


def test_a_label_in_the_name_of_a_study_reaches_neither_store_nor_network(tmp_path: Path) -> None:
    """Two archives of the same voxels, of which one gives the label away in folder and file names."""
    silent, telling = tmp_path / "silent", tmp_path / "telling"
    for number in range(4):
        label = "positive_bleed" if number % 2 else "negative_clean"
        write_nifti(silent / f"S{number}.nii.gz", block(number))
        image = nib.load(silent / f"S{number}.nii.gz")
        image.header["descrip"] = label.encode()
        (telling / label).mkdir(parents=True, exist_ok=True)
        nib.save(image, telling / label / f"{label}_{number}.nii.gz")
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    stores = [tmp_path / "store_silent", tmp_path / "store_telling"]
    for folder, store in zip((silent, telling), stores, strict=True):
        prepare([folder], store, workers=0, key=tmp_path / "key")
    for path in stores[1].rglob("*"):  # nothing that a network could read says it
        if path.is_file() and path.name not in ("paths.csv", "private.key"):
            assert not any(word in path.read_bytes() for word in (b"bleed", b"clean", b"positive", b"negative"))
            assert "bleed" not in path.name
    told = b"".join(str(pq.read_table(store / "manifest.parquet").to_pylist()).encode() for store in stores)
    assert b"bleed" not in told
    views = TaskViews(Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(8, 8, 4)))
    seen = []
    for store in stores:
        opened = Store.open(store)
        images = [views(opened.scan(i), np.random.RandomState(0)) for i in opened.columns("id")["id"].to_pylist()]
        assert all(set(image) == {"image"} for image in images)
        seen.append(sorted(image["image"].numpy().tobytes() for image in images))
    assert seen[0] == seen[1]  # bit for bit: the name is no input


def seen_by(path: Path, patients: Iterable[str], task: Classification, keys: Iterable[str] = ("",)) -> Path:
    """An encoder.pt that says it was trained on these patients, whose hashes are of these keys."""
    encoder = build_encoder(in_channels=1)
    save_encoder(path, encoder, contract=task.contract, patients=patients, keys=keys, method="swav")
    return path


@pytest.mark.parametrize("one_key", [True, False])
def test_a_patient_of_two_stores_is_refused_by_one_key_and_by_two_a_line_says_that_nobody_can_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_key: bool
) -> None:
    """Ann is pretrained on in the store of an archive, and is a test patient of the store with labels."""
    archive, labelled = tmp_path / "archive", tmp_path / "labelled"
    prepare([sources(tmp_path / "one", [("S0", "Ann", "train"), ("S1", "Bob", "train")])], archive, workers=0)
    folder = sources(tmp_path / "two", [("S0", "Ann", "test"), ("S1", "Bob", "train"), ("S2", "Cy", "validation")])
    prepare([folder], labelled, workers=0, key=archive / "private.key" if one_key else None)
    task = Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(16, 16, 8))
    seen = Seen.of(TrainingScans(archive, views=TaskViews(task)))
    file = seen_by(tmp_path / "encoder.pt", seen.patients, task, seen.keys)
    assert bytes.fromhex((archive / "private.key").read_text()) not in file.read_bytes()
    assert (archive / "private.key").read_text().strip().encode() not in file.read_bytes()
    (tmp_path / "labels.csv").write_text("study,t\nS0,1\nS1,0\nS2,1\n")
    opened = Store.open(labelled)
    table = join_labels(opened, tmp_path / "labels.csv", ["t"])
    train = TrainingScans(labelled, views=TaskViews(task, table), labels=table)
    capsys.readouterr()
    if one_key:
        with pytest.raises(UserError, match="1 patients of validation and test were seen in training"):
            earlier.refuse(file, opened, table, train=train, seen=read_encoder_file(file).seen)
    else:
        earlier.refuse(file, opened, table, train=train, seen=read_encoder_file(file).seen)
    line = (
        f"cannot tell whether patients of {labelled} were seen by encoder {file}: the store was prepared with another"
    )
    assert capsys.readouterr().err.count(line) == (0 if one_key else 1)


def test_a_comparison_says_once_of_each_encoder_that_it_cannot_be_compared(
    store: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(16, 16, 8), spacing_mm=(12.0, 12.0, 24.0))
    own = Store.open(store).key_check
    given = {"mine": [own], "theirs": [own, "f" * 24], "old": [""]}
    arms = [Arm(name, seen_by(tmp_path / f"{name}.pt", ["a" * 24], task, keys)) for name, keys in given.items()]
    given_words = {"labels": cohort / "labels.csv", "words": WORDS, "target": "hemorrhage"}
    read_basis("classification", store=store, arms=[Arm("scratch"), *arms], **given_words)  # type: ignore[arg-type]
    told = [line for line in capsys.readouterr().err.splitlines() if "cannot tell" in line]
    start = f"cannot tell whether patients of {store} were seen by encoder {tmp_path}"
    assert [line.split(". ")[0] for line in told] == [
        f"{start}/theirs.pt: the store was prepared with another key",
        f"{start}/old.pt: not all of these are named, or not by which key",
    ]


@pytest.mark.parametrize("side", ["validation", "test"])
def test_fine_tuning_with_an_encoder_that_saw_a_held_out_patient_is_refused(
    store: Path, cohort: Path, tmp_path: Path, side: str
) -> None:
    rows = Store.open(store).columns("patient", "split").to_pandas()
    planted = rows.loc[rows["split"] == side, "patient"].iloc[0]
    task = Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(16, 16, 8), spacing_mm=(12.0, 12.0, 24.0))
    encoder = seen_by(tmp_path / "encoder.pt", [planted], task)
    given = {"store": store, "labels": cohort / "labels.csv", "encoder": encoder}
    with pytest.raises(UserError, match=r"1 patients? of validation and test w.* seen in training"):
        finetune("classification", target="hemorrhage", out=tmp_path / "run", words=WORDS, **given)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "model.pt").exists()


def test_whom_the_encoder_saw_is_handed_on_and_refused_by_evaluation(store: Path, cohort: Path, tmp_path: Path) -> None:
    """Pretraining saw a patient of training; the split is drawn anew, and the patient is now of the test."""
    own = shutil.copytree(store, tmp_path / "store")
    rows = Store.open(own).columns("patient", "split").to_pandas()
    stranger = rows.loc[rows["split"] == "train", "patient"].iloc[0]
    task = Classification(columns=["t"], classes={"t": ["0", "1"]}, grid=(16, 16, 8), spacing_mm=(12.0, 12.0, 24.0))
    encoder = seen_by(tmp_path / "encoder.pt", [stranger, "someone of another store"], task, ["f" * 24])
    labels, run = cohort / "labels.csv", tmp_path / "run"
    finetune("classification", target="hemorrhage", store=own, labels=labels, out=run, encoder=encoder, words=WORDS)
    handed = set(load_tensors(run / "model.pt")["patients"])
    trained = set(rows.loc[rows["split"] == "train", "patient"])
    assert handed == trained | {"someone of another store"}
    assert read_encoder_file(run).patients == handed  # and on to whoever goes on from this run
    assert load_tensors(run / "model.pt")["keys"] == sorted(["f" * 24, Store.open(own).key_check])
    assert read_encoder_file(run).seen.keys == {"f" * 24, Store.open(own).key_check}
    table = pd.read_csv(cohort / "patients.csv")
    names = dict(zip(table["patient"], table["split"], strict=True))
    moved = next(name for name, side in names.items() if side == "train")
    table["split"] = [
        "test" if name == moved else side for name, side in zip(table["patient"], table["split"], strict=True)
    ]
    table.to_csv(tmp_path / "moved.csv", index=False)
    split_store(own, patients=tmp_path / "moved.csv")
    with pytest.raises(UserError, match="seen in training"):
        evaluate_run(run, store=own, labels=labels, split="test", out=tmp_path / "test")
    assert not (tmp_path / "test" / "metrics.json").exists()
