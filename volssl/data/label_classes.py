"""What a label column is: 0 and 1, classes, or steps of a scale, told from the user's table where that is safe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from volssl.data.slice_labels import SLICE_COLUMNS
from volssl.data.user_table import read_texts, required
from volssl.errors import UserError

KINDS = ("binary", "multi-label", "multi-class", "ordinal")
UNKNOWN = ("", "na", "n/a", "nan", "none", "null", "?")
UNKNOWN_TEXT = tuple(
    word for word in UNKNOWN if word != "none"
)  # among texts, `none` is an answer: no lesion, no bleed
HAS_LABEL = "has_label"  # of the joined table: whether anything that was asked for is known of the volume
TAKEN = ("study", "patient", "split", "id", HAS_LABEL, *SLICE_COLUMNS)  # columns of the joined table that are no labels
MOST_CLASSES = 20
LONGEST_NAME = 40
NO_NAME = set("@$%#:;/\\\"`'{}[]")  # they mean something in a config, a path or a list
BINARY = ("0", "1")


@dataclass(frozen=True)
class ToldLabels:
    """What label columns hold.

    Attributes:
        kind: one of `KINDS`.
        classes: of each column, as texts, the lowest first where they are numbers.
    """

    kind: str
    classes: dict[str, tuple[str, ...]]


def tell_labels(
    csv: str | Path, columns: Sequence[str], *, kind: str = "", classes: Mapping[str, Sequence[object]] | None = None
) -> ToldLabels:
    """Tell what the columns of a label table hold.

    0 and 1 are binary, several such columns multi-label; texts, or more than two whole numbers, are classes. An order
    among classes nobody can see: it is said.

    Args:
        kind: one of `KINDS`, where the user says it.
        classes: of a column, in their order, where the user says them; texts that are ordinal need it.

    Raises:
        UserError: a column is missing, holds no classes, mixes texts and numbers, or is of another kind than said.
    """
    path = Path(csv)
    if kind and kind not in KINDS:
        raise UserError(f"task::kind={kind}: unknown; choose {', '.join(KINDS)}")
    table = read_texts(path, "label")
    for column in required(path, table, ("study", *columns)):
        check_name(f"{path}: the column", column)
        if column in TAKEN and column != "study":
            raise UserError(f"{path}: the column {column} is no label; name another with --target")
    said = {name: class_names(name, values) for name, values in (classes or {}).items()}
    strange = [name for name in said if name not in columns]
    if strange:
        raise UserError(f"task::classes names {strange[0]}, which is no --target")
    told = {name: said.get(name) or _classes(path, table[name], kind) for name in columns}
    for name in columns:
        class_indices(path, table[name], told[name])
    return ToldLabels(_kind(path, told, kind), told)


def class_names(column: str, values: Sequence[object]) -> tuple[str, ...]:
    """Classes as the user says them -> as texts; `1.0` and `1` are one.

    Raises:
        UserError: fewer than two, one twice, or a value that YAML made of a word.
    """
    for value in values:
        if isinstance(value, bool) or value is None:
            raise UserError(f"classes of {column}: YAML reads a word as {value}; put quotes around it")
    names = tuple(plain_class(str(value)) for value in values)
    for name in names:
        check_name(f"classes of {column}:", name)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"classes of {column}: {', '.join(names) or 'none'}; name at least two, each once")
    return names


def class_indices(path: Path, column: pd.Series, classes: Sequence[str]) -> pd.Series:
    """A column of texts -> the index of each cell's class, as float with NaN for unknown.

    Raises:
        UserError: a cell is none of the classes; the line is named.
    """
    places = {name: float(index) for index, name in enumerate(classes)}
    blank = UNKNOWN if all(is_number(name) for name in classes) else UNKNOWN_TEXT
    known = ~column.str.lower().isin([word for word in blank if word not in {name.lower() for name in classes}])
    values = column.where(known).map(lambda cell: places.get(plain_class(cell)), na_action="ignore").astype(float)
    wrong = known & values.isna()
    if wrong.any():
        where = int(wrong.argmax())
        cell = shortened(column.iloc[where])
        raise UserError(
            f"{path}: line {where + 2}: {column.name} holds {cell}, which is none of {', '.join(classes)}; "
            "blank is unknown"
        )
    return values


def plain_class(text: str) -> str:
    """A class as it is written everywhere: whole numbers without a point, texts as they are."""
    text = text.strip()
    if is_number(text) and float(text).is_integer():
        return str(int(float(text)))
    return text


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_name(what: str, name: str) -> None:
    """Raise a UserError for a name that cannot stand in configs, lists and pages."""
    if not name.isprintable() or set(name) & NO_NAME or not 0 < len(name) <= LONGEST_NAME:
        raise UserError(
            f"{what} {shortened(name)} cannot be a name: take at most {LONGEST_NAME} letters, digits, blanks and . , "
            "+ - < > = ( ) _"
        )


def shortened(text: str) -> str:
    """A cell as an error shows it."""
    return repr(text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "...")


def _classes(path: Path, column: pd.Series, kind: str) -> tuple[str, ...]:
    """The classes that a column's cells show."""
    name = str(column.name)
    known = column[~column.str.lower().isin(UNKNOWN)]
    numbers = known.map(is_number)
    if known.empty:
        raise UserError(f"{path}: {name} is blank throughout; it has no label to learn")
    if numbers.mean() <= 0.5:
        return _text_classes(path, column, kind)
    if not numbers.all():
        where = int((~column.map(is_number) & ~column.str.lower().isin(UNKNOWN)).argmax())
        cell = shortened(column.iloc[where])
        raise UserError(f"{path}: line {where + 2}: {name} holds {cell}, no number; blank is unknown")
    values = sorted(set(known.map(float)))
    if any(not value.is_integer() for value in values) or len(values) > MOST_CLASSES:
        raise UserError(
            f"{path}: {name} holds {len(values)} different numbers from {values[0]:g} to {values[-1]:g}, a measure and "
            "no classes: write a column of classes"
        )
    classes = tuple(str(int(value)) for value in values)
    if set(classes) <= set(BINARY) and kind in ("", "binary", "multi-label"):
        return BINARY
    if len(classes) == 1:
        raise UserError(f"{path}: {name} holds {classes[0]} alone; two classes are needed to train")
    if len(classes) == 2 and classes != BINARY and not kind:
        raise UserError(
            f"{path}: {name} holds {classes[0]} and {classes[1]}: write 0 and 1, or say what they are: "
            "task::kind=multi-class"
        )
    return classes


