"""What goes wrong is said in one line that names it, with exit code 1; 2 where the command line itself is wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.tiny import CROPS, TINY
from volssl.data import Store

Command = Callable[..., Any]


def error_of(answer: Any, *, code: int) -> str:
    """The one line that a failed command ends with; nothing else looks like an error."""
    assert answer.code == code
    assert answer.out == ""
    assert not any("Traceback" in line for line in answer.lines)
    assert [line for line in answer.lines if line.startswith("error: ")] == answer.lines[-1:]
    return str(answer.lines[-1]).removeprefix("error: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain", "swav", "--stor", "x", "--out", "y"], "No such option: --stor (Possible options: --store)"),
        (["prepar", "x"], "No such command 'prepar'. Did you mean 'prepare'?"),
        (["simulate", "head_ct"], "No such command 'head_ct'. Did you mean 'head-ct'?"),
        (["pretrain", "swav"], "Missing option '--store'"),
        (["prepare", "--store", "x"], "Missing argument 'SOURCE...'"),
        (["simulate", "head-ct", "--out", "x", "--n", "many"], "Invalid value for '--n'"),
        (["simulate", "head-ct", "--out", "x", "--n", "0"], "Invalid value for '--n'"),
        (["simulate", "head-ct", "--out", "x", "--format", "dcm"], "Invalid value for '--format'"),
        (["demo", "--n", "3"], "Invalid value for '--n'"),
    ],
)
def test_a_wrong_command_line_is_usage_and_the_nearest_word_is_named(
    volssl_command: Command, words: list[str], said: str
) -> None:
    assert error_of(volssl_command(*words), code=2).startswith(said)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("max_epoch=3", "max_epoch: unknown option, did you mean max_epochs?"),
        ("method::epsilom=0.1", "method::epsilom: unknown option, did you mean method::epsilon?"),
        ("max_epochs=many", "max_epochs: 'many' is a str, a int is needed"),
        ("max_epochs", "max_epochs: an override is written KEY=VALUE, for example max_epochs=20"),
    ],
)
def test_a_wrong_override_is_usage_too(
    volssl_command: Command, store: Path, tmp_path: Path, word: str, said: str
) -> None:
    answer = volssl_command("pretrain", "swav", "--store", store, "--out", tmp_path / "run", word)
    assert error_of(answer, code=2) == said
    assert not (tmp_path / "run").exists()


def test_a_store_that_is_not_there_is_named_with_the_command_that_makes_one(
    volssl_command: Command, tmp_path: Path
) -> None:
    for words in (
        ["pretrain", "swav", "--out", tmp_path / "run"],
        ["finetune", "hemorrhage", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "run"],
    ):
        said = error_of(volssl_command(*words, "--store", tmp_path / "none"), code=1)
        assert said.startswith(f"{tmp_path / 'none'} holds no store: run `volssl prepare")


def test_a_source_without_a_readable_file_is_named_with_what_was_passed_over(
    volssl_command: Command, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "notes.txt").write_text("nothing to see")
    (source / "broken.nii").write_bytes(b"no volume")
    said = error_of(volssl_command("prepare", source, "--store", tmp_path / "store", "--workers", 1), code=1)
    assert said.startswith(f"no readable file in {source} (texts (1); rejected: 1 unreadable)")


def write_labels(path: Path, studies: list[str], **columns: list[int]) -> Path:
    pd.DataFrame({"study": studies} | columns).to_csv(path, index=False)
    return path


def test_a_label_table_that_fits_nothing_shows_three_names_of_each_side(
    volssl_command: Command, store: Path, tmp_path: Path
) -> None:
    types = ("hemorrhage", "subarachnoid", "subdural", "epidural", "intraventricular", "intraparenchymal")
    names = ["p1", "p2", "p3", "p4"]
    labels = write_labels(tmp_path / "labels.csv", names, **{name: [0, 1, 0, 1] for name in types})
    words = ["finetune", "hemorrhage", "--store", store, "--labels", labels, "--out", tmp_path / "run"]
    said = error_of(volssl_command(*words), code=1)
    assert "none of its 4 studies is in the store" in said
    assert "the table has p1, p2, p3;" in said
    ids = Store.open(store).rows["id"].to_pylist()
    assert sum(volume_id in said for volume_id in ids) == 3


def test_a_missing_label_column_is_named_with_the_nearest_one(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    pd.read_csv(cohort / "labels.csv").rename(columns={"subdural": "subdurall"}).to_csv(labels, index=False)
    words = ["finetune", "hemorrhage", "--store", store, "--labels", labels, "--out", tmp_path / "run"]
    said = error_of(volssl_command(*words), code=1)
    assert said == f"{labels} has no column 'subdural': is 'subdurall' meant"


def test_a_label_table_that_is_not_there_is_named(volssl_command: Command, store: Path, tmp_path: Path) -> None:
    labels = tmp_path / "none.csv"
    words = ["finetune", "hemorrhage", "--store", store, "--labels", labels, "--out", tmp_path / "run"]
    assert (
        error_of(volssl_command(*words), code=1) == f"the label table {labels} does not exist: give --labels a CSV file"
    )


def test_a_full_disk_is_said_and_the_old_file_stays(
    volssl_command: Command, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("volssl.files.os.fsync", full)
    run = tmp_path / "run"
    said = error_of(volssl_command("pretrain", "swav", "--store", store, "--out", run, *TINY, *CROPS), code=1)
    assert "the disk is full" in said
    assert str(run) in said
    assert [path for path in run.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EACCES, "there is no permission"), (errno.EROFS, "its disk is read-only"), (errno.ENOTDIR, "is a file")],
)
def test_a_place_that_may_not_be_used_is_said(
    volssl_command: Command, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(path: Path, *args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = error_of(volssl_command("prepare", cohort, "--store", tmp_path / "store", "--workers", 1), code=1)
    assert line.startswith(str(tmp_path / "store"))
    assert said in line


def test_a_run_that_exists_is_neither_overwritten_nor_trained_twice(
    volssl_command: Command, store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "swav", "--store", store, "--out", run, *TINY, *CROPS]
    assert volssl_command(*words).code == 0
    before = (run / "encoder.pt").read_bytes()
    said = error_of(volssl_command(*words), code=1)
    assert said == f"{run}: holds a run already; add --resume to go on with it, or name another folder"
    assert (run / "encoder.pt").read_bytes() == before
    assert volssl_command(*words, "--resume").code == 0
    assert (run / "encoder.pt").read_bytes() == before


def test_a_method_that_does_not_exist_is_refused_with_those_there_are(
    volssl_command: Command, store: Path, tmp_path: Path
) -> None:
    answer = volssl_command("pretrain", "swva", "--store", store, "--out", tmp_path / "run")
    assert error_of(answer, code=1).startswith("swva: no such config in volume_pretraining, did you mean swav?")


def test_an_encoder_that_is_not_there_is_named(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path
) -> None:
    words = ["finetune", "hemorrhage", "--store", store, "--labels", cohort / "labels.csv", "--out", tmp_path / "run"]
    said = error_of(volssl_command(*words, "--encoder", tmp_path / "none"), code=1)
    assert said.startswith(f"{tmp_path / 'none'}: no encoder there")


@pytest.mark.parametrize(
    "word",
    [
        "precision=float8",
        "--mode=frozn",
        "device=gpu7",
    ],
)
def test_a_choice_that_does_not_exist_is_refused_in_one_line(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path, word: str
) -> None:
    words = ["finetune", "hemorrhage", "--store", store, "--labels", cohort / "labels.csv", "--out", tmp_path / "run"]
    said = error_of(volssl_command(*words, *TINY, "task::grid=[24, 28, 10]", word), code=1)
    assert word.split("=")[1] in said


def test_what_is_no_run_is_neither_evaluated_nor_exported(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path
) -> None:
    given = ["--store", store, "--labels", cohort / "labels.csv", "--out", tmp_path / "out"]
    assert "no fine-tuned run there" in error_of(volssl_command("evaluate", tmp_path, *given), code=1)
    assert "no fine-tuned run there" in error_of(
        volssl_command("export", tmp_path, "--bundle", tmp_path / "bundle"), code=1
    )


def test_what_is_no_bundle_answers_nothing(volssl_command: Command, cohort: Path, tmp_path: Path) -> None:
    said = error_of(volssl_command("predict", tmp_path, cohort, "--out", tmp_path / "answer"), code=1)
    assert said.startswith(str(tmp_path))
    assert not (tmp_path / "answer").exists()


def test_debug_shows_where_an_error_nobody_foresaw_arose(
    volssl_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("volssl.bundle.workflow.pretrain", broken)
    words = ["pretrain", "swav", "--store", tmp_path, "--out", tmp_path]
    assert error_of(volssl_command(*words), code=1) == "RuntimeError: first line (--debug shows where)"
    with pytest.raises(RuntimeError, match="second line"):
        volssl_command(*words, "--debug")


def test_an_interrupted_command_exits_as_shells_expect(
    volssl_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("volssl.bundle.workflow.pretrain", stopped)
    answer = volssl_command("pretrain", "swav", "--store", tmp_path, "--out", tmp_path)
    assert (answer.code, answer.lines) == (130, ["stopped"])


def test_what_an_object_of_a_config_refuses_is_said_without_the_name_of_an_exception(
    volssl_command: Command, store: Path, tmp_path: Path
) -> None:
    words = ["spacing_mm=[7.0, 7.0, 14.0]", "crop_size=[24, 24, 8]", "batch_size=2", "workers=0", "max_epochs=1"]
    run = ["pretrain", "restoration", "--store", store, "--out", tmp_path / "run", *words]
    said = error_of(volssl_command(*run, "method::error=l3"), code=1)
    assert said.startswith("error is one of mse, l1, not l3")
