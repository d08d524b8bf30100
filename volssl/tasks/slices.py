"""Slice labels: from the slices of a scan to those of the grid that a network sees."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from volssl.errors import UserError
from volssl.transforms.head_box import BoxInfo

SLICES = "slice_indices"  # column of the joined table: a list of the scan's positive slices, or None
LEAST_OVERLAP = 0.25  # of the thinner of the two slices, below which a touch does not count


def grid_slice_labels(positive: Collection[int], info: BoxInfo) -> np.ndarray:
    """Labels of the grid's slices from the positive slices of the scan, by union.

    A slice of the grid is positive where it shares at least a quarter of the thinner of the two with a positive slice
    of the scan. So several thin slices make one thick one positive if any of them is, a thick one makes every thin one
    that lies in it positive, and a positive slice inside the box is never lost: of a slice cut in two, one half counts.

    Args:
        positive: indices of the scan's positive slices, inferior to superior.
        info: where the box lies in the scan.

    Returns:
        (grid S,) float32: 1, 0, or NaN for a slice that is not positive and lies mostly outside of the scan.

    Raises:
        ValueError: for an index outside of the scan.
    """
    n = info.scan_shape[2]
    outside = [index for index in positive if not 0 <= index < n]
    if outside:
        raise ValueError(f"slice {outside[0]} is labelled, but the scan has slices 0 to {n - 1}")
    overlap = info.slice_overlap()  # (grid S, source S)
    thickness = (info.box[2][1] - info.box[2][0]) / info.grid[2]  # of a slice of the grid, in source slices
    touched = overlap >= LEAST_OVERLAP * min(thickness, 1.0)
    labels = np.any(touched[:, sorted(positive)], axis=1)
    known = labels | (overlap.sum(axis=1) >= thickness / 2)
    return np.where(known, labels, np.nan).astype(np.float32)


def slice_targets(row: pd.Series, info: BoxInfo, *, negative: bool) -> np.ndarray:
    """(grid S,) float32 of 0, 1 and NaN: a negative volume is negative in every slice, whatever is blank.

    Slices of the grid outside of the scan are unknown, as are those of a positive volume without a slice label.
    """
    positive = [] if negative else known_slices(row.get(SLICES))
    unknown = not negative and not positive
    return np.full(info.grid[2], np.nan, np.float32) if unknown else grid_slice_labels(positive, info)


def check_slices(labels: pd.DataFrame, column: str, *, whose: str = "study", without: str = "") -> None:
    """Raise a UserError where no positive study has slice labels, or a negative one has.

    Args:
        labels: of the patients of one side.
        column: of 0 and 1, the volume's label.
        whose: what the error calls the studies.
        without: the word by which the task is trained without slices, where it can be.
    """
    positives, negatives = labels[labels[column] == 1], labels[labels[column] == 0]
    if not any(known_slices(row.get(SLICES)) for _, row in positives.iterrows()):
        raise UserError(
            f"labels: no positive {whose} has slice labels (a column slices, slice_sops or slice_positions_mm); add one"
            + (f", or train without them: {without}" if without else "")
        )
    if any(known_slices(row.get(SLICES)) for _, row in negatives.iterrows()):
        raise UserError(f"labels: a study with {column} 0 has positive slices; correct the one or the other")


def known_slices(cell: Any) -> list[int]:
    """A cell of `slice_indices` -> its indices; none where the cell is blank (None, NaN or an empty list)."""
    return [int(index) for index in cell] if isinstance(cell, list | tuple | np.ndarray) else []
