"""Local pixel shuffling: what each voxel may become, against the published algorithm's own shares."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from volssl.transforms import RandLocalShuffle, local_shuffle
from volssl.transforms.shuffle import compiled, write_windows

SIZES = st.tuples(*[st.integers(1, 34)] * 3)
SEEDS = st.integers(0, 2**31 - 1)


def numbered(size: tuple[int, ...], channels: int = 1) -> torch.Tensor:
    """Every voxel's value tells where it was: its flat index, plus a million a channel."""
    volume = torch.arange(int(np.prod(size)), dtype=torch.float64).reshape(size)
    return torch.stack([volume + 1e6 * channel for channel in range(channels)])


def shuffled(size: tuple[int, ...], seed: int, channels: int = 1, **options: int) -> torch.Tensor:
    return RandLocalShuffle(**options).set_random_state(seed)(numbered(size, channels))


@settings(max_examples=25, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_no_value_travels_further_than_a_window_is_long(size: tuple[int, int, int], seed: int) -> None:
    now = np.indices(size)
    before = np.array(np.unravel_index(shuffled(size, seed, windows=300)[0].long().numpy(), size))
    furthest = np.abs(now - before).reshape(3, -1).max(axis=1)
    assert (furthest <= np.maximum(np.array(size) // 10, 1) - 1).all()


@settings(max_examples=15, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_the_result_lies_within_the_local_minimum_and_maximum(size: tuple[int, int, int], seed: int) -> None:
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))
    got = RandLocalShuffle(windows=500).set_random_state(seed)(image)[0].numpy()
    around = [2 * max(n // 10, 1) - 1 for n in size]
    assert (got <= ndimage.maximum_filter(image[0].numpy(), around)).all()
    assert (got >= ndimage.minimum_filter(image[0].numpy(), around)).all()


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, count=st.integers(1, 40))
def test_each_window_reads_the_original_and_the_last_one_over_a_voxel_stays(seed: int, count: int) -> None:
    size, rng = (9, 8, 7), np.random.RandomState(seed)
    sides = rng.randint(1, 5, size=(count, 3))
    windows = np.hstack([rng.randint(0, np.array(size) - sides + 1), sides])
    got = local_shuffle(numbered(size), windows, seed)[0].long().numpy()
    last, index = np.full(size, -1), np.arange(9 * 8 * 7).reshape(size)
    for i, (r, a, s, nr, na, ns) in enumerate(windows):
        last[r : r + nr, a : a + na, s : s + ns] = i
    assert (got[last < 0] == index[last < 0]).all()
    for i, (r, a, s, nr, na, ns) in enumerate(windows):
        here = got[last == i]
        assert set(here) <= set(index[r : r + nr, a : a + na, s : s + ns].flat)
        assert len(set(here)) == len(here)


def test_within_a_window_every_order_is_equally_likely() -> None:
    image = numbered((1, 2, 2))
    orders = Counter(
        tuple(local_shuffle(image, np.array([[0, 0, 0, 1, 2, 2]]), seed).flatten().tolist()) for seed in range(4800)
    )
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


@pytest.mark.parametrize(("size", "expected"), [((64, 64, 32), 0.79), ((96, 96, 96), 0.73)])
def test_as_many_voxels_change_as_in_the_published_algorithm(size: tuple[int, int, int], expected: float) -> None:
    image = numbered(size)
    share = float((shuffled(size, 1) != image).double().mean())
    assert share == pytest.approx(expected, abs=0.012)
    if size[2] == 32:
        assert share == pytest.approx(float((published(image[0].numpy()) != image[0].numpy()).mean()), abs=0.005)


def published(image: np.ndarray) -> np.ndarray:
    """10,000 windows as the paper's authors draw them, in plain NumPy."""
    random.seed(3)
    result = image.copy()
    for _ in range(10_000):
        sides = [random.randint(1, n // 10) for n in image.shape]
        first = [random.randint(0, n - side) for n, side in zip(image.shape, sides, strict=True)]
        where = tuple(slice(a, a + b) for a, b in zip(first, sides, strict=True))
        window = image[where].flatten()
        np.random.RandomState(len(window)).shuffle(window)
        result[where] = window.reshape(sides)
    return result


def test_every_channel_is_shuffled_alike_with_its_own_content() -> None:
    got = shuffled((24, 24, 20), 4, channels=3)
    assert not torch.equal(got, numbered((24, 24, 20), 3))
    assert torch.equal(got[1] - 1e6, got[0])
    assert torch.equal(got[2] - 2e6, got[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16])
def test_compiled_and_not_it_is_the_same(dtype: torch.dtype) -> None:
    image = numbered((7, 8, 9)).to(dtype)
    windows = np.array([[0, 0, 0, 3, 4, 5], [2, 2, 2, 4, 4, 4], [6, 7, 8, 1, 1, 1]])
    plain = image.clone().numpy()
    with np.errstate(over="ignore"):
        flat, size = plain.reshape(1, -1), np.array([7, 8, 9], dtype=np.uint64)
        write_windows(image.numpy().reshape(1, -1), flat, size, windows.astype(np.uint64), 64, np.uint64(9))
    assert not np.array_equal(plain, image.numpy())
    np.testing.assert_array_equal(local_shuffle(image, windows, 9).numpy(), plain)


def test_an_image_that_is_no_block_of_memory_is_shuffled_as_its_copy() -> None:
    image = numbered((12, 14, 16)).transpose(1, 3)
    windows = np.array([[0, 0, 0, 4, 4, 4], [1, 2, 3, 9, 9, 9]])
    assert torch.equal(local_shuffle(image, windows, 5), local_shuffle(image.contiguous().clone(), windows, 5))


@pytest.mark.parametrize("window", [[0, 0, 0, 5, 1, 1], [-1, 0, 0, 1, 1, 1], [0, 0, 3, 1, 1, 2], [0, 0, 0, 0, 1, 1]])
def test_a_window_that_leaves_the_image_is_refused(window: list[int]) -> None:
    with pytest.raises(ValueError, match="leaves the image"):
        local_shuffle(torch.zeros(1, 4, 4, 4), np.array([window]), 0)


def test_without_a_folder_to_keep_it_in_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    real = numba.njit

    def refuses(**options: bool) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", refuses)
    compiled.cache_clear()
    windows = np.array([[0, 0, 0, 3, 3, 3]])
    got = local_shuffle(numbered((4, 4, 4)), windows, 2)
    monkeypatch.undo()
    compiled.cache_clear()
    assert torch.equal(got, local_shuffle(numbered((4, 4, 4)), windows, 2))
