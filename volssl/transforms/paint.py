"""In-painting and out-painting: boxes, or all but boxes, become noise (Models Genesis; Zhou et al. 2021, 3.1).

One field of noise serves all channels: where they are one image (MR) or windows of one image (CT), a voxel stays one.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.boxes import random_box, region
from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size, size_of

BORDER_VOXELS = 3  # that boxes keep from the border, in an image that has room for it
NEXT_BOX = 0.95  # that another box follows


def in_paint(image: Tensor, boxes: np.ndarray, seed: int) -> Tensor:
    """Fill boxes with noise, uniform on [0, 1].

    Args:
        image: (C, R, A, S); it stays as it is.
        boxes: (n, 3, 2), first voxel and the one after the last.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    result = image.clone()
    for box in boxes:
        result[region(box)] = noise(rng, box[:, 1] - box[:, 0], like=image)
    return result


def out_paint(image: Tensor, boxes: np.ndarray, seed: int) -> Tensor:
    """Keep boxes (n, 3, 2), and fill all else with noise, uniform on [0, 1]; see `in_paint`."""
    result = noise(np.random.default_rng(seed), size_of(image), like=image).expand_as(image).clone()
    for box in boxes:
        result[region(box)] = image[region(box)]
    return result


def noise(rng: np.random.Generator, size: tuple[int, ...] | np.ndarray, *, like: Tensor) -> Tensor:
    """Uniform noise in [0, 1): (1, *size), of the type and on the device of an image."""
    return torch.from_numpy(rng.random(tuple(size), dtype=np.float32))[None].to(like)


class RandInPaint(Replayable):
    """Up to five boxes of noise, each next one with probability .95; 5 to 6 % of the voxels in the mean.

    Sides are uniform on a sixth to a third of each axis.

    Args:
        boxes: at most; possibly none is drawn, as in the original.
        prob: that an image is changed; .9 × .2 in Models Genesis.
    """

    function = staticmethod(in_paint)

    def __init__(self, *, boxes: int = 5, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.boxes = boxes

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        count = boxes_drawn(rng, self.boxes)
        least, most = parts(size, 1, 6), parts(size, 1, 3)
        return drawn_boxes(rng, count, size, least, most)


class RandOutPaint(Replayable):
    """Keep one box, and up to four more, each next one with probability .95; 53 to 90 % of the voxels become noise.

    Sides are uniform on three to four sevenths of each axis.

    Args:
        boxes: at most; at least one is kept.
        prob: that an image is changed; .9 × .8 in Models Genesis.
    """

    function = staticmethod(out_paint)

    def __init__(self, *, boxes: int = 5, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.boxes = boxes

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        count = 1 + boxes_drawn(rng, self.boxes - 1)
        # n - 4n // 7 to n - 3n // 7, as the original rounds
        least, most = ((size[0] - p[0], size[1] - p[1], size[2] - p[2]) for p in (parts(size, 4, 7), parts(size, 3, 7)))
        return drawn_boxes(rng, count, size, least, most)


class RandInPaintd(ReplayableMap):
    """`RandInPaint` on the entries of a dictionary, all alike."""

    def __init__(
        self, keys: KeysCollection, *, boxes: int = 5, prob: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, RandInPaint(boxes=boxes, prob=prob), allow_missing_keys)


class RandOutPaintd(ReplayableMap):
    """`RandOutPaint` on the entries of a dictionary, all alike."""

    def __init__(
        self, keys: KeysCollection, *, boxes: int = 5, prob: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, RandOutPaint(boxes=boxes, prob=prob), allow_missing_keys)


def boxes_drawn(rng: np.random.RandomState, most: int) -> int:
    """How many boxes: each with probability .95 where the one before was drawn."""
    count = 0
    while count < most and rng.uniform() < NEXT_BOX:
        count += 1
    return count


def drawn_boxes(rng: np.random.RandomState, count: int, size: Size, least: Size, most: Size) -> Drawn:
    """Boxes off the border, and the seed of the noise: what `in_paint` and `out_paint` want to know."""
    boxes = [random_box(rng, size, least, most, margin=BORDER_VOXELS) for _ in range(count)]
    return {"boxes": np.array(boxes, dtype=np.int64).reshape(-1, 3, 2), "seed": int(rng.randint(2**31))}


def parts(size: Size, numerator: int, denominator: int) -> Size:
    """A part of each axis, rounded down, and at least one voxel."""
    r, a, s = (max(1, numerator * n // denominator) for n in size)
    return r, a, s
