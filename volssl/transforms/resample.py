"""Cut a box out of a volume and bring it to a grid, in one antialiased step.

Each axis is one small matrix of triangle weights, widened where the box shrinks (the filter of Pillow's antialiased
bilinear resize), so that crop, padding and rescaling are three matrix products: exact, deterministic, and without the
aliasing of point sampling, which would make a thin bleed come and go with the phase of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

FloatBox = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


def axis_weights(length: int, start: float, stop: float, size: int) -> Tensor:
    """Weights (size, length) that resample voxels of an axis onto `size` equal cells of [start, stop).

    Coordinates are voxel edges: voxel i covers [i, i + 1). A row sums to 1 where its cell's center lies inside the
    axis, and is zero where it lies outside.
    """
    step = (stop - start) / size
    support = max(step, 1.0)
    centers = start + (torch.arange(size, dtype=torch.float64) + 0.5) * step
    voxels = torch.arange(length, dtype=torch.float64) + 0.5
    weights = (1 - (voxels[None, :] - centers[:, None]).abs() / support).clamp_(min=0)
    weights /= weights.sum(dim=1, keepdim=True).clamp_(min=1e-12)
    inside = (centers >= 0) & (centers <= length)
    return (weights * inside[:, None]).to(torch.float32)


def resample_box(image: Tensor, box: FloatBox, size: tuple[int, int, int], fill: float = 0.0) -> Tensor:
    """Resample the box of a volume to `size` voxels.

    Args:
        image: (C, R, A, S), floating point.
        box: first and last edge along each axis, in voxels; it may leave the volume.
        size: voxels of the result along R, A, S.
        fill: value outside of the volume.

    Returns:
        (C, *size), float32.

    Raises:
        ValueError: for an empty box or a size below 1.
    """
    if any(stop <= start for start, stop in box) or any(n < 1 for n in size):
        raise ValueError(f"a box of positive extent and a size of at least one voxel are needed, not {box} and {size}")
    result = image.to(torch.float32)
    if fill:
        result = result - fill
    shrinks_most_first = sorted(range(3), key=lambda axis: size[axis] / image.shape[axis + 1])
    for axis in shrinks_most_first:
        (start, stop), n, length = box[axis], size[axis], image.shape[axis + 1]
        if (start, stop, n) != (0, length, length):
            result = along(result, axis, axis_weights(length, start, stop, n))
    return (result + fill).contiguous() if fill else result.contiguous()


def along(image: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Multiply one spatial axis of (C, R, A, S), 0 to 2, by a matrix (new, old); nothing is transposed in memory."""
    if axis == 2:
        return image @ weights.T
    if axis == 1:
        return weights @ image
    c, r, a, s = image.shape
    return (weights @ image.reshape(c, r, a * s)).reshape(c, -1, a, s)
