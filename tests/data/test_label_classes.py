"""What a label column is, is told from its values where that is safe, and asked for where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from volssl.data.label_classes import ToldLabels, tell_labels
from volssl.errors import UserError


def told(tmp_path: Path, columns: dict[str, Sequence[str]], **said: object) -> ToldLabels:
    """Tell the columns of a table with one study a row."""
    rows = [",".join(cells) for cells in zip(*columns.values(), strict=True)]
    lines = [f"study,{','.join(columns)}", *(f"S{i},{row}" for i, row in enumerate(rows))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tell_labels(tmp_path / "labels.csv", list(columns), **said)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (["0", "1", "", "0"], "binary", ("0", "1")),
        (["0.0", "1.0", "NA", "1"], "binary", ("0", "1")),
        (["0", "0", "", "0"], "binary", ("0", "1")),  # one class: the training says so
        (["2", "0", "1", "10"], "multi-class", ("0", "1", "2", "10")),
        (["-1", "0", "1", "1"], "multi-class", ("-1", "0", "1")),
        (["mild", "severe", "none", ""], "multi-class", ("mild", "none", "severe")),
        (["benign", "malignant", "", "benign"], "multi-class", ("benign", "malignant")),
        (["a", "b", "3", ""], "multi-class", ("3", "a", "b")),
    ],
)
def test_one_column_is_told_by_its_values(
    tmp_path: Path, cells: list[str], kind: str, classes: tuple[str, ...]
) -> None:
    assert told(tmp_path, {"t": cells}) == ToldLabels(kind, {"t": classes})


def test_several_columns_of_0_and_1_are_multi_label_and_any_other_among_them_makes_classes(tmp_path: Path) -> None:
    assert told(tmp_path, {"a": ["0", "1"], "b": ["1", ""]}).kind == "multi-label"
    assert told(tmp_path, {"a": ["0", "1"], "b": ["x", "y"]}).kind == "multi-class"


def test_what_is_said_goes_before_what_is_told(tmp_path: Path) -> None:
    assert told(tmp_path, {"t": ["0", "1", "2"]}, kind="ordinal").kind == "ordinal"
    assert told(tmp_path, {"t": ["1", "2", "2"]}, kind="multi-class").classes == {"t": ("1", "2")}
    scale = {"t": ["none", "mild", "severe"]}
    assert told(tmp_path, {"t": ["mild", "none", "mild"]}, kind="ordinal", classes=scale) == ToldLabels(
        "ordinal", {"t": ("none", "mild", "severe")}
    )


@pytest.mark.parametrize(
    ("cells", "said", "match"),
    [
        (["0", "1", "yes", "0"], {}, "line 4: t holds 'yes', no number; blank is unknown"),
        (["a", "b", "a", "b"], {"kind": "binary"}, "line 2: t holds 'a', no number"),
        (["1", "2", "2", "1"], {}, "t holds 1 and 2: write 0 and 1, or say what they are: task::kind=multi-class"),
        (["0.5", "1.5", "2", "3"], {}, "4 different numbers from 0.5 to 3, a measure"),
        (["2", "2", "2", ""], {}, "t holds 2 alone"),
        (["x", "x", "", ""], {}, "t holds 'x' alone"),
        (["", "", "NA", "?"], {}, "t is blank throughout"),
        (["a", "b", "c", "d"], {"kind": "ordinal"}, r"order cannot be told.*'task::classes=\{t: \[a, b, c, d\]\}'"),
        (["0", "1", "2", "2"], {"kind": "binary"}, "kind=binary, but the columns hold t: 0, 1, 2; that is multi-c"),
        (["0", "1", "0", "1"], {"kind": "multi-label"}, "that is binary"),
        (["0", "1", "0", "1"], {"kind": "scale"}, "task::kind=scale: unknown; choose binary, multi-label"),
        (["a", "b", "c", "a"], {"classes": {"t": ["a", "b"]}}, "line 4: t holds 'c', which is none of a, b"),
        (["a", "b", "c", "a"], {"classes": {"u": ["a", "b"]}}, "task::classes names u, which is no --target"),
        (["a", "b", "c", "a"], {"classes": {"t": [False, "b"]}}, "YAML reads a word as False; put quotes around it"),
        (["a", "b", "c", "a"], {"classes": {"t": ["a", "a"]}}, "name at least two, each once"),
        (["@a", "b", "c", "a"], {}, "the class '@a' cannot be a name"),
        (["../a", "b", "c", "a"], {}, "cannot be a name"),
        (["a", "b" * 41, "c", "a"], {}, r"'b{37}\.\.\.' cannot be a name"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_one_line_that_says_what_to_write(
    tmp_path: Path, cells: list[str], said: dict[str, object], match: str
) -> None:
    with pytest.raises(UserError, match=match) as caught:
        told(tmp_path, {"t": cells}, **said)
    assert "\n" not in str(caught.value)


def test_texts_of_every_study_are_remarks_and_no_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30 different texts, more than 20 classes"):
        told(tmp_path, {"t": [f"remark {i}" for i in range(30)]})


@pytest.mark.parametrize(("column", "match"), [("patient", "is no label"), ("a@b", "cannot be a name")])
def test_a_column_that_cannot_be_a_label_is_refused(tmp_path: Path, column: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        told(tmp_path, {column: ["0", "1"]})


def test_a_column_that_is_missing_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("study,severity\nS0,1\n")
    with pytest.raises(UserError, match="no column 'severty': is 'severity' meant"):
        tell_labels(tmp_path / "labels.csv", ["severty"])
