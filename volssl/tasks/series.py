"""Two series of a study: which stands beside a scan, and the box of the one in the voxels of the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from volssl.transforms.resample import FloatBox
from volssl.views.base import Scan

SECOND = "second_series"  # column of the joined label table: the id of the study's coronal series, or None
JOINS = ("mean", "max")  # of pooled features


def second_id(row: Any) -> str | None:
    """The id of the series beside that of a row of the label table; None where there is none."""
    cell = row.get(SECOND)
    return cell if isinstance(cell, str) else None


def box_in(other: Scan, scan: Scan, box: FloatBox) -> FloatBox | None:
    """A box of a scan, in voxels of another series: about the same point of the patient, of as many millimetres.

    Both are in RAS, so that a box stays a box; a small turn between them is passed over.

    Returns:
        None where the middle of the box lies outside of the other series: their millimetres are of different spaces.
    """
    first, last = np.array(box).T
    middle = (first + last) / 2 - 0.5  # voxel i covers [i, i + 1), and an affine places its center
    there = (np.linalg.inv(other.affine) @ scan.affine @ np.append(middle, 1.0))[:3] + 0.5
    if (there < 0).any() or (there > np.array(other.shape)).any():
        return None
    half = (last - first) * np.array(scan.spacing_mm) / np.array(other.spacing_mm) / 2
    r, a, s = ((float(low), float(high)) for low, high in zip(there - half, there + half, strict=True))
    return r, a, s
