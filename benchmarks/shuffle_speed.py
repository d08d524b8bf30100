"""Local shuffling against the algorithm that Models Genesis published, in plain NumPy; one thread, one run.

    python benchmarks/shuffle_speed.py                 # half a minute

The published algorithm copies each window out of the original, flattens it, shuffles it with `np.random.shuffle` and
writes it into the result. All take turns; each figure is the thread's processor time in the best of its turns, which
other work on the machine disturbs least. It is that of all that a call does, the draw of its windows too, but for
compiling.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.transforms import RandCoarseShuffle

from volssl.transforms import RandLocalShuffle

WINDOWS = 10_000
SIZES = ((96, 96, 96), (64, 64, 32))
AT_LEAST = 6.0  # times as fast, at 96³


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=15)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    print(f"{WINDOWS:,} windows, one thread, milliseconds of the processor, best of {chosen.turns} turns")
    print(f"{'size':>10} {'NumPy':>8} {'MONAI':>8} {'volssl':>8} {'NumPy / volssl':>15} {'changed':>8}")
    for size in SIZES:
        numpy_ms, monai_ms, own_ms = best_ms(size, turns=chosen.turns)
        name = "×".join(map(str, size))
        times = numpy_ms / own_ms
        verdict = f"≥ {AT_LEAST:g}: {'kept' if times >= AT_LEAST else 'NOT KEPT'}" if size == SIZES[0] else ""
        print(
            f"{name:>10} {numpy_ms:8.1f} {monai_ms:8.1f} {own_ms:8.2f} {times:15.1f} {changed(size):8.3f}   {verdict}"
        )


def best_ms(size: tuple[int, int, int], *, turns: int) -> tuple[float, float, float]:
    """The published algorithm, MONAI's `RandCoarseShuffle` with windows of the same size, and ours."""
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    array = image.numpy()
    monai = RandCoarseShuffle(holes=WINDOWS, spatial_size=1, max_spatial_size=[n // 10 for n in size], prob=1.0)
    monai.set_random_state(0)
    own = RandLocalShuffle(windows=WINDOWS).set_random_state(0)
    own(image)  # compiles
    times: list[list[float]] = [[], [], []]
    for turn in range(turns):
        times[0].append(seconds(lambda: published(array)))
        if turn < 3:
            times[1].append(seconds(lambda: monai(image.clone())))
        times[2].append(seconds(lambda: own(image)))
    published_ms, monai_ms, own_ms = (1000 * min(each) for each in times)
    return published_ms, monai_ms, own_ms


def published(image: np.ndarray) -> np.ndarray:
    """Local pixel shuffling as described by Zhou et al. (2021) and run by its authors: (1, R, A, S) -> the same."""
    original, result = image.copy(), image.copy()
    _, *size = image.shape
    for _ in range(WINDOWS):
        sides = [random.randint(1, n // 10) for n in size]
        first = [random.randint(0, n - side) for n, side in zip(size, sides, strict=True)]
        where = (0, *(slice(start, start + side) for start, side in zip(first, sides, strict=True)))
        window = original[where].flatten()
        np.random.shuffle(window)
        result[where] = window.reshape(sides)
    return result


def changed(size: tuple[int, int, int]) -> float:
    """Share of the voxels that ours changes."""
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    return float((RandLocalShuffle(windows=WINDOWS).set_random_state(0)(image) != image).float().mean())


def seconds(call: Callable[[], object]) -> float:
    """The processor time of a call, which waits for nobody."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


if __name__ == "__main__":
    main()
