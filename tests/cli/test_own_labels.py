"""`volssl pretrain --target`: MR and the user's own columns probe an encoder, are mixed in, and are counted."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.cli.test_errors import Command, error_of
from tests.data.sources import KEY, write_nifti
from tests.tiny import CROPS, TINY
from volssl.bundle.config import read_config
from volssl.data import Store, prepare
from volssl.data.keys import study_alias
from volssl.encoders.file import read_encoder_file

WORDS = ["modality=MR", *TINY, *CROPS, "near_duplicates=true"]
SPLITS = ["train"] * 10 + ["validation"] * 4 + ["test"] * 2


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of sixteen made MR, a patient each, and labels of all but one: a yes or no, and three grades."""
    folder = tmp_path_factory.mktemp("brains")
    names = [f"brain{i:02d}" for i in range(16)]
    for i, name in enumerate(names):
        noise = np.random.RandomState(i).gamma(2.0, 100.0, (28, 32, 12)).astype(np.float32)
        write_nifti(folder / "mr" / f"{name}.nii.gz", noise, np.diag([6.0, 6.0, 12.0, 1.0]))
    patients = pd.DataFrame({"study": names, "patient": [f"P{name}" for name in names], "split": SPLITS})
    patients.to_csv(folder / "patients.csv", index=False)
    (folder / "key").write_text(KEY)  # which patients a share is made of hangs on it, and which grades they have
    given = {"modality": "MR", "patients": folder / "patients.csv", "key": folder / "key", "workers": 0}
    prepare([folder / "mr"], folder / "store", **given)
    grades = [("none", "mild", "severe")[i % 3] for i in range(16)]
    labels = pd.DataFrame({"study": names, "lesion": [i % 2 for i in range(16)], "grade": grades})
    labels.iloc[1:].to_csv(folder / "labels.csv", index=False)
    return folder / "store", folder / "labels.csv"


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a run's log that have a figure."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if name in row]


def share(store: Path, count: int, *, draw: int) -> set[str]:
    """The first patients of a draw among those of training who have a label: nine of the ten."""
    opened = Store.open(store)
    named = {study_alias(opened.key, f"brain{i:02d}") for i in range(1, 10)}
    known = [row["patient"] for row in opened.rows.to_pylist() if named & set(row["aliases"])]
    assert len(known) == 9
    salt = f"fraction {draw}" if draw else "fraction"
    return set(sorted(known, key=lambda one: hashlib.sha256(f"{salt}:{one}".encode()).digest())[:count])


def test_an_encoder_of_mr_is_probed_by_a_column_of_ones_own(
    volssl_command: Command, brains: tuple[Path, Path], tmp_path: Path
) -> None:
    store, labels = brains
    run = tmp_path / "run"
    given = ["--store", store, "--labels", labels, "--target", "lesion", "--out", run]
    answer = volssl_command("pretrain", "restoration", *given, *WORDS)
    assert answer.code == 0, answer.lines
    assert any(line.startswith("lesion: 0 7, 1 8") for line in answer.lines)
    assert any("next: volssl finetune classification --target lesion" in line for line in answer.lines)
    first, last = rows_of(run, "probe_linear_auc")
    assert (first["step"], first["probe_scans"], first["probe_validation_scans"]) == (0, 9, 4)
    assert 0 <= last["probe_linear_auc"] <= 1
    task = read_config(run / "config.yaml")["task"]
    assert (task["columns"], task["modality"]) == (["lesion"], "MR")
    file = read_encoder_file(run)
    assert file.labelled == set()
    assert len(file.patients) == 10


def test_a_column_of_ones_own_is_mixed_in_and_its_patients_bind_whoever_goes_on(
    volssl_command: Command, brains: tuple[Path, Path], tmp_path: Path
) -> None:
    store, labels = brains
    run, given = tmp_path / "hybrid", ["--store", store, "--labels", labels, "--target", "grade"]
    words = [*WORDS, "fraction=0.4", "draw=1", "method::parts::swav::prototypes=6"]
    answer = volssl_command("pretrain", "hybrid", *given, "--out", run, *words)
    assert answer.code == 0, answer.lines
    assert any(line.startswith("learnt as multi-class (grade)") for line in answer.lines)
    losses = [row["supervised_loss"] for row in rows_of(run, "supervised_loss")]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    drawn = share(store, 4, draw=1)  # of 9 labelled training patients 40 % are 4
    assert drawn != share(store, 4, draw=0)
    file = read_encoder_file(run)
    assert file.labelled == drawn
    assert file.contract is not None
    assert file.contract.modality == "MR"

    onward = ["--store", store, "--encoder", run, "--out", tmp_path / "onward"]
    assert volssl_command("pretrain", "restoration", *onward, *WORDS).code == 0
    assert read_encoder_file(tmp_path / "onward").labelled == drawn

    words = ["max_epochs=1", "batch_size=2"]
    tuned = ["finetune", "classification", *given, "--encoder", tmp_path / "onward", "--fraction", "0.4"]
    more = len(drawn - share(store, 4, draw=0))
    line = error_of(volssl_command(*tuned, "--out", tmp_path / "refused", *words), code=1)
    assert f"share of 0.4: the encoder learnt from labels of {more} patients more" in line
    assert not (tmp_path / "refused").exists()
    answer = volssl_command(*tuned, "--out", tmp_path / "tuned", *words, "train::dataset::draw=1")
    assert answer.code == 0, answer.lines
    assert read_encoder_file(tmp_path / "tuned").labelled == drawn


CASES = [
    (["--labels"], "labels: hemorrhage is read from CT and the encoder is trained on MR; give labels of its MR scans"),
    (["--target", "lesion"], "--target lesion: names columns of a label table; give it with --labels"),
    (["--labels", "--target", "lesoin"], "lesoin"),
    (["--labels", "--target", "lesion", "task::spacing_mm=[1.0, 1.0, 2.0]"], "7.0 mm along R and would be fed 1.0 mm"),
    (["--labels", "--target", "lesion", "modality=CT"], "classification is read from MR and the encoder is trained on"),
]


@pytest.mark.parametrize("method", ["restoration", "hybrid"])
@pytest.mark.parametrize(("options", "told"), CASES, ids=[told[:20] for _, told in CASES])
def test_labels_that_cannot_be_of_use_are_one_line(
    volssl_command: Command,
    brains: tuple[Path, Path],
    cohort: Path,
    store: Path,
    tmp_path: Path,
    method: str,
    options: list[str],
    told: str,
) -> None:
    mine, labels = brains
    where = mine
    if "modality=CT" in options:  # a store of both, pretrained on its CT by labels of its MR
        where = tmp_path / "both"
        prepare([cohort], where, workers=0)
        prepare([mine.parent / "mr"], where, modality="MR", workers=0, patients=mine.parent / "patients.csv")
    elif options == ["--labels"]:
        labels = cohort / "labels.csv"
    words = [word for option in options for word in ([option, labels] if option == "--labels" else [option])]
    answer = volssl_command("pretrain", method, "--store", where, "--out", tmp_path / "run", *WORDS, *words)
    assert told in error_of(answer, code=2 if "--labels" not in options else 1)
    assert not (tmp_path / "run").exists()
