"""Which slices of the store a label means: by index from inferior, by SOPInstanceUID, or by position in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from volssl.data.keys import keyed_hash
from volssl.errors import UserError

SLICE_COLUMNS = ("slices", "slice_sops", "slice_positions_mm")


def slice_indices(
    where: str, column: str, cell: str, rows: Sequence[dict[str, Any]], key: bytes
) -> list[list[int] | None]:
    """Turn one cell of a label table into indices along S, for each volume of the study.

    Slices keep their order from source to store: S counts them from inferior to superior, whatever way the source ran.
    A study of several volumes takes each mark to the volume that holds it.

    Args:
        where: names table and study in an error.
        column: which of `SLICE_COLUMNS` the cell is of.
        cell: marks parted by `;`.
        rows: manifest rows of the study's volumes.

    Returns:
        For each row its sorted indices, or None where this volume holds none of the marks.

    Raises:
        UserError: a mark is no number, or lies in no volume of the study.
    """
    marks = [mark.strip() for mark in cell.split(";") if mark.strip()]
    if not rows:
        return []
    if column == "slices" and len(rows) > 1:
        raise UserError(f"{where} has {len(rows)} volumes, and an index does not tell which: use slice_sops instead")
    places = [_places(where, column, marks, row, key) for row in rows]
    if all(place is None for place in places):  # the source gave its slices no names
        return [None for _ in rows]
    for index, mark in enumerate(marks):
        if all(place is None or place[index] is None for place in places):
            raise UserError(f"{where}: the slice {mark} of {column} is not in {_extent(column, rows[0])}")
    return [_inside(place) for place in places]


def _places(where: str, column: str, marks: Sequence[str], row: dict[str, Any], key: bytes) -> list[int | None] | None:
    """For each mark its index in this volume, None where it lies outside; None for a volume without SOPInstanceUIDs."""
    count = row["shape"][2]
    if column == "slice_sops":
        if not row["sop"]:
            return None
        known = {sop: index for index, sop in enumerate(row["sop"])}
        return [known.get(keyed_hash(key, "sop", mark)) for mark in marks]
    try:
        numbers = [float(mark) for mark in marks]
    except ValueError as error:
        raise UserError(f"{where}: {column} holds {';'.join(marks)!r}, which are no numbers parted by ';'") from error
    if column == "slice_positions_mm":
        numbers = [float(np.rint((z - row["first_slice_z_mm"]) / row["affine"][10])) for z in numbers]
    elif any(number != int(number) for number in numbers):
        raise UserError(f"{where}: {column} holds {';'.join(marks)!r}; indices are whole numbers")
    return [int(number) if 0 <= number < count else None for number in numbers]


def _inside(place: Sequence[int | None] | None) -> list[int] | None:
    inside = sorted({index for index in place or () if index is not None})
    return inside or None


def _extent(column: str, row: dict[str, Any]) -> str:
    """What the volume has to offer, for the error."""
    count = row["shape"][2]
    if column == "slices":
        return f"0 to {count - 1}"
    if column == "slice_positions_mm":
        first = row["first_slice_z_mm"]
        return f"{first:.1f} to {first + row['affine'][10] * (count - 1):.1f} mm"
    return "any volume of the study"
