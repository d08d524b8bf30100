"""Crops that are turned about the S axis: which way is to be told (Gidaris et al. 2018; Tang et al. 2022)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from volssl.transforms.masks import RandBlockMask
from volssl.views.base import Scan
from volssl.views.cropper import Cropping
from volssl.views.multicrop import MultiCrop


class TurnedCrops(Cropping):
    """Crops, each turned by a multiple of 90 degrees from R towards A.

    Quarter turns need as many voxels along R as along A, of equal size in mm: else the shape of a crop or of its voxels
    would tell the turn. Crops that are not square are turned by 0 or 180 degrees alone, with `turns=2`.

    Args:
        crops: what the crop is made of, one a scan; of 96³ voxels of 1 mm where None. It is not mirrored along A, which
            would hide where the front is; along R it may be.
        turns: 4 for quarter turns, 2 for half turns.

    Raises:
        ValueError: for quarter turns of crops that are not square, more than one crop, or mirrored ones.
    """

    def __init__(self, crops: MultiCrop | None = None, *, turns: int = 4) -> None:
        self.crops = crops or MultiCrop(
            sizes=[(96, 96, 96)], counts=[1], zoom=[(0.7, 1.0)], spacing_mm=(1.0, 1.0, 1.0), gamma_probability=0.2
        )
        self.croppers = self.crops.croppers
        if turns not in (2, 4):
            raise ValueError(f"turns is 4, by 90 degrees, or 2, by 180, not {turns}")
        if self.crops.counts != [1]:
            raise ValueError(f"one crop is turned: counts is [1], not {self.crops.counts}")
        check_square(self.crops, turns)
        self.turns = turns

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `rotated` (C, *size), and how often by 90 degrees, or by 180, it was `turned`."""
        crop = self.crops(scan, rng)["crop0"]
        turned = int(rng.randint(self.turns))
        return {"rotated": turn(crop, turned, self.turns), "turns": torch.tensor(turned)}


class TurnedPair(Cropping):
    """Swin-UNETR's pretext views: one crop, turned twice at random, and each then partly hidden (Tang et al. 2022).

    What a sample holds serves three tasks at once: `crop0` and `crop1` are contrasted, restored to `target0` and
    `target1`, and tell `turns0` and `turns1`; `Combined` says which part reads what. As in the authors' code, both are
    turns of the same crop, and noise stands in what is hidden.

    Args:
        crops: what the crop is made of, as for `TurnedCrops`.
        hide: what is done to each turned crop.
        turns: 4 for quarter turns, 2 for half turns.
    """

    def __init__(self, crops: MultiCrop | None = None, *, hide: RandBlockMask | None = None, turns: int = 4) -> None:
        self.turned = TurnedCrops(crops, turns=turns)
        self.croppers = self.turned.croppers
        self.hide = hide or RandBlockMask()

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `crop0`, `target0`, `crop1`, `target1` (C, *size), and `turns0`, `turns1`."""
        crop = self.turned.crops(scan, rng)["crop0"]
        sample = {}
        for i in (0, 1):
            turned = int(rng.randint(self.turned.turns))
            target = turn(crop, turned, self.turned.turns)
            drawn = self.hide.draw(rng, (target.shape[1], target.shape[2], target.shape[3]))
            sample[f"crop{i}"] = self.hide.apply(target, drawn)
            sample |= {f"target{i}": target, f"turns{i}": torch.tensor(turned)}
        return sample


def turn(image: Tensor, times: int, turns: int) -> Tensor:
    """(C, R, A, S) turned from R towards A `times` times, by a full turn over `turns`; the last axis stays."""
    return image.rot90(times * (4 // turns), (1, 2)).contiguous()


def check_square(crops: MultiCrop, turns: int) -> None:
    """Raise a ValueError where the turn could be told from the crop's form, or not from what it shows."""
    cropper = crops.croppers[0]
    (r, a, _), (r_mm, a_mm, _) = cropper.size, cropper.spacing_mm
    if turns == 4 and (r != a or (r_mm != a_mm and cropper.rescale is None)):
        raise ValueError(
            f"a crop of {r}×{a} voxels of {r_mm}×{a_mm} mm in plane has no quarter turns: give it as many voxels of "
            "the same size along R and A, or take turns=2"
        )
    if crops.flip[1]:
        raise ValueError(f"a mirror image along A hides a half turn: flip is [_, 0, _], not {list(crops.flip)}")
