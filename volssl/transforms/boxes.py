"""Boxes of whole voxels: drawn inside a volume, and used as an index."""

from __future__ import annotations

import numpy as np

Region = tuple[slice, slice, slice, slice]


def random_box(
    rng: np.random.RandomState,
    size: tuple[int, int, int],
    least: tuple[int, int, int],
    most: tuple[int, int, int],
    *,
    margin: int = 0,
) -> np.ndarray:
    """A box with sides uniform on `least` to `most`, both included, its place uniform.

    Args:
        size: voxels of the volume.
        margin: voxels that stay free at the border, as far as the box leaves room for them.

    Returns:
        (3, 2) int64: first voxel, and the one after the last, along R, A, S.
    """
    box = np.empty((3, 2), dtype=np.int64)
    for axis, (n, low, high) in enumerate(zip(size, least, most, strict=True)):
        side = rng.randint(low, high + 1)
        free = min(margin, (n - side) // 2)
        start = rng.randint(free, n - side - free + 1)
        box[axis] = start, start + side
    return box


def region(box: np.ndarray) -> Region:
    """A box (3, 2) as an index into (C, R, A, S): every channel."""
    (r0, r1), (a0, a1), (s0, s1) = box.tolist()
    return slice(None), slice(r0, r1), slice(a0, a1), slice(s0, s1)


def share_covered(boxes: np.ndarray, size: tuple[int, int, int]) -> float:
    """Share of a volume's voxels that lie in any of the boxes (n, 3, 2)."""
    covered = np.zeros((1, *size), dtype=bool)
    for box in boxes:
        covered[region(box)] = True
    return float(covered.mean())
