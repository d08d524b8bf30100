"""A label table that cannot be learnt from is one clear line at the command line, with exit code 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.test_errors import Command, error_of
from tests.tiny import split_cohort
from volssl.data import Store, prepare
from volssl.data.keys import study_alias
from volssl.simulate.studies import write_nifti

WORDS = ["max_epochs=1", "batch_size=4", "task::grid=[16, 16, 8]", "task::spacing_mm=[12.0, 12.0, 24.0]"]
OF_HEADS = ("store", "cohort")
HEAD_WORDS = [*WORDS[:3], "task::slices=false", "task::types=false"]


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sixteen MR volumes of noise, half of them with a mask, and their store; a wrong label table needs no brains."""
    root = tmp_path_factory.mktemp("brains")
    cohort, affine = root / "cohort", np.diag([10.0, 10.0, 12.0, 1.0])
    (cohort / "volumes").mkdir(parents=True)
    (cohort / "masks").mkdir()
    mask = np.zeros((16, 16, 8), np.uint8)
    mask[8, 8, 4] = 1
    rows = []
    for number in range(16):
        study, signal = f"B-{number:02d}", np.random.default_rng(number).integers(1, 900, mask.shape, dtype=np.int16)
        write_nifti(cohort / "volumes" / f"{study}.nii.gz", signal, affine)
        (cohort / "volumes" / f"{study}.json").write_text('{"Modality": "MR"}')
        write_nifti(cohort / "masks" / f"{study}.nii.gz", mask, affine)
        present, name = str(number % 2), f"masks/{study}.nii.gz"
        rows.append([study, f"P{number}", present, "4" * (number % 2), name * (number % 2)])
    table = pd.DataFrame(rows, columns=["study", "patient", "metastasis", "slices", "mask"])
    table.to_csv(cohort / "labels.csv", index=False)
    table[["study", "patient"]].to_csv(cohort / "patients.csv", index=False)
    split_cohort(cohort, train=0.6, validation=0.2)
    prepare([cohort], root / "store", workers=0)
    return root / "store", cohort


def splits(store: Path, table: pd.DataFrame) -> pd.Series:
    """The store's split of each study of a label table."""
    opened = Store.open(store)
    rows = opened.columns("aliases", "split").to_pylist()
    by_alias = {alias: row["split"] for row in rows for alias in row["aliases"]}
    return table["study"].map(lambda name: by_alias[study_alias(opened.key, name)])


def changed(store: Path, cohort: Path, case: str, column: str) -> pd.DataFrame:
    """The cohort's label table, made wrong in one way."""
    table = pd.read_csv(cohort / "labels.csv", dtype=str, keep_default_na=False)
    first = table.iloc[[0]]
    side = splits(store, table)
    if case == "wrong ids":
        table["study"] = "X" + table["study"]
    elif case == "twice alike":
        table = pd.concat([table, first])
    elif case == "twice unlike":
        table = pd.concat([table, first.assign(**{column: str(1 - int(first[column].iloc[0]))})])
    elif case == "text":
        table.loc[2, column] = "yes"
    elif case == "one class":
        table[column] = "0"
    elif case == "one class in training":
        table.loc[side == "train", column] = "1"
    elif case == "no positive in validation":
        table.loc[side == "validation", column] = "0"
    elif case == "nobody in validation":
        table = table[side != "validation"]
    return table


CASES = [
    ("wrong ids", "none of its 16 studies is in the store"),
    ("twice alike", "names the study '{first}' twice, in lines 2 and 18, alike: leave one of them"),
    ("twice unlike", "twice, in lines 2 and 18, and they differ in {column}: leave the right one"),
    ("text", "line 4: {column} holds 'yes', no number; blank is unknown"),
    ("one class", "are all"),
    ("one class in training", "are all"),
    (
        "no positive in validation",
        "the {validation} labelled validation studies are all of one class in {column}; the best epoch",
    ),
    ("nobody in validation", "no labelled {modality} volume of a validation patient"),
]
TASKS = {
    "hemorrhage": (["hemorrhage"], HEAD_WORDS),
    "classification": (["classification", "--target", "hemorrhage"], WORDS),
    "metastasis": (["metastasis"], WORDS),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("case", "said"), CASES, ids=[case for case, _ in CASES])
def test_a_table_that_cannot_be_learnt_from_is_one_line(
    volssl_command: Command, request: pytest.FixtureRequest, tmp_path: Path, task: str, case: str, said: str
) -> None:
    column, modality = ("metastasis", "MR") if task == "metastasis" else ("hemorrhage", "CT")
    store, cohort = request.getfixturevalue("brains") if modality == "MR" else map(request.getfixturevalue, OF_HEADS)
    table = changed(store, cohort, case, column)
    if modality == "CT":  # what is wrong comes before slices, which would contradict the changed labels
        table = table.drop(columns="slices")
    table.to_csv(tmp_path / "labels.csv", index=False)
    (asked, words), run = TASKS[task], tmp_path / "run"
    given = ["--store", store, "--labels", tmp_path / "labels.csv", "--out", run]
    error = error_of(volssl_command("finetune", *asked, *given, *words), code=1)
    validation = 0 if case == "wrong ids" else int((splits(store, table) == "validation").sum())
    told = {"first": table["study"].iloc[0], "column": column, "validation": validation, "modality": modality}
    assert said.format(**told) in error
    assert not run.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["classification"], 2, "--target '': name label columns"),
        (["hemorrhage", "--target", "subdural"], 2, "hemorrhage knows its columns"),
        (["classification", "--target", "haemorrhage"], 1, "has no column 'haemorrhage': is 'hemorrhage' meant"),
        (["classification", "--target", "age", "task::kind=ordinal"], 1, "a measure and no classes"),
        (["classification", "--target", "sex", "task::kind=ordinal"], 1, "order cannot be told: say it, from low"),
        (["classification", "--target", "hemorrhage", "task::level=slices"], 1, "unknown; choose volume, slice"),
    ],
)  # fmt: skip
def test_a_target_that_does_not_fit_is_one_line(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str, keep_default_na=False)
    table["age"] = [str(20 + i + 0.5) for i in range(len(table))]
    table.to_csv(tmp_path / "labels.csv", index=False)
    given = ["--store", store, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "run"]
    assert said in error_of(volssl_command("finetune", *words, *given), code=code)


def test_labels_of_a_public_data_set_are_turned_by_a_command(
    volssl_command: Command, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.csv").write_text("ID,Label\nID_0_any,1\n")
    words = ["labels", "rsna2019", tmp_path / "train.csv", "--out", tmp_path / "labels.csv"]
    assert "give --store" in error_of(volssl_command(*words), code=1)
    assert "none of its 1 images is in the store" in error_of(volssl_command(*words, "--store", store), code=1)
    assert "Invalid value for" in error_of(volssl_command("labels", "rsna", *words[2:]), code=2)
