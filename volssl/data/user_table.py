"""Tables that users write: CSV read as texts alone, without the blanks and byte marks that spreadsheets leave."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from volssl.errors import UserError


def read_texts(path: Path, kind: str) -> pd.DataFrame:
    """The table's texts, empty where a cell is; columns without a name are left out.

    Args:
        kind: `label` or `patient`: what a row tells of, and with an s the option that names the table.

    Raises:
        UserError: it is not there, no table, parted by other than commas, or has two columns of one name.
    """
    # The first line is read as any other: of two columns of one name pandas would rename one.
    read = partial(pd.read_csv, path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    try:
        names = read(nrows=1).iloc[0].str.strip()
        check_header(path, list(names))
        table = read().iloc[1:].reset_index(drop=True)
    except FileNotFoundError as error:
        raise UserError(f"the {kind} table {path} does not exist: give --{kind}s a CSV file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8, as of a spreadsheet: save it again as `CSV UTF-8`") from error
    except (OSError, ValueError) as error:
        what = type(error).__name__
        raise UserError(f"{path} cannot be read as a table ({what}): give --{kind}s a CSV file") from error
    table.columns = pd.Index(names)
    return table.loc[:, table.columns != ""].apply(lambda column: column.str.strip())


def check_header(path: Path, names: Sequence[str]) -> None:
    """Raise a UserError where the first line of a table is parted by other than commas, or has a name twice."""
    for mark, told in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            raise UserError(f"{path} is parted by {told}: save it with commas between the columns")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path} has {names.count(twice[0])} columns {twice[0]!r}: leave one, or rename the others")


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
