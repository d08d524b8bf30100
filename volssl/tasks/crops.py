"""Crops for a network that marks voxels: what is marked is rare, and whole volumes show hardly anything else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import RandCropByLabelClasses
from torch import Tensor

from volssl.tasks.views import TaskViews
from volssl.views.base import Scan


class MarkedCrops:
    """Crops of a scan and its mask, by turns of chance about a marked voxel or about a bright one that is not.

    Marked voxels are drawn more often than they are met, as in nnU-Net (Isensee et al. 2021); the others are bright
    ones, among them what looks like a lesion: vessels, plexus, glands.

    Args:
        views: makes `image` and `mask` of a scan.
        size: voxels along R, A, S; where the grid has fewer, all of its.
        count: crops of a scan.
        marked: share of the crops about a marked voxel, where the scan has one.
        bright: share of the volume's highest value above which a voxel is bright.
    """

    def __init__(
        self, views: TaskViews, *, size: Sequence[int], count: int = 4, marked: float = 0.6, bright: float = 0.6
    ) -> None:
        grid = views.task.contract.grid
        self.views, self.count, self.marked, self.bright = views, count, marked, bright
        self.size = [min(have, asked) for have, asked in zip(grid, size, strict=True)]

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> `image` and `mask`, both (count, 1, *size)."""
        made = self.views(scan, rng)
        image, mask = made["image"], made["mask"]
        highest = float(image.max())
        bright = image > min(self.bright * highest, highest - 1e-6)  # at least the highest, whatever the image
        crop = RandCropByLabelClasses(
            spatial_size=self.size,
            ratios=[0, 1 - self.marked, self.marked],  # of what is neither, bright, marked
            num_classes=3,
            num_samples=self.count,
            warn=False,
        )
        crop.set_random_state(state=rng)
        kinds = torch.where(mask > 0, 2, bright.long())
        both = torch.stack([part.as_tensor() for part in crop(torch.cat([image, mask]), label=kinds)])
        return {"image": both[:, :-1].contiguous(), "mask": both[:, -1:].contiguous()}
