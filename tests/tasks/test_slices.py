from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volssl.tasks.slices import grid_slice_labels
from volssl.transforms.head_box import BoxInfo, cut_box

SPACING = (1.0, 1.0, 1.0)


def info(box_s: tuple[float, float], grid_s: int, scan_s: int) -> BoxInfo:
    return BoxInfo(((0.0, 8.0), (0.0, 8.0), box_s), (8, 8, grid_s), (8, 8, scan_s), SPACING)


def test_a_thick_slice_is_positive_if_one_of_its_thin_ones_is() -> None:
    # Four thin slices to one: 5 lies in the second.
    assert grid_slice_labels([5], info((0, 16), 4, 16)).tolist() == [0, 1, 0, 0]
    assert grid_slice_labels([3, 4], info((0, 16), 4, 16)).tolist() == [1, 1, 0, 0]


def test_thin_slices_in_a_thick_one_are_all_positive() -> None:
    assert grid_slice_labels([1], info((0, 4), 8, 4)).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_less_than_a_quarter_of_the_thinner_one_does_not_count() -> None:
    # Edges at .8, 2.8, 4.8: slice 2 lies .8 in the first and .2 in the second; slice 4 the same; slice 3 in the second.
    assert grid_slice_labels([2], info((0.8, 4.8), 2, 6)).tolist() == [1, 0]
    assert grid_slice_labels([4], info((0.7, 4.7), 2, 6)).tolist() == [0, 1]
    assert grid_slice_labels([2], info((0.7, 4.7), 2, 6)).tolist() == [1, 1]  # .7 and .3


def test_slices_outside_of_the_scan_are_unknown() -> None:
    labels = grid_slice_labels([0], info((-4, 8), 6, 6))  # two slices of the grid below the scan, one above
    assert np.isnan(labels[[0, 1, 5]]).all()
    assert labels[2:5].tolist() == [1, 0, 0]


def test_no_positive_slice_makes_the_scan_negative() -> None:
    assert grid_slice_labels([], info((0, 16), 4, 16)).tolist() == [0, 0, 0, 0]


def test_a_slice_that_the_scan_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="slice 16 is labelled, but the scan has slices 0 to 15"):
        grid_slice_labels([3, 16], info((0, 16), 4, 16))


@given(st.floats(-5, 20), st.floats(2, 60), st.integers(1, 50), st.integers(1, 40), st.data())
def test_a_positive_slice_inside_the_box_is_never_lost(
    start: float, length: float, grid_s: int, scan_s: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, scan_s - 1))
    labels = grid_slice_labels([index], info((start, start + length), grid_s, scan_s))
    if start <= index and index + 1 <= start + length:
        assert (labels == 1).any()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAI", "RPI"])
def test_the_labelled_slice_is_the_bright_one_after_reorientation_and_resampling(codes: str) -> None:
    source = np.full((12, 16, 24), 0, np.int16)
    labelled = 5  # in the source's own order
    source[:, :, labelled] = 150
    flips = [1 if code in "RAS" else -1 for code in codes]
    affine = np.diag([*(flip * mm for flip, mm in zip(flips, (3.0, 3.0, 5.0), strict=True)), 1.0])
    position_mm = (affine @ [0, 0, labelled, 1])[2]

    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(source, affine))
    index = round(float((np.linalg.inv(canonical.affine) @ [0, 0, position_mm, 1])[2]))
    assert index == (labelled if codes[2] == "S" else 23 - labelled)

    box = ((-2.0, 14.0), (0.0, 16.0), (1.0, 22.0))
    image = cut_box(np.asarray(canonical.dataobj)[None], box, (8, 8, 12), (55.0, 200.0))
    labels = grid_slice_labels([index], BoxInfo(box, (8, 8, 12), (12, 16, 24), (3.0, 3.0, 5.0)))
    brightness = image[0, 4, 4].numpy()  # (12,); 1.75 slices of the scan to one of the grid
    assert labels[brightness.argmax()] == 1
    assert 1 <= labels.sum() <= 2
    assert brightness[labels == 1].min() > brightness[labels == 0].max()
