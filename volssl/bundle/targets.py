"""What is told of the label columns that `--target` names: their kind, classes and scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.bundle.config import split_word
from volssl.bundle.shipped import PRESETS
from volssl.contract import as_list
from volssl.data import Store, join_labels
from volssl.data.label_classes import tell_labels
from volssl.encoders.file import read_encoder_file
from volssl.errors import UsageError, UserError
from volssl.progress import say

TASK = "task::"
TARGET = "target.yaml"  # among the presets of pretraining: labels of the user's own columns
INPUT = ("window_hu", "spacing_mm", "grid")  # of the network; an encoder brings its own


def told_task(
    target: str, *, store: Path, labels: Path, encoder: Path | None = None, words: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Values of the task in a classification's config, told from the label table, the store and the encoder.

    What words say is taken as said. An encoder is fed what it was fed before, where no word says otherwise.

    Args:
        target: label columns, parted by commas.

    Returns:
        The values, and the words that are left: classes may be said of some columns, and are told of the others.

    Raises:
        UserError: for columns that are missing or hold no classes, or a table that does not fit the store.
    """
    columns = [name.strip() for name in target.split(",") if name.strip()]
    if not columns or len(set(columns)) < len(columns):
        raise UsageError(f"--target {target!r}: name label columns, each once, parted by commas")
    said = {key.removeprefix(TASK): value for key, value in map(split_word, words) if key.startswith(TASK)}
    classes = said.get("classes") or {}
    if not isinstance(classes, Mapping) or not all(isinstance(names, list) for names in classes.values()):
        raise UsageError("task::classes: write 'task::classes={COLUMN: [first, second, third]}'")
    told = tell_labels(labels, columns, kind=said.get("kind") or "", classes=classes)
    opened = Store.open(store)
    table = join_labels(opened, labels, columns, classes=told.classes)
    for name, names in told.classes.items():
        say(f"{name}: {counted(table[name], names)}")
    say(f"learnt as {told.kind} ({', '.join(columns)}); task::kind=ordinal and the like say otherwise")
    values: dict[str, Any] = {
        "columns": columns,
        "classes": {name: list(names) for name, names in told.classes.items()},
        "kind": told.kind,
        "modality": said.get("modality") or modality_of(opened, table),
    }
    brought = input_of(encoder, values["modality"])
    values |= {name: value for name, value in brought.items() if name not in said}
    left = [word for word in words if split_word(word)[0] != f"{TASK}classes"]
    return {f"{TASK}{name}": value for name, value in values.items()}, left


def with_target(
    config: list[Path], target: str, *, store: Path, labels: Path | None, words: Sequence[str]
) -> tuple[list[Path], dict[str, Any], Sequence[str]]:
    """A pretraining's config for labels of the user's own columns, what is told of them, and the words that are left.

    Without a target all is as it was.

    Raises:
        UserError: for columns without a label table, or as `told_task`.
    """
    if not target:
        return config, {}, words
    if labels is None:
        raise UsageError(f"--target {target}: names columns of a label table; give it with --labels")
    told, left = told_task(target, store=store, labels=labels, words=words)
    return [*config, config[0].parent / PRESETS / TARGET], told, left


def counted(column: pd.Series, classes: Sequence[str]) -> str:
    """`benign 12, malignant 7; 3 unknown`, of the studies in the store."""
    counts = ", ".join(f"{name} {int((column == index).sum())}" for index, name in enumerate(classes))
    unknown = int(column.isna().sum())
    return f"{counts}; {unknown} unknown" if unknown else counts


def modality_of(store: Store, table: pd.DataFrame) -> str:
    """The modality of the labelled volumes.

    Raises:
        UserError: where they are of several.
    """
    rows = store.columns("id", "modality").to_pandas()
    found = sorted(set(rows.loc[rows["id"].isin(table.index), "modality"]))
    if len(found) > 1:
        raise UserError(f"{store.path}: the labelled volumes are {' and '.join(found)}: say which, task::modality=CT")
    return str(found[0])


def input_of(encoder: Path | None, modality: str) -> Mapping[str, Any]:
    """Window (of CT), voxel size and grid that an encoder was fed; nothing where there is none, or it does not say."""
    contract = read_encoder_file(encoder).contract if encoder is not None else None
    if contract is None:
        return {}
    named = [name for name in INPUT if name != "window_hu" or modality == "CT"]
    return {name: as_list(getattr(contract, name)) for name in named if getattr(contract, name) is not None}
