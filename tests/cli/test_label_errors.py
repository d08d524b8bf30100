"""A label table that cannot be learnt from is one clear line at the command line, with exit code 1."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.cli.test_errors import Command, error_of
from volssl.data import Store
from volssl.data.keys import study_alias

WORDS = ["max_epochs=1", "batch_size=4", "task::grid=[16, 16, 8]", "task::spacing_mm=[12.0, 12.0, 24.0]"]


def splits(store: Path, table: pd.DataFrame) -> pd.Series:
    """The store's split of each study of a label table."""
    opened = Store.open(store)
    rows = opened.columns("aliases", "split").to_pylist()
    by_alias = {alias: row["split"] for row in rows for alias in row["aliases"]}
    return table["study"].map(lambda name: by_alias[study_alias(opened.key, name)])


def changed(store: Path, cohort: Path, case: str) -> pd.DataFrame:
    """The cohort's label table, made wrong in one way."""
    table = pd.read_csv(cohort / "labels.csv", dtype=str, keep_default_na=False)
    first = table.iloc[[0]]
    side = splits(store, table)
    if case == "wrong ids":
        table["study"] = "X" + table["study"]
    elif case == "twice alike":
        table = pd.concat([table, first])
    elif case == "twice unlike":
        table = pd.concat([table, first.assign(hemorrhage=str(1 - int(first["hemorrhage"].iloc[0])))])
    elif case == "text":
        table.loc[2, "hemorrhage"] = "yes"
    elif case == "one class":
        table["hemorrhage"] = "0"
    elif case == "one class in training":
        table.loc[side == "train", "hemorrhage"] = "1"
    elif case == "no positive in validation":
        table.loc[side == "validation", "hemorrhage"] = "0"
    elif case == "nobody in validation":
        table = table[side != "validation"]
    return table


CASES = [
    ("wrong ids", "none of its 16 studies is in the store"),
    ("twice alike", "names the study 'A05-00001' twice, in lines 2 and 18, alike: leave one of them"),
    ("twice unlike", "twice, in lines 2 and 18, and they differ in hemorrhage: leave the right one"),
    ("text", "line 4: hemorrhage holds 'yes', no number; blank is unknown"),
    ("one class", "are all"),
    ("one class in training", "are all"),
    (
        "no positive in validation",
        "the 2 labelled validation studies are all of one class in hemorrhage; the best epoch",
    ),
    ("nobody in validation", "no labelled CT volume of a validation patient"),
]


@pytest.mark.parametrize(
    "task", [["hemorrhage"], ["classification", "--target", "hemorrhage"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize(("case", "said"), CASES, ids=[case for case, _ in CASES])
def test_a_table_that_cannot_be_learnt_from_is_one_line(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path, task: list[str], case: str, said: str
) -> None:
    # what is wrong comes before slices, which would contradict the changed labels
    changed(store, cohort, case).drop(columns="slices").to_csv(tmp_path / "labels.csv", index=False)
    words = [*WORDS[:3], "task::slices=false", "task::types=false"] if task == ["hemorrhage"] else WORDS
    run = tmp_path / "run"
    given = ["--store", store, "--labels", tmp_path / "labels.csv", "--out", run]
    assert said in error_of(volssl_command("finetune", *task, *given, *words), code=1)
    assert not (run / "model.pt").exists()


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
