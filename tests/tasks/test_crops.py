"""Crops for a network that marks voxels: where they lie, and that image and mask are cut alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from volssl.tasks import TaskViews
from volssl.tasks.crops import MarkedCrops
from volssl.views.base import Scan

GRID = (20, 24, 12)
SIZE = (5, 5, 3)
LESION, VESSEL = (10, 12, 6), (4, 5, 3)  # both bright, far from each other and from the border


def views_of(image: Tensor, mask: Tensor) -> TaskViews:
    """Views that give these tensors, whatever the scan."""

    class Given:
        task = SimpleNamespace(contract=SimpleNamespace(grid=GRID))

        def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
            return {"image": image, "mask": mask}

    return cast(TaskViews, Given())


def brain(*, marked: bool = True) -> tuple[Tensor, Tensor]:
    """A dim volume, no two voxels alike, of one lesion of a voxel and one vessel; and its mask."""
    image = torch.linspace(0.1, 0.4, 20 * 24 * 12).reshape(1, *GRID).contiguous()
    image[(0, *LESION)], image[(0, *VESSEL)] = 0.8, 1.0
    mask = torch.zeros(1, *GRID)
    mask[(0, *LESION)] = float(marked)
    return image, mask


def crops(image: Tensor, mask: Tensor, *, seed: int = 0, count: int = 1000, **settings: Any) -> dict[str, Tensor]:
    made = MarkedCrops(views_of(image, mask), size=SIZE, count=count, **settings)
    return made(cast(Scan, None), np.random.RandomState(seed))


def test_three_in_five_crops_are_about_what_is_marked_and_the_others_about_what_is_bright() -> None:
    image, mask = brain()
    made = crops(image, mask)
    assert made["image"].shape == made["mask"].shape == (1000, 1, *SIZE)
    middle = made["image"][:, 0, 2, 2, 1]
    lesion, vessel = (middle == image[(0, *LESION)]), (middle == image[(0, *VESSEL)])
    assert bool((lesion | vessel).all())
    assert int(lesion.sum()) == pytest.approx(600, abs=50)  # three standard deviations of 1000 draws
    assert torch.equal(made["mask"].sum(dim=(1, 2, 3, 4)), lesion.float())


def test_image_and_mask_are_cut_at_one_place() -> None:
    image, mask = brain()
    mask = (image > torch.median(image)).float()
    made = crops(image, mask, count=50)
    assert torch.equal(made["mask"], (made["image"] > torch.median(image)).float())


def test_where_nothing_is_marked_all_crops_are_about_what_is_bright() -> None:
    image, mask = brain(marked=False)
    middle = crops(image, mask, bright=0.9)["image"][:, 0, 2, 2, 1]
    assert bool((middle == image[(0, *VESSEL)]).all())


@pytest.mark.parametrize("value", [0.0, -1.0, 0.3])
def test_an_even_image_has_crops_as_well(value: float) -> None:
    made = crops(torch.full((1, *GRID), value), torch.zeros(1, *GRID), count=3)
    assert torch.equal(made["image"], torch.full((3, 1, *SIZE), value))


def test_a_crop_is_no_larger_than_the_grid_and_another_draw_is_another() -> None:
    image, mask = brain()
    whole = MarkedCrops(views_of(image, mask), size=(64, 8, 64), count=2)(cast(Scan, None), np.random.RandomState(0))
    assert whole["image"].shape == (2, 1, 20, 8, 12)
    first, again, other = (crops(image, mask, seed=seed, count=8)["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
