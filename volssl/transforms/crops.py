"""Where crops lie: boxes drawn in a volume, in voxels of the source and in fractions of a voxel."""

from __future__ import annotations

import math

import numpy as np

from volssl.transforms.resample import FloatBox

IntBox = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def shrink(bounds: IntBox, share: tuple[float, float, float, float, float, float]) -> FloatBox:
    """Cut a share of the extent off each side: (first R, last R, first A, …), each 0 to below .5."""
    cut = []
    for axis, (start, stop) in enumerate(bounds):
        extent = stop - start
        cut.append((start + share[2 * axis] * extent, stop - share[2 * axis + 1] * extent))
    return (cut[0], cut[1], cut[2])


def draw_box(rng: np.random.RandomState, bounds: FloatBox, extent: tuple[float, float, float]) -> FloatBox:
    """A box of the given extent, its place uniform where it lies inside the bounds.

    Along an axis where the bounds are smaller than the box, the box is centred on them and leaves them on both sides.
    """
    sides = []
    for (start, stop), length in zip(bounds, extent, strict=True):
        room = stop - start - length
        place = rng.uniform()  # drawn always, so that one axis never shifts the draws of the next
        first = start + (place if room > 0 else 0.5) * room
        sides.append((first, first + length))
    return (sides[0], sides[1], sides[2])


def covering(box: FloatBox, shape: tuple[int, int, int], margin: tuple[float, float, float]) -> IntBox:
    """The smallest box of whole voxels, inside the volume, that holds `box` and a margin around it.

    A box beside the volume is answered with one voxel at its border: reading it costs nothing, and it is not used.
    """
    sides = []
    for (start, stop), n, extra in zip(box, shape, margin, strict=True):
        first = min(max(math.floor(start - extra), 0), n - 1)
        sides.append((first, max(min(math.ceil(stop + extra), n), first + 1)))
    return (sides[0], sides[1], sides[2])
