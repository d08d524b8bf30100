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


def draw_box(
    rng: np.random.RandomState,
    bounds: FloatBox,
    extent: tuple[float, float, float],
    shape: tuple[int, int, int],
    *,
    near: FloatBox | None = None,
    min_overlap: float = 0.0,
) -> FloatBox:
    """A box of the given extent, its place uniform where it lies inside the bounds.

    Along an axis where the bounds are smaller than the box, the box is centred on them, and moved into the volume where
    it leaves it on one side alone: only a box larger than the volume holds anything that is not of the volume.

    With `near`, `overlap(box, near)` is at least `min_overlap`, or as large as the two extents admit (a long box and a
    wide one cannot share all of either): for that, `near` counts as inside the bounds. Nothing is drawn in vain: one
    axis after another, in random order, the place is uniform on the interval that leaves the axes to come enough to
    meet the demand.

    Args:
        rng: draws six numbers, always.
        bounds: where the box should lie, in voxels.
        extent: of the box along R, A, S, in voxels.
        shape: voxels of the volume.
        near: a box to overlap with.
        min_overlap: share of the smaller of the two, 0 to 1.
    """
    place, order = rng.uniform(size=3), rng.uniform(size=3).argsort()
    if near is not None and min_overlap > 0:
        bounds = hull(bounds, near, shape)
    ranges = [places(*axis) for axis in zip(bounds, extent, shape, strict=True)]
    shared = [0.0] * 3  # how much of `near` the box shares along each axis; at first the most that it can
    demand = 0.0
    if near is not None:
        shared = [most_shared(*axis) for axis in zip(ranges, extent, near, strict=True)]
        demand = min_overlap * min(math.prod(extent), math.prod(stop - start for start, stop in near))
    sides = [(0.0, 0.0)] * 3
    for axis in order:
        (low, high), length = ranges[axis], extent[axis]
        if demand > 0 and near is not None:
            others = math.prod(shared[k] for k in range(3) if k != axis)
            least = min(demand / others, shared[axis]) if others > 0 else shared[axis]
            start, stop = near[axis]
            low, high = max(low, start + least - length), min(high, stop - least)
        first = low + place[axis] * max(high - low, 0.0)
        sides[axis] = (float(first), float(first + length))
        if near is not None:
            shared[axis] = common(sides[axis], near[axis])
    return (sides[0], sides[1], sides[2])


def overlap(a: FloatBox, b: FloatBox) -> float:
    """What two boxes share, as a share of the smaller one: 0 to 1, the same in voxels and in millimetres."""
    smaller = min(math.prod(stop - start for start, stop in box) for box in (a, b))
    return math.prod(common(*axis) for axis in zip(a, b, strict=True)) / smaller


def covering(box: FloatBox, shape: tuple[int, int, int], margin: tuple[float, float, float]) -> IntBox:
    """The smallest box of whole voxels, inside the volume, that holds `box` and a margin around it.

    A box beside the volume is answered with one voxel at its border: reading it costs nothing, and it is not used.
    """
    sides = []
    for (start, stop), n, extra in zip(box, shape, margin, strict=True):
        first = min(max(math.floor(start - extra), 0), n - 1)
        sides.append((first, max(min(math.ceil(stop + extra), n), first + 1)))
    return (sides[0], sides[1], sides[2])


def hull(bounds: FloatBox, box: FloatBox, shape: tuple[int, int, int]) -> FloatBox:
    """The bounds, widened to hold what of a box lies in the volume."""
    r, a, s = (
        (min(start, max(first, 0.0)), max(stop, min(last, n)))
        for (start, stop), (first, last), n in zip(bounds, box, shape, strict=True)
    )
    return r, a, s


def places(bounds: tuple[float, float], length: float, n: int) -> tuple[float, float]:
    """From where to where a side of `length` may begin on an axis of `n` voxels; one place where it does not fit."""
    start, stop = bounds
    if stop - start >= length:
        return start, stop - length
    middle = (start + stop - length) / 2 if n >= length else (n - length) / 2
    if n >= length:
        middle = min(max(middle, 0.0), n - length)
    return middle, middle


def most_shared(room: tuple[float, float], length: float, side: tuple[float, float]) -> float:
    """The most of `side` that a side of `length` can hold when it begins between the two ends of `room`."""
    low, high = room
    centred = min(max((side[0] + side[1] - length) / 2, low), high)  # what is shared falls to both sides of the middle
    return common((centred, centred + length), side)


def common(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The length that two sides share."""
    return max(min(a[1], b[1]) - max(a[0], b[0]), 0.0)
