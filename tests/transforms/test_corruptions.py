"""Bézier intensities, painting, swapped patches, block masks and flips: the invariants of each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from volssl.transforms import (
    RandBlockMask,
    RandFlips,
    RandInPaint,
    RandOutPaint,
    RandSwapPatches,
    bezier_intensity,
    block_mask,
    flip,
    in_paint,
    out_paint,
    swap_patches,
)
from volssl.transforms.boxes import random_box, region, share_covered
from volssl.transforms.patches import overlap

SEEDS = st.integers(0, 2**31 - 1)
UNIT = st.floats(0, 1)
POINTS = st.tuples(st.tuples(UNIT, UNIT), st.tuples(UNIT, UNIT))
SIZES = st.tuples(*[st.integers(4, 40)] * 3)
BOXES = np.array([[[0, 2], [1, 4], [2, 3]], [[1, 5], [3, 6], [0, 4]]])


# Bézier


@settings(max_examples=60, deadline=None)
@given(points=POINTS, reverse=st.booleans())
def test_a_curve_is_monotone_and_its_ends_stay(points: tuple[tuple[float, float], ...], reverse: bool) -> None:
    levels = torch.linspace(0, 1, 500)
    got = bezier_intensity(levels, points, reverse)  # type: ignore[arg-type]
    steps = got.diff()
    assert bool((steps <= 0).all() if reverse else (steps >= 0).all())
    assert (float(got[0]), float(got[-1])) == ((1.0, 0.0) if reverse else (0.0, 1.0))


@settings(max_examples=40, deadline=None)
@given(points=POINTS, x=UNIT)
def test_a_value_is_that_of_the_cubic_solved_for_it(points: tuple[tuple[float, float], ...], x: float) -> None:
    (x1, y1), (x2, y2) = points

    def at(t: float, first: float, second: float) -> float:
        return 3 * first * t * (1 - t) ** 2 + 3 * second * t**2 * (1 - t) + t**3

    t = brentq(lambda t: at(t, x1, x2) - x, 0, 1, xtol=1e-14)
    slope = at(min(t + 1e-4, 1), x1, x2) - at(max(t - 1e-4, 0), x1, x2)
    assume(slope > 1e-5)  # where the curve is nearly upright, rounding of x shows
    got = float(bezier_intensity(torch.tensor([x], dtype=torch.float64), points)[0])  # type: ignore[arg-type]
    assert got == pytest.approx(at(t, y1, y2), abs=2e-3)


def test_control_points_on_the_diagonal_change_nothing_and_reversed_turn_it_about() -> None:
    image = torch.rand(1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    straight = ((1 / 3, 1 / 3), (2 / 3, 2 / 3))
    torch.testing.assert_close(bezier_intensity(image, straight), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(bezier_intensity(image, straight, reverse=True), 1 - image, atol=1e-5, rtol=0)


def test_reversed_the_levels_come_from_the_other_end_of_the_curve() -> None:
    # With these points x(t) = 3 t (1 - t) + t³ and y(t) = t³: x(.25) gets y(.75), and not 1 - y(.25).
    points, t = ((1.0, 0.0), (1.0, 0.0)), 0.25
    x, y_other_end = 3 * t * (1 - t) + t**3, (1 - t) ** 3
    got = bezier_intensity(torch.tensor([x], dtype=torch.float64), points, reverse=True)
    assert float(got[0]) == pytest.approx(y_other_end, abs=1e-4)


def test_values_beyond_the_unit_range_get_the_level_of_its_ends_and_stay_themselves() -> None:
    image = torch.tensor([-0.5, 1.5])
    assert bezier_intensity(image, ((0.2, 0.7), (0.4, 0.9))).tolist() == [0.0, 1.0]
    assert image.tolist() == [-0.5, 1.5]


def test_a_control_point_outside_of_the_square_is_refused() -> None:
    with pytest.raises(ValueError, match="unit square"):
        bezier_intensity(torch.zeros(1), ((0.5, 1.2), (0.5, 0.5)))


# Painting


def test_in_painting_fills_the_boxes_and_out_painting_all_else() -> None:
    image = torch.full((2, 6, 7, 8), 2.0)
    inside = torch.zeros(6, 7, 8, dtype=torch.bool)
    inside[0:2, 1:4, 2:3] = inside[1:5, 3:6, 0:4] = True
    filled, kept = in_paint(image, BOXES, 1), out_paint(image, BOXES, 1)
    assert torch.equal(filled != 2, inside.expand(2, -1, -1, -1))
    assert torch.equal(kept == 2, inside.expand(2, -1, -1, -1))
    assert torch.equal(filled[0], filled[1])
    assert torch.equal(kept[0], kept[1])


def test_the_noise_is_uniform_on_the_unit_range() -> None:
    from scipy import stats

    drawn = out_paint(torch.zeros(1, 40, 40, 40), np.zeros((0, 3, 2), dtype=int), 5)
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("size", [(64, 64, 32), (96, 96, 96)])
def test_in_painting_hides_five_to_six_percent_in_the_mean(size: tuple[int, int, int]) -> None:
    drawn = [RandInPaint().draw(np.random.RandomState(seed), size) for seed in range(300)]
    shares = [share_covered(one["boxes"], size) for one in drawn if one is not None]
    assert len(shares) == 300
    assert 0.05 < np.mean(shares) < 0.067
    assert max(len(one["boxes"]) for one in drawn if one is not None) == 5


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(*[st.integers(18, 96)] * 3), seed=SEEDS)
def test_in_painted_boxes_are_a_sixth_to_a_third_and_three_voxels_off_the_border(
    size: tuple[int, int, int], seed: int
) -> None:
    boxes = RandInPaint().arguments(np.random.RandomState(seed), size)["boxes"]
    sides, n = boxes[..., 1] - boxes[..., 0], np.array(size)
    assert ((sides >= n // 6) & (sides <= n // 3)).all()
    assert (boxes[..., 0] >= 3).all()
    assert (boxes[..., 1] <= n - 3).all()


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(*[st.integers(14, 60)] * 3), seed=SEEDS)
def test_out_painting_keeps_boxes_of_three_to_four_sevenths(size: tuple[int, int, int], seed: int) -> None:
    boxes = RandOutPaint().arguments(np.random.RandomState(seed), size)["boxes"]
    sides, n = boxes[..., 1] - boxes[..., 0], np.array(size)
    assert 1 <= len(boxes) <= 5
    assert ((sides >= n - 4 * n // 7) & (sides <= n - 3 * n // 7)).all()
    assert ((boxes[..., 0] >= 3) & (boxes[..., 1] <= n - 3)).all() or min(size) < 14
    assert 0.48 < 1 - share_covered(boxes, size) < 0.95


def test_out_painting_makes_53_to_90_percent_noise_at_96_voxels() -> None:
    size = (96, 96, 96)
    drawn = [RandOutPaint().arguments(np.random.RandomState(seed), size)["boxes"] for seed in range(300)]
    shares = [1 - share_covered(boxes, size) for boxes in drawn]
    assert 0.5 < min(shares) < 0.6
    assert 0.85 < max(shares) < 0.93
    assert np.mean(shares) == pytest.approx(0.68, abs=0.02)


# Swapped patches


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_swapped_patches_keep_every_value_once(size: tuple[int, int, int], seed: int) -> None:
    image = torch.arange(float(np.prod(size))).reshape(1, *size)
    got = RandSwapPatches().set_random_state(seed)(image)
    assert torch.equal(got.flatten().sort().values, image.flatten())
    if min(size) >= 10:
        assert not torch.equal(got, image)


def test_two_boxes_change_places_and_swapped_again_they_are_back() -> None:
    image = torch.arange(4.0 * 4 * 4).reshape(1, 4, 4, 4)
    pair = np.array([[[[0, 1], [0, 2], [0, 2]], [[3, 4], [2, 4], [1, 3]]]])
    got = swap_patches(image, pair)
    assert torch.equal(got[:, 0:1, 0:2, 0:2], image[:, 3:4, 2:4, 1:3])
    assert torch.equal(got[:, 3:4, 2:4, 1:3], image[:, 0:1, 0:2, 0:2])
    assert int((got != image).sum()) == 8
    assert torch.equal(swap_patches(got, pair), image)


@settings(max_examples=30, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_the_boxes_of_a_pair_never_overlap(size: tuple[int, int, int], seed: int) -> None:
    for one, other in RandSwapPatches().arguments(np.random.RandomState(seed), size)["pairs"]:
        mask = torch.zeros(1, *size)
        mask[region(one)] += 1
        mask[region(other)] += 1
        assert float(mask.max()) == 1
        assert not overlap(one, other)


def test_a_pair_that_overlaps_is_refused() -> None:
    with pytest.raises(ValueError, match="apart"):
        swap_patches(torch.zeros(1, 4, 4, 4), np.array([[[[0, 2]] * 3, [[1, 3]] * 3]]))


# Block masks


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=SEEDS)
def test_the_cutout_hides_at_most_30_percent_in_blocks_of_at_most_a_quarter(
    size: tuple[int, int, int], seed: int
) -> None:
    boxes = RandBlockMask().arguments(np.random.RandomState(seed), size)["boxes"]
    assert share_covered(boxes, size) <= 0.3
    sides = boxes[..., 1] - boxes[..., 0]
    assert (sides <= np.maximum(np.array(size) // 4, 1)).all()
    assert (sides >= 1).all()


def test_the_hidden_share_is_uniform_up_to_30_percent() -> None:
    size = (40, 40, 40)
    shares = [
        share_covered(RandBlockMask().arguments(np.random.RandomState(seed), size)["boxes"], size)
        for seed in range(300)
    ]
    assert np.mean(shares) == pytest.approx(0.15, abs=0.015)
    assert max(shares) > 0.27


def test_a_grid_hides_three_quarters_of_its_cells_whole_as_masked_autoencoders_do() -> None:
    mask = RandBlockMask(share=(0.75, 0.75), grid=(8, 8, 4), fill=0.0).set_random_state(2)
    got = mask(torch.ones(1, 32, 32, 16))[0]
    cells = got.reshape(4, 8, 4, 8, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(64, -1)
    assert sorted(cells.mean(dim=1).tolist()) == [0.0] * 48 + [1.0] * 16
    assert bool(((cells == 0) | (cells == 1)).all())


@settings(max_examples=20, deadline=None)
@given(size=SIZES, seed=SEEDS, share=st.floats(0, 0.99))
def test_cells_at_the_far_border_stay_inside_and_none_is_hidden_twice(
    size: tuple[int, int, int], seed: int, share: float
) -> None:
    mask = RandBlockMask(share=(share, share), grid=(8, 8, 4))
    boxes = mask.arguments(np.random.RandomState(seed), size)["boxes"]
    count = np.zeros((1, *size))
    for box in boxes:
        count[region(box)] += 1
    assert count.max() <= 1
    assert (boxes[..., 1] <= np.array(size)).all()
    assert count.sum() == sum(np.prod(box[:, 1] - box[:, 0]) for box in boxes)


def test_hidden_voxels_hold_the_fill_or_noise() -> None:
    image = torch.full((1, 6, 7, 8), 0.5)
    assert float(block_mask(image, BOXES, fill=0.25).min()) == 0.25
    noise = block_mask(image, BOXES, seed=1)[region(BOXES[1])]
    assert len(noise.unique()) == noise.numel()


# Flips and boxes


@settings(max_examples=20, deadline=None)
@given(size=SIZES, axes=st.sets(st.integers(0, 2)))
def test_a_flip_turns_spatial_axes_and_no_channel(size: tuple[int, int, int], axes: set[int]) -> None:
    image = torch.rand(2, *size)
    expected = np.flip(image.numpy(), [axis + 1 for axis in axes]) if axes else image.numpy()
    np.testing.assert_array_equal(flip(image, sorted(axes)).numpy(), expected)


def test_every_axis_is_flipped_as_often_as_the_chain_of_flips_says() -> None:
    rng, transform = np.random.RandomState(0), RandFlips()
    drawn = [transform.draw(rng, (8, 8, 8)) for _ in range(6000)]
    # One flip with .4 × .6, two with .16 × .6, three with .064; an axis is turned where it was drawn an odd time:
    # 1/3; 2 × 1/3 × 2/3 = 4/9; 3 × 1/3 × 4/9 + 1/27 = 13/27.
    expected = 0.24 / 3 + 0.096 * 4 / 9 + 0.064 * 13 / 27
    for axis in range(3):
        assert np.mean([one is not None and axis in one["axes"] for one in drawn]) == pytest.approx(expected, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, seed=SEEDS, margin=st.integers(0, 5))
def test_a_box_lies_inside_with_the_margin_that_there_is_room_for(
    size: tuple[int, int, int], seed: int, margin: int
) -> None:
    box = random_box(np.random.RandomState(seed), size, (1, 2, 3), (3, 3, 4), margin=margin)
    free = [min(margin, (n - int(b - a)) // 2) for n, (a, b) in zip(size, box, strict=True)]
    assert (box[:, 0] >= free).all()
    assert (box[:, 1] <= np.array(size) - free).all()
