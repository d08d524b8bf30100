"""A mask, brought to the grid of a box that was cut from its scan: by nearest neighbours, seen from both sides."""

from __future__ import annotations

import numpy as np

from volssl.transforms.head_box import BoxInfo


def mask_box(mask: np.ndarray, affine: np.ndarray, *, scan_affine: np.ndarray, info: BoxInfo) -> np.ndarray:
    """The mask in the box's grid.

    A voxel of the grid is in it where its center lies in a voxel of the mask, or the center of a voxel of the mask
    lies in it. The first alone would lose what is smaller than a voxel of the grid, the second would leave holes where
    the grid is the finer one.

    Args:
        mask: (I, J, K) bool, axes as they lie in the file.
        affine: of the mask, voxel index to RAS millimetres, 4 x 4.
        scan_affine: of the scan, likewise.
        info: where the box lies in the scan.

    Returns:
        (*grid) bool along R, A, S.

    Raises:
        ValueError: where mask and scan share no space.
    """
    first, last = np.array(info.box).T
    step = (last - first) / info.grid  # a voxel of the grid, in voxels of the scan
    to_mask = np.linalg.inv(affine) @ scan_affine
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in info.scan_shape])).reshape(3, -1)
    reached = moved(to_mask, corners)
    if (reached.max(axis=1) < -0.5).any() or (reached.min(axis=1) > np.array(mask.shape) - 0.5).any():
        raise ValueError("the mask lies beside its scan: their affines are of different spaces")
    centers = np.indices(info.grid).reshape(3, -1)
    at = np.rint(moved(to_mask, (centers + 0.5) * step[:, None] + first[:, None] - 0.5)).astype(int)
    inside = ((at >= 0) & (at < np.array(mask.shape)[:, None])).all(axis=0)
    result = np.zeros(info.grid, bool)
    result.reshape(-1)[inside] = mask[tuple(at[:, inside])]
    there = moved(np.linalg.inv(to_mask), np.argwhere(mask).T)
    cells = np.floor((there + 0.5 - first[:, None]) / step[:, None]).astype(int)
    inside = ((cells >= 0) & (cells < np.array(info.grid)[:, None])).all(axis=0)
    result[tuple(cells[:, inside])] = True
    return result


def moved(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(3, N) points through a 4 x 4 matrix."""
    result: np.ndarray = affine[:3, :3] @ points + affine[:3, 3:]
    return result
