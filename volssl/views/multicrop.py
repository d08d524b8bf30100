"""Multi-crop views of a scan: few large crops, many small ones (Caron et al. 2020; Ghesu et al. 2022, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from volssl.transforms.intensity import add_noise, adjust, draw_intensity
from volssl.transforms.resample import FloatBox
from volssl.transforms.window import Windows
from volssl.views.base import Box, Scan
from volssl.views.cropper import Cropper, Cropping, Millimetres, Rescale, needed, resample_part, values
from volssl.views.energies import Energies, Spectrum


@dataclass(frozen=True)
class Crop:
    """All that was drawn for one crop: cut again, it comes out the same.

    Attributes:
        kind: which of the sizes.
        box: first and last edge along each axis, in voxels of the scan.
        reference: energies to bring the bands to, (bands, channels), or None.
        flips: the axes to mirror, 1 to 3.
        intensity: `gamma`, `scale` and `shift`.
        noise: its standard deviation.
        seed: of the noise.
    """

    kind: int
    box: FloatBox
    reference: np.ndarray | None
    flips: tuple[int, ...]
    intensity: dict[str, float]
    noise: float
    seed: int


class MultiCrop(Cropping):
    """Draw crops of several sizes, each with its own scale, place, flips and intensity.

    Each crop is a `Cropper`'s: windowed to [0, 1], its scale drawn before its place. Then, in this order: its energy
    bands are brought to drawn energies, axes are mirrored, gamma and then a linear change are applied, noise is added.
    All of that is drawn for every crop by itself. `draw` says what happens, `make` does it.

    The defaults are for one GPU or CPU. They keep the lesion in both crops of 80 % of the pairs that SwAV compares, on
    40 simulated hemorrhages (`benchmarks/views.py`); 75 % with the paper's gamma and shift, 39 % with small crops finer
    than the large ones, which mostly miss the lesion. On coarser voxels small crops blur it: at 3.5 × 3.5 × 7 mm,
    crops of 24 × 28 × 10 keep it in 56 % of the pairs, crops of 32 × 38 × 14 in 71 %.

    Args:
        sizes: of the large and of the small crops, voxels along R, A, S; `in_voxels` makes them of millimetres.
        counts: how many of each.
        spacing_mm: nominal voxel size of a crop along R, A, S.
        zoom: range of the factor on the spacing of large and of small crops; above 1 sees more, coarser.
        rescale: the paper's rule in the place of `spacing_mm` and `zoom`.
        border: largest share of the extent cut off each side.
        min_overlap: how much of itself or of the first crop, whichever is smaller, every other crop shares with the
            first at least: 0 to 1, of the volume. `border` gives way to it.
        window_hu: (center, width), or one such pair for each channel.
        energies: reference energies of the store, or None for no change of energy bands.
        energy_probability: share of crops whose bands are changed.
        gamma: range of the exponent; [1.8, 2.6] in the paper, which darkens what is faint.
        gamma_probability: share of crops with a gamma.
        scale: range of the factor on the intensity.
        shift: range of the offset, in shares of the whole image's intensity range, which is 1 after the window.
        flip: probability of a mirror image along R, A, S.
        noise: largest standard deviation of added noise.

    Raises:
        ValueError: for lists of unequal length, or energies of other windows.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[int]] = ((192, 224, 40), (96, 112, 20)),
        counts: Sequence[int] = (2, 2),
        spacing_mm: Millimetres = (0.875, 0.875, 3.5),
        zoom: Sequence[tuple[float, float]] = ((0.8, 1.1), (1.2, 1.6)),
        rescale: Rescale | None = None,
        border: float = 0.1,
        min_overlap: float = 0.5,
        window_hu: Windows = (55.0, 200.0),
        energies: Energies | None = None,
        energy_probability: float = 0.5,
        gamma: tuple[float, float] = (1.8, 2.6),
        gamma_probability: float = 0.0,
        scale: tuple[float, float] = (0.92, 1.08),
        shift: tuple[float, float] = (-0.02, 0.02),
        flip: tuple[float, float, float] = (0.5, 0.0, 0.0),
        noise: float = 0.03,
    ) -> None:
        if not len(sizes) == len(counts) == len(zoom):
            raise ValueError(f"sizes, counts and zoom are of one length, not {len(sizes)}, {len(counts)}, {len(zoom)}")
        if not 0 <= min_overlap <= 1:
            raise ValueError(f"an overlap is a share of 0 to 1, this one is {min_overlap}")
        if energies is not None:
            energies.check_windows(window_hu)
        self.croppers = [
            Cropper(
                size=size,
                spacing_mm=spacing_mm,
                zoom=factors,
                rescale=rescale,
                border=border,
                windows_hu=window_hu,
            )
            for size, factors in zip(sizes, zoom, strict=True)
        ]
        self.counts, self.min_overlap, self.window_hu = list(counts), min_overlap, window_hu
        self.energies, self.energy_probability = energies, energy_probability
        self.gamma, self.gamma_probability, self.scale, self.shift = gamma, gamma_probability, scale, shift
        self.flip, self.noise = flip, noise

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `crop0`, `crop1`, … (C, *size), float32 in [0, 1], large ones first."""
        return {f"crop{i}": crop for i, crop in enumerate(self.make(scan, self.draw(scan, rng)))}

    def draw(self, scan: Scan, rng: np.random.RandomState) -> list[Crop]:
        """What happens to each crop, large ones first; always as many draws for a scan of one modality."""
        crops: list[Crop] = []
        for kind in (kind for kind, count in enumerate(self.counts) for _ in range(count)):
            near = crops[0].box if crops else None
            box = self.croppers[kind].draw(scan, rng, near=near, min_overlap=self.min_overlap)
            reference = self.energies.draw(scan.modality, rng) if self.energies is not None else None
            crops.append(
                Crop(
                    kind=kind,
                    box=box,
                    reference=reference if rng.uniform() < self.energy_probability else None,
                    flips=tuple(1 + int(axis) for axis in np.flatnonzero(rng.uniform(size=3) < self.flip)),
                    intensity=draw_intensity(
                        rng,
                        gamma=self.gamma,
                        gamma_probability=self.gamma_probability,
                        scale=self.scale,
                        shift=self.shift,
                    ),
                    noise=rng.uniform(0, self.noise),
                    seed=int(rng.randint(2**31)),
                )
            )
        return crops

    def make(self, scan: Scan, crops: Sequence[Crop]) -> list[Tensor]:
        """Cut the crops, (C, *size) each, and change them as was drawn."""
        bands = self.energies is not None and any(crop.reference is not None for crop in crops)
        spectrum = Spectrum(scan, self.energies) if bands and self.energies is not None else None
        made = []
        for image, crop in zip(self.cut(scan, crops), crops, strict=True):
            if spectrum is not None and crop.reference is not None:
                image = spectrum.rebalance(image, crop.box, crop.reference)
            if crop.flips:
                image = image.flip(crop.flips)
            image = adjust(image, **crop.intensity)
            made.append(add_noise(image, sigma=crop.noise, seed=crop.seed) if self.noise else image)
        return made

    def cut(self, scan: Scan, crops: Sequence[Crop]) -> list[Tensor]:
        """The crops as the scan has them: one box that holds all is read where it is no larger than all of them."""
        sizes = [self.croppers[crop.kind].size for crop in crops]
        voxels = [needed(scan.shape, crop.box, size) for crop, size in zip(crops, sizes, strict=True)]
        hull = around(voxels)
        if volume(hull) > sum(map(volume, voxels)):
            return [self.croppers[crop.kind].cut(scan, crop.box) for crop in crops]
        read = values(scan, hull, self.window_hu)
        return [
            resample_part(read[within(part, hull)], part, crop.box, size)
            for part, crop, size in zip(voxels, crops, sizes, strict=True)
        ]


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all of them."""
    r, a, s = ((min(side[0] for side in sides), max(side[1] for side in sides)) for sides in zip(*boxes, strict=True))
    return r, a, s


def volume(box: Box) -> int:
    """Voxels of a box."""
    return math.prod(stop - start for start, stop in box)


def within(box: Box, hull: Box) -> tuple[slice, ...]:
    """Where a box lies in what was read of the box around it, (C, R, A, S)."""
    return slice(None), *(slice(a - first, b - first) for (a, b), (first, _) in zip(box, hull, strict=True))
