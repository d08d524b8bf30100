"""Flips along any axis, the slices too, several in a row (Models Genesis; Zhou et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size


def flip(image: Tensor, axes: Sequence[int]) -> Tensor:
    """Turn (C, R, A, S) about along spatial axes, 0 to 2 for R, A, S; an empty list turns nothing."""
    return image.flip([axis + 1 for axis in axes]) if axes else image.clone()


class RandFlips(Replayable):
    """Up to `times` flips, each only where the one before was made, each along an axis of its own draw.

    Two flips along one axis undo each other. MONAI's `RandAxisFlip` is one such flip, and cannot be replayed without
    the image that it was drawn for.

    Args:
        prob: that a first flip is made, and that another one follows; .4 in Models Genesis.
        times: flips at most.
        axes: spatial axes to draw from. The published code of Models Genesis draws the channels in place of the slices.
    """

    function = staticmethod(flip)

    def __init__(self, *, prob: float = 0.4, times: int = 3, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__(prob)
        if not axes or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"flips are along the axes 0, 1 and 2 (R, A, S), not {tuple(axes)}")
        self.times, self.axes = times, tuple(axes)

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:  # noqa: ARG002 - any size alike
        count = 1
        while count < self.times and rng.uniform() < self.prob:
            count += 1
        drawn = [self.axes[rng.randint(len(self.axes))] for _ in range(count)]
        return {"axes": tuple(axis for axis in self.axes if drawn.count(axis) % 2)}


class RandFlipsd(ReplayableMap):
    """`RandFlips` on the entries of a dictionary, all alike."""

    def __init__(
        self,
        keys: KeysCollection,
        *,
        prob: float = 0.4,
        times: int = 3,
        axes: Sequence[int] = (0, 1, 2),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandFlips(prob=prob, times=times, axes=axes), allow_missing_keys)
