"""Swapped patches: pairs of small boxes exchange places (context restoration; Chen et al. 2019, Jana et al. 2021)."""

from __future__ import annotations

import numpy as np
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.boxes import random_box, region
from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size

TRIES = 100  # to place the second box of a pair beside the first


def swap_patches(image: Tensor, pairs: np.ndarray) -> Tensor:
    """Exchange the content of pairs of boxes, one pair after the other: the histogram stays.

    Args:
        image: (C, R, A, S); it stays as it is.
        pairs: (n, 2, 3, 2): the two boxes of a pair, of one size, apart from one another.

    Raises:
        ValueError: where the boxes of a pair overlap or differ in size.
    """
    result = image.clone()
    for one, other in np.asarray(pairs):
        if (one[:, 1] - one[:, 0] != other[:, 1] - other[:, 0]).any() or overlap(one, other):
            raise ValueError(f"two boxes of one size, apart from one another, change places, not {one} and {other}")
        kept = result[region(one)].clone()
        result[region(one)] = result[region(other)]
        result[region(other)] = kept
    return result


class RandSwapPatches(Replayable):
    """Swap pairs of boxes of random size and place.

    Args:
        pairs: how many; a pair for whose second box no place is found is left out, so that an axis or volume too small
            for two boxes is no error.
        sides: range of a box's sides, in shares of each axis; .5 at most.
        prob: that an image is changed.
    """

    function = staticmethod(swap_patches)

    def __init__(self, *, pairs: int = 10, sides: tuple[float, float] = (0.1, 0.2), prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 0 < sides[0] <= sides[1] <= 0.5:
            raise ValueError(f"sides are shares above 0 and up to .5, in order, not {tuple(sides)}")
        self.pairs, self.sides = pairs, (sides[0], sides[1])

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        least, most = ((part(size[0], s), part(size[1], s), part(size[2], s)) for s in self.sides)
        pairs = []
        for _ in range(self.pairs):
            one = random_box(rng, size, least, most)
            r, a, s = (one[:, 1] - one[:, 0]).tolist()
            for _ in range(TRIES):
                other = random_box(rng, size, (r, a, s), (r, a, s))
                if not overlap(one, other):
                    pairs.append((one, other))
                    break
        return {"pairs": np.array(pairs, dtype=np.int64).reshape(-1, 2, 3, 2)}


class RandSwapPatchesd(ReplayableMap):
    """`RandSwapPatches` on the entries of a dictionary, all alike."""

    def __init__(
        self,
        keys: KeysCollection,
        *,
        pairs: int = 10,
        sides: tuple[float, float] = (0.1, 0.2),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandSwapPatches(pairs=pairs, sides=sides, prob=prob), allow_missing_keys)


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes (3, 2) share a voxel."""
    return bool((one[:, 0] < other[:, 1]).all() and (other[:, 0] < one[:, 1]).all())


def part(n: int, share: float) -> int:
    """A share of an axis in whole voxels, at least one."""
    return max(1, int(n * share))
