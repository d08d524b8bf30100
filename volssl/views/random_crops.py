"""Random crops at the scan's own voxel size, several of one place read as one box: the plainest view there is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from volssl.transforms.window import window
from volssl.views.base import Box, Scan

Size = tuple[int, int, int]
AIR_HU = -1024.0


class RandomCrops:
    """Draw `count` crops around one another, within the foreground, of which one bounding box is read.

    The first crop lies anywhere in the foreground, uniform; each other one within `spread` of it. Along an axis where
    the foreground is smaller than a crop, the crop holds all of it and lies inside the volume; what still leaves the
    volume is padded. Nothing is resampled, turned or changed.

    As `RandSpatialCropSamplesd` of MONAI, on its own after `CropForegroundd` and `SpatialPadd`.

    Args:
        size: voxels of a crop along R, A, S (`roi_size`).
        count: crops a volume (`num_samples`).
        spread: how far from the first crop the others begin at most, along each axis, in sizes of a crop. A small one
            reads less: at most 1 + 2 × spread sizes along an axis, whatever the count.
        window_hu: (center, width) to map to [0, 1]; None keeps the stored values.
        pad: what stands outside of the volume; None takes 0 after a window, air (-1024) for CT and 0 for MR without.
        in_foreground: False lets crops lie anywhere in the volume.
    """

    def __init__(
        self,
        *,
        size: Size = (96, 96, 96),
        count: int = 1,
        spread: float = 0.25,
        window_hu: tuple[float, float] | None = None,
        pad: float | None = None,
        in_foreground: bool = True,
    ) -> None:
        if count < 1 or min(size) < 1:
            raise ValueError(f"{count} crops of {size} voxels are none")
        if spread < 0:
            raise ValueError(f"a spread is 0 or more sizes of a crop, this one is {spread}")
        self.size = (int(size[0]), int(size[1]), int(size[2]))
        self.count, self.spread, self.window_hu, self.pad = count, spread, window_hu, pad
        self.in_foreground = in_foreground

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `image` (count, C, *size), float32: in [0, 1] after a window, else as stored."""
        bounds = scan.foreground if self.in_foreground else whole(scan.shape)
        first = corners(rng, bounds, scan.shape, self.size, self.count, self.spread)
        last = first + np.array(self.size)
        low, high = np.maximum(first.min(axis=0), 0), np.minimum(last.max(axis=0), scan.shape)
        read = scan.read(tuple(zip(low.tolist(), high.tolist(), strict=True)))  # type: ignore[arg-type]
        image = torch.from_numpy(np.ascontiguousarray(read))
        if self.window_hu is not None:
            image = window(image, *self.window_hu)
        if self.count == 1 and tuple(image.shape[1:]) == self.size:
            return {"image": image.to(torch.float32)[None]}
        crops = torch.empty((self.count, image.shape[0], *self.size), dtype=torch.float32)
        if (first < 0).any() or (last > scan.shape).any():
            crops.fill_(self._padding(scan.modality))
        for crop, start in zip(crops, first, strict=True):
            copy_overlap(crop, image, start - low)  # and cast: one pass
        return {"image": crops}

    def _padding(self, modality: str) -> float:
        if self.pad is not None:
            return self.pad
        return AIR_HU if self.window_hu is None and modality == "CT" else 0.0


def corners(
    rng: np.random.RandomState, bounds: Box, shape: tuple[int, ...], size: Size, count: int, spread: float
) -> np.ndarray:
    """The first voxel of each crop along R, A, S: (count, 3); negative where a crop is larger than the volume."""
    lowest, highest = np.array([room(*axis) for axis in zip(bounds, shape, size, strict=True)]).T
    drawn = rng.uniform(size=(count, 3))  # always as many, so that one volume's size never shifts what is drawn next
    first = np.floor(lowest + drawn[0] * (highest - lowest + 1))
    shift = np.rint((2 * drawn[1:] - 1) * spread * np.array(size))
    placed: np.ndarray = np.clip(np.vstack([first, first + shift]), lowest, highest).astype(int)
    return placed


def room(bounds: tuple[int, int], n: int, size: int) -> tuple[int, int]:
    """The lowest and the highest place where a crop may begin along an axis of `n` voxels."""
    start, stop = bounds
    if n <= size:
        middle = (n - size) // 2
        return middle, middle
    if stop - start >= size:
        return start, stop - size
    return max(0, stop - size), min(start, n - size)


def copy_overlap(crop: Tensor, image: Tensor, start: np.ndarray) -> None:
    """Copy into a crop (C, *size) what an image (C, R, A, S) holds from voxel `start` on, which may lie before it."""
    into, out = [slice(None)], [slice(None)]
    for first, n, size in zip(start.tolist(), image.shape[1:], crop.shape[1:], strict=True):
        low, high = max(first, 0), min(first + size, n)
        into.append(slice(low - first, high - first))
        out.append(slice(low, high))
    crop[tuple(into)] = image[tuple(out)]


def whole(shape: tuple[int, int, int]) -> Box:
    """The box of all voxels."""
    return (0, shape[0]), (0, shape[1]), (0, shape[2])
