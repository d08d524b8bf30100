"""A crop and its corruption, to be undone (Models Genesis; Zhou et al. 2021, 3.1)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from volssl.transforms.bezier import RandBezierIntensity
from volssl.transforms.flips import RandFlips
from volssl.transforms.masks import RandBlockMask
from volssl.transforms.paint import RandInPaint, RandOutPaint
from volssl.transforms.patches import RandSwapPatches
from volssl.transforms.replay import Drawn, Replayable, Size
from volssl.transforms.shuffle import RandLocalShuffle
from volssl.views.base import Scan
from volssl.views.cropper import Cropper, Cropping


class RestorationViews(Cropping):
    """One crop of a scan, flipped, as `target`, and the same corrupted as `input`.

    In the order, and by default with the probabilities, of Models Genesis: flips, local shuffling, non-linear
    intensities, swapped patches, painting, block masks. Painting is either out-painting or in-painting.

    Args:
        crops: what the crop is made of.
        flip: that a flip is made, and that another one follows, up to three; along any axis.
        shuffle: probability of local pixel shuffling.
        non_linear: probability of a Bézier intensity.
        swap: probability of swapped patches (Chen et al. 2019).
        paint: probability of painting.
        outer: share of the paintings that keep boxes and turn all else to noise; the others do so with boxes.
        mask: probability of block masks.
        mask_share: range of the share that block masks hide; (0, .3) in Swin-UNETR, (.75, .75) in MAE.
        mask_grid: voxels of the cells that are hidden whole, as in MAE; None for free blocks.
        mask_fill: what stands in them; None for noise.
    """

    def __init__(
        self,
        *,
        crops: Cropper | None = None,
        flip: float = 0.4,
        shuffle: float = 0.5,
        non_linear: float = 0.9,
        swap: float = 0.0,
        paint: float = 0.9,
        outer: float = 0.8,
        mask: float = 0.0,
        mask_share: tuple[float, float] = (0.0, 0.3),
        mask_grid: Size | None = None,
        mask_fill: float | None = None,
    ) -> None:
        self.crops = crops or Cropper(size=(96, 96, 96), spacing_mm=(1.0, 1.0, 1.0))
        self.croppers = [self.crops]
        self.flips = RandFlips(prob=flip)
        self.shuffle, self.non_linear = RandLocalShuffle(prob=shuffle), RandBezierIntensity(prob=non_linear)
        self.swap = RandSwapPatches(prob=swap)
        self.paint, self.outer = paint, outer
        self.out_paint, self.in_paint = RandOutPaint(), RandInPaint()
        self.mask = RandBlockMask(prob=mask, share=mask_share, grid=mask_grid, fill=mask_fill)

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `input` and `target` (C, *size), float32 in [0, 1]."""
        crop = self.crops(scan, rng)
        target = self.flips.apply(crop, self.flips.draw(rng, self.crops.size))
        image = target
        for change, drawn in self.draw(rng, self.crops.size):
            image = change.apply(image, drawn)
        return {"input": image, "target": target}

    def draw(self, rng: np.random.RandomState, size: Size) -> list[tuple[Replayable, Drawn | None]]:
        """How a crop of `size` is corrupted, in order; always as many draws."""
        first = [(change, change.draw(rng, size)) for change in (self.shuffle, self.non_linear, self.swap)]
        painted, outside = rng.uniform() < self.paint, rng.uniform() < self.outer
        outer, inner = self.out_paint.draw(rng, size), self.in_paint.draw(rng, size)
        mask = self.mask.draw(rng, size)
        painting = (self.out_paint, outer) if outside else (self.in_paint, inner)
        return [*first, *([painting] if painted else []), (self.mask, mask)]
