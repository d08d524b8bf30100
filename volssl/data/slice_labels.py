"""Which slices of the store a label means: by index from inferior, by SOPInstanceUID, or by position in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volssl.data.keys import keyed_hash
from volssl.data.manifest import Row
from volssl.errors import UserError

SLICE_COLUMNS = ("slices", "slice_sops", "slice_positions_mm")


def slice_indices(
    where: str, column: str, cell: str, rows: Sequence[Row], key: bytes
) -> tuple[list[list[int] | None], int]:
    """Turn one cell of a label table into indices along S, for each volume of the study.

    Slices keep their order from source to store: S counts them from inferior to superior, whatever way the source ran.
    A study of several volumes takes each mark to the volume that holds it.

    Args:
        where: names table and study in an error.
        column: which of `SLICE_COLUMNS` the cell is of.
        cell: marks parted by `;`.
        rows: manifest rows of the study's volumes.

    Returns:
        For each row its sorted indices, or None where this volume holds none of the marks; and how many SOPInstanceUIDs
        are of no volume: they may be slices of a series that was refused.

    Raises:
        UserError: a mark is no number, or an index or a position lies outside of the study.
    """
    marks = [mark.strip() for mark in cell.split(";") if mark.strip()]
    if not rows:
        return [], 0
    if column == "slices" and len(rows) > 1:
        raise UserError(f"{where} has {len(rows)} volumes, and an index does not tell which: use slice_sops instead")
    places = [_places(where, column, marks, row, key) for row in rows]
    lost = [mark for index, mark in enumerate(marks) if all(place[index] is None for place in places)]
    if lost and column != "slice_sops":
        raise UserError(f"{where}: the slice {lost[0]} of {column} is not in {_extent(column, rows[0])}")
    return [sorted({index for index in place if index is not None}) or None for place in places], len(lost)


def _places(where: str, column: str, marks: Sequence[str], row: Row, key: bytes) -> list[int | None]:
    """For each mark its index in this volume, None where it lies outside."""
    if column == "slice_sops":
        known = {sop: index for index, sop in enumerate(row["sop"])}
        return [known.get(keyed_hash(key, "sop", mark)) for mark in marks]
    try:
        numbers = [float(mark) for mark in marks]
        if not np.isfinite(numbers).all():
            raise ValueError
    except ValueError as error:
        raise UserError(f"{where}: {column} holds {_cell_text(marks)}, which are no numbers parted by ';'") from error
    if column == "slice_positions_mm":
        first, step = row["first_slice_z_mm"], row["slice_step_z_mm"]
        numbers = [float(np.rint((z - first) / step)) for z in numbers]
    elif any(number != int(number) for number in numbers):
        raise UserError(f"{where}: {column} holds {_cell_text(marks)}; indices are whole numbers")
    return [int(number) if 0 <= number < row["shape"][2] else None for number in numbers]


def _cell_text(marks: Sequence[str]) -> str:
    """The marks as they stood, cut short for an error's line."""
    text = ";".join(marks)
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _extent(column: str, row: Row) -> str:
    """What the volume has to offer, for the error."""
    last = row["shape"][2] - 1
    if column == "slices":
        return f"0 to {last}"
    first, step = row["first_slice_z_mm"], row["slice_step_z_mm"]
    return f"{first:.1f} to {first + step * last:.1f} mm"
