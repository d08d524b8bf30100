"""Two crops that belong together: of one scan, or of two that metadata pairs (Chen et al. 2020; Vu et al. 2021)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from volssl.views.base import Scan
from volssl.views.cropper import Cropping
from volssl.views.multicrop import MultiCrop


class TwoCrops(Cropping):
    """Two crops of one size, each drawn and changed by itself.

    Args:
        crops: what crops are made of, of one size and two of it; two of 96³ voxels of 1 mm where None.

    Raises:
        ValueError: for crops of several sizes, or another number of them.
    """

    def __init__(self, crops: MultiCrop | None = None) -> None:
        self.crops = crops or MultiCrop(
            sizes=[(96, 96, 96)], counts=[2], zoom=[(0.7, 1.0)], spacing_mm=(1.0, 1.0, 1.0), gamma_probability=0.2
        )
        self.croppers = self.crops.croppers
        if self.crops.counts != [2]:
            raise ValueError(f"a pair is two crops of one size: counts is [2], not {self.crops.counts}")

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `crop0` and `crop1` (C, *size), float32 in [0, 1]; they overlap by the crops' `min_overlap`."""
        return self.crops(scan, rng)

    def pair(self, scan: Scan, partner: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """`crop0` of a scan and `crop1` of its partner; two of the scan where it is its own."""
        if partner.id == scan.id:
            return self(scan, rng)
        mine, theirs = self.crops.draw(scan, rng), self.crops.draw(partner, rng)
        (first,), (second,) = self.crops.make(scan, mine[:1]), self.crops.make(partner, theirs[:1])
        return {"crop0": first, "crop1": second}
