"""Local pixel shuffling: voxels change places within many small windows (Models Genesis; Zhou et al. 2021, 3.1).

Compiled by numba when it is first used, and kept on disk where there is a place for it: importing this costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size, size_of


def local_shuffle(image: Tensor, windows: np.ndarray, seed: int) -> Tensor:
    """Shuffle the voxels within each window, one window after the other.

    Each window reads the original and overwrites the result, so that no value travels further than a window is long,
    and values are lost where windows overlap. Every channel is shuffled alike, with its own content.

    Args:
        image: (C, R, A, S), on the CPU; it stays as it is.
        windows: (N, 6) whole numbers: the first voxel along R, A, S, then the sides.
        seed: of the permutations, uniform each.

    Raises:
        ValueError: where a window leaves the image.
    """
    windows = np.ascontiguousarray(windows, dtype=np.int64).reshape(-1, 6)
    first, sides = windows[:, :3], windows[:, 3:]
    if (first < 0).any() or (sides < 1).any() or (first + sides > size_of(image)).any():
        raise ValueError(f"a window leaves the image of {size_of(image)} voxels, or is empty")
    result = image.contiguous().clone()
    if len(windows):
        original, written = (x.detach().flatten(1).numpy() for x in (image.contiguous(), result))
        size, unsigned = np.array(size_of(image), dtype=np.uint64), windows.astype(np.uint64)
        compiled()(original, written, size, unsigned, int(sides.prod(axis=1).max()), np.uint64(seed))
    return result


class RandLocalShuffle(Replayable):
    """Local pixel shuffling with windows of random place and size.

    Sides are uniform on 1 to a part of the axis. About .79 of the voxels change in 64×64×32, .73 in 96³. Along an axis
    shorter than twice `divisor` nothing moves.

    Args:
        windows: how many.
        divisor: the longest side is an axis's length // divisor, and at least 1.
        prob: that an image is changed; .5 in Models Genesis.
    """

    function = staticmethod(local_shuffle)

    def __init__(self, *, windows: int = 10_000, divisor: int = 10, prob: float = 1.0) -> None:
        super().__init__(prob)
        if windows < 0 or divisor < 1:
            raise ValueError(f"{windows} windows of a {divisor}th of an axis are none")
        self.windows, self.divisor = windows, divisor

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:
        longest = [max(n // self.divisor, 1) for n in size]
        sides = np.stack([rng.randint(1, n + 1, size=self.windows) for n in longest], axis=1)
        first = (rng.random_sample(sides.shape) * (np.array(size) - sides + 1)).astype(np.int64)
        return {"windows": np.hstack([first, sides]), "seed": int(rng.randint(2**31))}


class RandLocalShuffled(ReplayableMap):
    """`RandLocalShuffle` on the entries of a dictionary, all alike."""

    def __init__(
        self,
        keys: KeysCollection,
        *,
        windows: int = 10_000,
        divisor: int = 10,
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandLocalShuffle(windows=windows, divisor=divisor, prob=prob), allow_missing_keys)


@functools.cache
def compiled() -> Callable[..., None]:
    """`write_windows` as machine code."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(write_windows)
    except RuntimeError:  # no folder to keep it in: compiled anew in each process, in a second
        return numba.njit(nogil=True)(write_windows)


def write_windows(original: Any, result: Any, size: Any, windows: Any, longest: int, seed: Any) -> None:
    """Write each window, its voxels in another order; in the language that numba compiles.

    A window is read once, by Fisher and Yates' shuffle in its inside-out form; the numbers are those of SplitMix64
    (Steele et al. 2014), scaled to a range as Lemire (2019) does. Each channel starts from the seed: all move alike.

    Args:
        original, result: (C, R A S), in one block of memory.
        size: R, A, S. Places are unsigned throughout: numba asks of a signed one whether it counts from the end, which
            takes half of the time.
        windows: (N, 6), unsigned.
        longest: voxels of the largest window.
        seed: unsigned.
    """
    one, half = np.uint64(1), np.uint64(32)
    buffer = np.empty(longest, original.dtype)
    for channel in range(original.shape[0]):
        source, target, state = original[channel], result[channel], seed
        for window in range(windows.shape[0]):
            r0, a0, s0, nr, na, ns = windows[window]
            read = np.uint64(0)
            for r in range(r0, r0 + nr):
                for a in range(a0, a0 + na):
                    row = np.uint64((r * size[1] + a) * size[2] + s0)
                    for s in range(ns):
                        state += np.uint64(0x9E3779B97F4A7C15)
                        mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                        place = ((mixed >> half) * (read + one)) >> half
                        buffer[read] = buffer[place]
                        buffer[place] = source[row + s]
                        read += one
            read = np.uint64(0)
            for r in range(r0, r0 + nr):
                for a in range(a0, a0 + na):
                    row = np.uint64((r * size[1] + a) * size[2] + s0)
                    for s in range(ns):
                        target[row + s] = buffer[read + s]
                    read += ns
