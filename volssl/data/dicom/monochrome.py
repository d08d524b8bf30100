"""Pixels as they are to be shown: MONOCHROME1, where low values are white (PS3.3, C.7.6.3.1.2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from volssl.data.checks import THRESHOLDS, subsample
from volssl.data.dicom.headers import Header
from volssl.data.dicom.pixels import stacked
from volssl.data.modality import not_in_hu

Stacked = tuple[np.ndarray, Counter[str], list[str]]


def stacked_as_shown(slices: tuple[Header, ...]) -> Stacked:
    """Decode all slices into one array (column, row, slice), dark where there is air whatever the header says of grey.

    It tells how to show the picture, after slope and intercept (C.11.1): Hounsfield units stay what they are. Some
    writers invert the stored values as well: where only the inverted ones can be Hounsfield units, they are taken. MR
    has no unit, so that dark is dark in all volumes it is turned within the range of its values.

    Returns:
        The array, how many voxels were `padding`, and what is to be noted.

    Raises:
        RefusedError: the pixels of a slice are damaged.
    """
    array, counts = stacked(slices)
    if slices[0].photometric != "MONOCHROME1":
        return array, counts, []
    if slices[0].modality != "CT":
        np.subtract(array.min() + array.max(), array, out=array)
        return array, counts, ["inverted grey (MONOCHROME1) was turned"]
    if not _can_be_hu(array):
        other, other_counts = stacked(tuple(map(_inverted, slices)))
        if _can_be_hu(other):
            note = "the stored values were inverted (MONOCHROME1) and were turned: only so are they Hounsfield units"
            return other, other_counts, [note]
    return array, counts, ["the picture is to be shown inverted (MONOCHROME1), which changes no Hounsfield unit"]


def _can_be_hu(array: np.ndarray) -> bool:
    return not not_in_hu(subsample(array, 128)[0].astype(np.float32), THRESHOLDS)


def _inverted(one: Header) -> Header:
    """The slice whose stored values are turned within their range, before slope and intercept."""
    ends = -1 if one.signed else (1 << one.bits_stored) - 1  # the lowest and the highest stored value together
    return replace(one, slope=-one.slope, intercept=one.intercept + ends * one.slope)
