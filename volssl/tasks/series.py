"""Two series of a study: which stands beside a scan, and how they are joined."""

from __future__ import annotations

from typing import Any

SECOND = "second_series"  # column of the joined label table: the id of the study's coronal series, or None
JOINS = ("mean", "max")  # of pooled features


def second_id(row: Any) -> str | None:
    """The id of the series beside that of a row of the label table; None where there is none."""
    cell = row.get(SECOND)
    return cell if isinstance(cell, str) else None
