"""Block masks: boxes are hidden, a few large ones (Swin-UNETR; Tang et al. 2022) or most of a grid (MAE; He et al.)."""

from __future__ import annotations

import math

import numpy as np
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.boxes import random_box, region
from volssl.transforms.paint import in_paint
from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size

MOST_BLOCKS = 10_000


def block_mask(image: Tensor, boxes: np.ndarray, *, fill: float | None = None, seed: int = 0) -> Tensor:
    """Hide boxes.

    Args:
        image: (C, R, A, S); it stays as it is.
        boxes: (n, 3, 2), first voxel and the one after the last.
        fill: what stands in them; None for noise, uniform on [0, 1].
        seed: of the noise.
    """
    if fill is None:
        return in_paint(image, boxes, seed)
    result = image.clone()
    for box in boxes:
        result[region(box)] = fill
    return result


class RandBlockMask(Replayable):
    """Hide a share of the voxels, drawn for each image.

    Without a grid, blocks of random size and place are hidden as long as all together stay within the drawn share:
    Swin-UNETR's cutout, with its authors' sizes, and noise as in their code. Unlike there, what overlaps counts once,
    and the last block does not go beyond the share. With a grid, so many of its cells are hidden, each whole, as fit
    the share: `share=(0.75, 0.75), grid=(16, 16, 16), fill=0.0` masks as MAE does (He et al. 2022).

    Args:
        share: range of the hidden share.
        sides: range of a block's sides, in shares of each axis; not used with a grid.
        grid: voxels of a grid's cell along R, A, S; cells at the far border may be smaller.
        fill: value of what is hidden; None for noise.
        prob: that an image is changed.
    """

    function = staticmethod(block_mask)

    def __init__(
        self,
        *,
        share: tuple[float, float] = (0.0, 0.3),
        sides: tuple[float, float] = (0.05, 0.25),
        grid: Size | None = None,
        fill: float | None = None,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        if not 0 <= share[0] <= share[1] < 1:
            raise ValueError(f"the hidden share is a range within [0, 1), not {tuple(share)}")
        if not 0 < sides[0] <= sides[1] <= 1 or (grid is not None and min(grid) < 1):
            raise ValueError(f"blocks have sides, in shares of an axis or in voxels, not {tuple(sides)} and {grid}")
        self.share, self.sides = (share[0], share[1]), (sides[0], sides[1])
        self.grid, self.fill = grid, fill

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        share = rng.uniform(*self.share)
        boxes = free_blocks(rng, size, share, self.sides) if self.grid is None else cells(rng, size, share, self.grid)
        return {"boxes": boxes, "fill": self.fill, "seed": int(rng.randint(2**31))}


class RandBlockMaskd(ReplayableMap):
    """`RandBlockMask` on the entries of a dictionary, all alike."""

    def __init__(
        self,
        keys: KeysCollection,
        *,
        share: tuple[float, float] = (0.0, 0.3),
        sides: tuple[float, float] = (0.05, 0.25),
        grid: Size | None = None,
        fill: float | None = None,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        mask = RandBlockMask(share=share, sides=sides, grid=grid, fill=fill, prob=prob)
        super().__init__(keys, mask, allow_missing_keys)


def free_blocks(rng: np.random.RandomState, size: Size, share: float, sides: tuple[float, float]) -> np.ndarray:
    """Blocks anywhere, until the next one would hide more than the share: (n, 3, 2)."""
    least, most = ((max(1, int(size[0] * s)), max(1, int(size[1] * s)), max(1, int(size[2] * s))) for s in sides)
    hidden, left = np.zeros((1, *size), dtype=bool), share * math.prod(size)
    boxes: list[np.ndarray] = []
    while len(boxes) < MOST_BLOCKS:
        box = random_box(rng, size, least, most)
        inside = hidden[region(box)]
        left -= inside.size - int(np.count_nonzero(inside))
        if left < 0:
            break
        inside[...] = True
        boxes.append(box)
    return np.array(boxes, dtype=np.int64).reshape(-1, 3, 2)


def cells(rng: np.random.RandomState, size: Size, share: float, grid: Size) -> np.ndarray:
    """The cells of a grid, so many as a share of them rounds down to, chosen without repeat: (n, 3, 2)."""
    counts = [-(-n // cell) for n, cell in zip(size, grid, strict=True)]
    total = math.prod(counts)
    chosen = rng.permutation(total)[: math.floor(share * total + 1e-9)]
    first = np.stack(np.unravel_index(chosen, counts), axis=-1) * np.array(grid)  # (n, 3)
    return np.stack([first, np.minimum(first + np.array(grid), size)], axis=-1).astype(np.int64)
