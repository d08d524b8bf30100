"""Slices of a tilted gantry are interpolated as SciPy does it, and rounded to the nearest HU."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.data.dicom.test_stacks import slice_header as slice_header
from volssl.data.dicom.geometry import upright
from volssl.data.dicom.headers import Header


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_a_tilt_is_taken_out_to_the_nearest_value(slice_header: Header, kind: type[np.generic]) -> None:
    array = np.random.RandomState(0).randint(-1000, 1000, (24, 20, 12)).astype(kind)
    straight, _ = upright(array, slice_header, np.array([0.0, 0.7, 3.0]))  # LPS mm from slice to slice
    column, row, index = np.indices(straight.shape)
    row = row - index * 0.7 / 2.0  # rows are 2 mm apart
    expected = ndimage.map_coordinates(array.astype(np.float64), [column, row, index], order=1)
    error = (straight - expected)[(row >= 0) & (row <= 19)]
    assert straight.dtype == kind
    assert error.size > 0.9 * array.size
    assert abs(error.mean()) < 0.02  # cut off toward zero, most of it is a fraction
    assert np.abs(error).max() < (0.501 if kind == np.int16 else 0.001)