def _text_classes(path: Path, column: pd.Series, kind: str) -> tuple[str, ...]:
    name = str(column.name)
    known = column[~column.str.lower().isin(UNKNOWN_TEXT)]
    classes = tuple(sorted(set(known.map(plain_class))))
    if kind in ("binary", "multi-label"):
        where = int((~column.str.lower().isin((*UNKNOWN_TEXT, *BINARY))).argmax())
        cell = shortened(column.iloc[where])
        raise UserError(f"{path}: line {where + 2}: {name} holds {cell}, no number; blank is unknown")
    if kind == "ordinal":
        shown = ", ".join(classes[:MOST_CLASSES])
        raise UserError(
            f"{path}: {name} holds texts, whose order cannot be told: say it, from low to high, as "
            f"'task::classes={{{name}: [{shown}]}}'"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{path}: {name} holds {len(classes)} different texts, more than {MOST_CLASSES} classes")
    if len(classes) == 1:
        raise UserError(f"{path}: {name} holds {shortened(classes[0])} alone; two classes are needed to train")
    for text in classes:
        check_name(f"{path}: {name}: the class", text)
    return classes


def _kind(path: Path, classes: Mapping[str, tuple[str, ...]], said: str) -> str:
    """The kind that the classes show, or the one said where they can be of it."""
    all_binary = all(values == BINARY for values in classes.values())
    if said == "ordinal":
        return said
    told = "multi-class" if not all_binary else "binary" if len(classes) == 1 else "multi-label"
    if said in ("binary", "multi-label") and said != told:
        shown = "; ".join(f"{name}: {', '.join(values)}" for name, values in classes.items())
        raise UserError(f"{path}: task::kind={said}, but the columns hold {shown}; that is {told}")
    return told
