"""Tables that users write: CSV read as texts alone, without the blanks and byte marks that spreadsheets leave."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from volssl.errors import UserError


def read_texts(path: Path, kind: str) -> pd.DataFrame:
    """The table's texts, empty where a cell is.

    Args:
        kind: `label` or `patient`: what a row tells of, and with an s the option that names the table.

    Raises:
        UserError: it is not there, or no table.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"the {kind} table {path} does not exist: give --{kind}s a CSV file") from error
    except (OSError, ValueError) as error:
        what = type(error).__name__
        raise UserError(f"{path} cannot be read as a table ({what}): give --{kind}s a CSV file") from error
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


def required(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> Sequence[str]:
    """The columns, where the table has them all.

    Raises:
        UserError: one is missing; the nearest is suggested.
    """
    for column in columns:
        if column not in table:
            nearest = difflib.get_close_matches(column, table.columns, n=1, cutoff=0.5)
            hint = f"is {nearest[0]!r} meant" if nearest else f"it has {', '.join(table.columns)}"
            raise UserError(f"{path} has no column {column!r}: {hint}")
    return columns
