"""Multi-crop views of a scan: few large crops, many small ones (Caron et al. 2020; Ghesu et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from volssl.progress import say
from volssl.transforms.crops import covering, draw_box, shrink
from volssl.transforms.intensity import adjust, draw_intensity
from volssl.transforms.resample import FloatBox, resample_box
from volssl.transforms.window import window
from volssl.views.base import Scan

Size = tuple[int, int, int]
LOOKED_AT = 2000  # scans, at most, whose size `say_padding` asks for


class MultiCrop:
    """Draw crops of several sizes, each with its own scale, place, flip and intensity.

    For each crop: up to `border` of the foreground is cut off each side; the voxel size is `spacing_mm` times a factor
    drawn from `zoom`; the crop's place is drawn last, uniform where it lies inside what is left. A crop larger than
    that is centred and padded with the lowest value of the window: only what lies outside of the scan is padding.
    Intensities are windowed to [0, 1], then gamma and a linear change are drawn.

    Args:
        sizes: voxels of the large and of the small crops along R, A, S.
        counts: how many of each.
        spacing_mm: nominal voxel size of a crop along R, A, S.
        zoom: range of the factor on the spacing of large and of small crops; above 1 sees more, coarser.
        border: largest share of the foreground cut off each side.
        window_hu: (center, width).
        gamma: range of the exponent; [1.8, 2.6] in the paper, which darkens what is faint.
        gamma_probability: share of crops with a gamma.
        scale: range of the factor on the intensity.
        shift: range of the offset, in shares of the intensity range.
        flip: probability of a left-right flip.
        noise: largest standard deviation of added noise.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Size] = ((192, 224, 40), (96, 112, 20)),
        counts: Sequence[int] = (1, 4),
        spacing_mm: tuple[float, float, float] = (0.875, 0.875, 3.5),
        zoom: Sequence[tuple[float, float]] = ((0.7, 1.0), (0.6, 1.0)),
        border: float = 0.1,
        window_hu: tuple[float, float] = (55.0, 200.0),
        gamma: tuple[float, float] = (1.8, 2.6),
        gamma_probability: float = 0.5,
        scale: tuple[float, float] = (0.9, 1.1),
        shift: tuple[float, float] = (-0.2, 0.2),
        flip: float = 0.5,
        noise: float = 0.05,
    ) -> None:
        if not len(sizes) == len(counts) == len(zoom):
            raise ValueError(f"sizes, counts and zoom are of one length, not {len(sizes)}, {len(counts)}, {len(zoom)}")
        self.sizes = [(int(r), int(a), int(s)) for r, a, s in sizes]
        self.counts, self.zoom = list(counts), [(float(low), float(high)) for low, high in zoom]
        self.spacing_mm, self.border, self.window_hu = spacing_mm, border, window_hu
        self.gamma, self.gamma_probability, self.scale, self.shift = gamma, gamma_probability, scale, shift
        self.flip, self.noise = flip, noise

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `crop0`, `crop1`, … (C, *size), float32 in [0, 1], large ones first."""
        kinds = [kind for kind, count in enumerate(self.counts) for _ in range(count)]
        return {f"crop{i}": self.crop(scan, rng, size=self.sizes[k], zoom=self.zoom[k]) for i, k in enumerate(kinds)}

    def say_padding(self, scans: Sequence[Scan]) -> None:
        """Tell the user how many scans are smaller than a crop at its smallest zoom, and so are padded."""
        every = max(1, -(-len(scans) // LOOKED_AT))
        scans, some = scans[::every], " looked at" if every > 1 else ""
        for size, zoom in zip(self.sizes, self.zoom, strict=True):
            needed = [n * mm * zoom[0] for n, mm in zip(size, self.spacing_mm, strict=True)]
            short = sum(any(have < need for have, need in zip(extent_mm(scan), needed, strict=True)) for scan in scans)
            if short:
                say(
                    f"{short} of {len(scans)} volumes{some} are smaller than a crop of {'×'.join(map(str, size))} "
                    "voxels: the crop is centred and padded with the lowest value of the window"
                )

    def crop(self, scan: Scan, rng: np.random.RandomState, *, size: Size, zoom: tuple[float, float]) -> Tensor:
        """One crop, (C, *size)."""
        cut = rng.uniform(0, self.border, size=6)
        bounds = shrink(scan.foreground, (cut[0], cut[1], cut[2], cut[3], cut[4], cut[5]))
        factor = rng.uniform(*zoom)
        step = [mm * factor / own for mm, own in zip(self.spacing_mm, scan.spacing_mm, strict=True)]
        box = draw_box(rng, bounds, (size[0] * step[0], size[1] * step[1], size[2] * step[2]), scan.shape)
        image = read_resampled(scan, box, size, self.window_hu)
        if rng.uniform() < self.flip:
            image = image.flip(1)
        change = draw_intensity(
            rng, gamma=self.gamma, gamma_probability=self.gamma_probability, scale=self.scale, shift=self.shift
        )
        image = adjust(image, **change)
        sigma = rng.uniform(0, self.noise)
        if self.noise:
            drawn = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
            image = (image + sigma * drawn).clamp_(0.0, 1.0)
        return image


def extent_mm(scan: Scan) -> tuple[float, float, float]:
    """Extent of what is not air along R, A, S."""
    r, a, s = ((stop - start) * mm for (start, stop), mm in zip(scan.foreground, scan.spacing_mm, strict=True))
    return r, a, s


def read_resampled(scan: Scan, box: FloatBox, size: Size, window_hu: tuple[float, float]) -> Tensor:
    """Read only what a box needs, window it, and bring it to `size`: (C, *size) in [0, 1]."""
    margin = [max((stop - start) / n, 1.0) for (start, stop), n in zip(box, size, strict=True)]
    whole = covering(box, scan.shape, (margin[0], margin[1], margin[2]))
    image = window(torch.from_numpy(np.ascontiguousarray(scan.read(whole))), *window_hu)
    local = [(start - first, stop - first) for (start, stop), (first, _) in zip(box, whole, strict=True)]
    return resample_box(image, (local[0], local[1], local[2]), size)
