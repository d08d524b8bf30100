"""The log of a run: `metrics.jsonl`, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from volssl.errors import UserError
from volssl.evaluation.metrics import Floats


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the rows in the order of their steps; of a step logged twice, as after a resume, the later row holds.

    A last line that is cut off, as a killed run leaves it, is passed over; a broken line elsewhere is a UserError.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is not there: is this the folder of a run that has begun? Give the --out of pretrain or finetune"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: dict[tuple[float, tuple[str, ...]], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is no JSON ({error.msg}): repair or remove the line") from error
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            raise UserError(f"{path}, line {number} has no step: every row of a log is an object with its step")
        rows[row["step"], tuple(sorted(row))] = row  # rows with other keys, such as validation, stand beside it
    return sorted(rows.values(), key=lambda row: float(row["step"]))


def series_of(rows: Sequence[Mapping[str, Any]], name: str, *, over: str = "step") -> tuple[Floats, Floats]:
    """The steps, or epochs, and values of one scalar, of the rows that have it."""
    pairs = [(row[over], row[name]) for row in rows if _is_number(row.get(name)) and _is_number(row.get(over))]
    values = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def sentences_in(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The sentences that were logged under a name, in their order."""
    return [row[name] for row in rows if isinstance(row.get(name), str)]


def scalars_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the logged scalars in order of appearance, counters left out."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if _is_number(value))
    return [name for name in names if name not in {"step", "epoch"}]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
