"""One crop of a scan: its scale and place are drawn, then only the box that it needs is read (Ghesu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from volssl.errors import UserError
from volssl.progress import counted, say
from volssl.transforms.crops import covering, draw_box, shrink
from volssl.transforms.resample import FloatBox, resample_box
from volssl.transforms.window import Windows, channels
from volssl.views.base import Box, Scan

Size = tuple[int, int, int]
Millimetres = tuple[float, float, float]
LOOKED_AT = 2000  # scans, at most, whose size `padding` asks for
PAPER_IMAGE_SIZES = ((112, 112, 96), (250, 250, 200))  # Table 1, along R, A, S


@dataclass(frozen=True)
class Rescale:
    """The paper's image rescaling (Ghesu et al. 2022, section 3.3 and Table 1).

    The image becomes a fraction s of its size, s uniform on `fraction` and one for all axes. Each axis is then held
    between the two `sizes`: where they and s disagree, the sizes win, axis by axis, so that voxels may change
    their proportions. 512 × 512 × 40 voxels at s = .4 become 205 × 205 × 96.

    Attributes:
        fraction: range of s. The paper counts voxels, not millimetres, and so do we.
        sizes: the smallest and the largest image, voxels along R, A, S.
    """

    fraction: tuple[float, float] = (0.1, 0.7)
    sizes: tuple[Size, Size] = PAPER_IMAGE_SIZES

    def image_size(self, shape: Size, s: float) -> Size:
        """Voxels of the rescaled image."""
        r, a, s_ = (
            min(max(round(s * n), low), high) for n, low, high in zip(shape, self.sizes[0], self.sizes[1], strict=True)
        )
        return r, a, s_


def in_voxels(size: Sequence[float], *, unit: str = "voxels", spacing_mm: Sequence[float] | None) -> Size:
    """The size of a crop in voxels, from that or from its extent in mm.

    Args:
        size: along R, A, S.
        unit: of the size; `mm` become voxels of `spacing_mm`, rounded.
        spacing_mm: nominal voxel size; None where a voxel has none, as under the paper's rescaling.

    Raises:
        UserError: for another unit, mm where a voxel has none, or a size that is no whole number of voxels above 0.
    """
    shown = "×".join(f"{n:g}" for n in size)
    if unit not in ("voxels", "mm"):
        raise UserError(f"unit {unit}: a crop's size is in voxels or in mm")
    if unit == "mm":
        if spacing_mm is None:
            raise UserError(
                f"a crop of {shown} mm: under the paper's rescaling a voxel has no millimetres; leave unit=voxels"
            )
        size = [round(mm / step) for mm, step in zip(size, spacing_mm, strict=True)]
    if len(size) != 3 or min(size) < 1 or any(n != int(n) for n in size):
        raise UserError(f"a crop of {shown} {unit}: it takes three whole numbers of voxels above 0")
    return int(size[0]), int(size[1]), int(size[2])


class Cropper:
    """Draw where a crop lies, read that box, window it to [0, 1], and bring it to the crop's size.

    `draw` says where, `cut` reads: any box can be cut again.

    The voxel size is `spacing_mm` times one factor drawn from `zoom`, or that of the image under `rescale`. The place
    is drawn last, uniform inside what is left of the foreground (of the whole image under `rescale`, as in the paper)
    after up to `border` has been cut off each side. A crop that is larger than that is centred on it, and looks beyond
    it; only a crop larger than the scan is padded, with the lowest value.

    Args:
        size: voxels of the crop along R, A, S; `in_voxels` makes them of millimetres.
        spacing_mm: nominal voxel size of the crop.
        zoom: range of the factor on the spacing; above 1 sees more, coarser.
        rescale: the paper's rule in the place of `spacing_mm` and `zoom`.
        border: largest share of the extent cut off each side, uniform and independent on the six sides.
        windows_hu: (center, width), or one such pair for each channel. MR goes by its percentiles instead.

    Raises:
        ValueError: for a border that leaves nothing.
    """

    def __init__(
        self,
        *,
        size: Sequence[int],
        spacing_mm: Sequence[float] = (0.875, 0.875, 3.5),
        zoom: tuple[float, float] = (1.0, 1.0),
        rescale: Rescale | None = None,
        border: float = 0.1,
        windows_hu: Windows | None = (55.0, 200.0),
    ) -> None:
        if not 0 <= border < 0.5:
            raise ValueError(f"a border is a share of 0 to below .5 of the extent, this one is {border}")
        self.size: Size = (int(size[0]), int(size[1]), int(size[2]))
        self.spacing_mm: Millimetres = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
        self.zoom, self.rescale, self.border = (float(zoom[0]), float(zoom[1])), rescale, border
        self.windows_hu = windows_hu

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> Tensor:
        """One scan -> one crop (C, *size), float32 in [0, 1]."""
        return self.cut(scan, self.draw(scan, rng))

    def draw(
        self, scan: Scan, rng: np.random.RandomState, *, near: FloatBox | None = None, min_overlap: float = 0.0
    ) -> FloatBox:
        """Where the crop lies: first and last edge along each axis, in voxels of the scan; 13 numbers are drawn.

        Args:
            near: another crop's box, of which `min_overlap` must be shared (see `transforms.crops.draw_box`).
            min_overlap: intersection over the smaller of the two crops.
        """
        cut = rng.uniform(0, self.border, size=6)
        whole: Box = ((0, scan.shape[0]), (0, scan.shape[1]), (0, scan.shape[2]))
        bounds = shrink(scan.foreground if self.rescale is None else whole, (cut[0], cut[1], cut[2], *cut[3:]))
        step = self.step(scan, rng.uniform())
        extent = (self.size[0] * step[0], self.size[1] * step[1], self.size[2] * step[2])
        return draw_box(rng, bounds, extent, scan.shape, near=near, min_overlap=min_overlap)

    def cut(self, scan: Scan, box: FloatBox) -> Tensor:
        """Read a box and bring it to the crop's size: (C, *size), float32 in [0, 1]."""
        return read_box(scan, box, self.size, self.windows_hu)

    def step(self, scan: Scan, drawn: float) -> tuple[float, float, float]:
        """The crop's voxel in voxels of the scan, at a share `drawn` of the range of sizes, 0 to 1."""
        low, high = self.zoom if self.rescale is None else self.rescale.fraction
        factor = low + drawn * (high - low)
        if self.rescale is None:
            r, a, s = (mm * factor / own for mm, own in zip(self.spacing_mm, scan.spacing_mm, strict=True))
        else:
            rescaled = self.rescale.image_size(scan.shape, factor)
            r, a, s = (n / new for n, new in zip(scan.shape, rescaled, strict=True))
        return r, a, s

    def is_padded(self, scan: Scan) -> bool:
        """Whether the scan is smaller than the crop at whatever scale, along some axis."""
        smallest = self.step(scan, 0.0 if self.rescale is None else 1.0)  # the largest image has the smallest voxels
        return any(n * step > have + 1e-6 for n, step, have in zip(self.size, smallest, scan.shape, strict=True))

    def padding(self, scans: Sequence[Scan]) -> str:
        """How many scans are smaller than the crop at its smallest, and so are padded, in words; empty for none."""
        every = max(1, -(-len(scans) // LOOKED_AT))
        scans, some = scans[::every], " looked at" if every > 1 else ""
        short = sum(self.is_padded(scan) for scan in scans)
        return (
            f"{short} of {counted(len(scans), 'volume')}{some} {'is' if short == 1 else 'are'} smaller than a crop of "
            f"{'×'.join(map(str, self.size))} voxels: the crop is centred and padded with the lowest value of the "
            "window"
            if short
            else ""
        )


class Cropping:
    """Views that cut crops.

    Attributes:
        croppers: what cuts them.
    """

    croppers: Sequence[Cropper] = ()

    def say_padding(self, scans: Sequence[Scan]) -> None:
        """Tell the user how many scans are smaller than a crop, and so are padded; of equal crops once."""
        for line in dict.fromkeys(cropper.padding(scans) for cropper in self.croppers):
            if line:
                say(line)


def read_box(scan: Scan, box: FloatBox, size: Size, windows_hu: Windows | None) -> Tensor:
    """Read only the voxels that a box needs, window them, and bring them to `size`: (C, *size) in [0, 1]."""
    voxels = needed(scan.shape, box, size)
    return resample_part(values(scan, voxels, windows_hu), voxels, box, size)


def needed(shape: Size, box: FloatBox, size: Size) -> Box:
    """The voxels of a scan that the resampling of a box to `size` looks at."""
    reach = [max((stop - start) / n, 1.0) for (start, stop), n in zip(box, size, strict=True)]  # of the filter
    return covering(box, shape, (reach[0], reach[1], reach[2]))


def values(scan: Scan, voxels: Box, windows_hu: Windows | None) -> Tensor:
    """Read voxels as a network is fed them: (C, R, A, S) in [0, 1]."""
    intensity = (0.0, 1.0) if scan.modality == "CT" else scan.intensity
    read = torch.from_numpy(np.ascontiguousarray(scan.read(voxels)))
    return channels(read, modality=scan.modality, windows_hu=windows_hu, intensity=intensity)


def resample_part(part: Tensor, voxels: Box, box: FloatBox, size: Size) -> Tensor:
    """Resample a box of a scan of which `part` holds the voxels `voxels`."""
    local = [(start - first, stop - first) for (start, stop), (first, _) in zip(box, voxels, strict=True)]
    return resample_box(part, (local[0], local[1], local[2]), size)
