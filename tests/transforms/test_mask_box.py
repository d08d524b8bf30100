"""A mask on the grid of a box: by places that were counted by hand, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from volssl.transforms.head_box import BoxInfo
from volssl.transforms.mask_box import mask_box

SHAPE = (8, 8, 4)


def box(edges: tuple[tuple[float, float], ...], grid: tuple[int, int, int]) -> BoxInfo:
    return BoxInfo((edges[0], edges[1], edges[2]), grid, SHAPE, (1.0, 1.0, 3.0))


WHOLE = ((0.0, 8.0), (0.0, 8.0), (0.0, 4.0))
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def test_a_mask_on_the_scans_own_grid_is_itself() -> None:
    mask = np.random.RandomState(0).rand(*SHAPE) > 0.8
    assert np.array_equal(mask_box(mask, AFFINE, scan_affine=AFFINE, info=box(WHOLE, SHAPE)), mask)


def test_a_voxel_of_the_mask_is_kept_where_the_grid_is_four_times_coarser() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[5, 2, 3] = True
    found = mask_box(mask, AFFINE, scan_affine=AFFINE, info=box(WHOLE, (2, 2, 2)))
    assert np.argwhere(found).tolist() == [[1, 0, 1]]


def test_a_finer_grid_has_no_holes_and_agrees_with_scipys_nearest() -> None:
    mask = np.random.RandomState(1).rand(*SHAPE) > 0.7
    found = mask_box(mask, AFFINE, scan_affine=AFFINE, info=box(WHOLE, (24, 24, 12)))
    nearest = affine_transform(
        mask.astype(float), [1 / 3] * 3, offset=-1 / 3, output_shape=(24, 24, 12), order=0, mode="nearest"
    )
    assert np.array_equal(found, nearest > 0.5)


def test_a_mask_in_other_axes_finds_its_place_by_millimetres() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[1, 5, 2] = True
    turned = mask.transpose(2, 1, 0)[:, ::-1]  # axes S, P, R
    affine = np.array([[0, 0, 1.0, 0], [0, -1.0, 0, 7.0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]])
    found = mask_box(turned, affine, scan_affine=AFFINE, info=box(WHOLE, SHAPE))
    assert np.argwhere(found).tolist() == [[1, 5, 2]]


def test_a_box_that_leaves_the_scan_is_empty_there() -> None:
    mask = np.ones(SHAPE, bool)
    found = mask_box(mask, AFFINE, scan_affine=AFFINE, info=box(((-4.0, 4.0), (0.0, 8.0), (0.0, 4.0)), (8, 8, 4)))
    assert found[:4].sum() == 0
    assert found[4:].all()


def test_a_mask_of_another_space_is_refused() -> None:
    far = AFFINE.copy()
    far[:3, 3] = 500.0
    with pytest.raises(ValueError, match="lies beside its scan"):
        mask_box(np.ones(SHAPE, bool), far, scan_affine=AFFINE, info=box(WHOLE, SHAPE))
