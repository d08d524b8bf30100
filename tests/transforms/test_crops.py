"""Where crops lie: uniform places, what leaves the volume, and overlaps that are met without trying again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from volssl.transforms.crops import common, covering, draw_box, most_shared, overlap, places, shrink

SHAPE = (100, 90, 40)
WHOLE = ((0.0, 100.0), (0.0, 90.0), (0.0, 40.0))


def test_shrinking_cuts_each_side_by_its_share() -> None:
    assert shrink(((10, 30), (0, 50), (4, 8)), (0.1, 0.0, 0.02, 0.2, 0.25, 0.25)) == ((12, 30), (1, 40), (5, 7))


def test_places_by_hand() -> None:
    assert places((10.0, 50.0), 30.0, 64) == (10.0, 20.0)  # fits in the bounds
    assert places((10.0, 50.0), 50.0, 64) == (5.0, 5.0)  # wider than the bounds: centred on them
    assert places((0.0, 30.0), 50.0, 64) == (0.0, 0.0)  # which would leave the volume: moved into it
    assert places((40.0, 64.0), 50.0, 64) == (14.0, 14.0)
    assert places((40.0, 64.0), 70.0, 64) == (-3.0, -3.0)  # wider than the volume: centred on that


def test_the_place_is_uniform_on_every_axis() -> None:
    rng = np.random.RandomState(0)
    starts = np.array([[side[0] for side in draw_box(rng, WHOLE, (40, 80, 39), SHAPE)] for _ in range(2000)])
    for axis, room in enumerate((60, 10, 1)):
        assert stats.kstest(starts[:, axis], "uniform", args=(0, room)).pvalue > 1e-3


def test_the_overlap_of_two_boxes_by_hand() -> None:
    a = ((0.0, 10.0), (0.0, 10.0), (0.0, 10.0))
    assert overlap(a, ((5.0, 15.0), (0.0, 10.0), (0.0, 10.0))) == pytest.approx(0.5)
    assert overlap(a, ((2.0, 4.0), (2.0, 4.0), (2.0, 4.0))) == pytest.approx(1.0)  # the smaller lies inside
    assert overlap(a, ((8.0, 12.0), (8.0, 12.0), (2.0, 4.0))) == pytest.approx(2 * 2 * 2 / 32)
    assert overlap(a, ((10.0, 12.0), (0.0, 10.0), (0.0, 10.0))) == 0


def test_most_shared_is_the_best_of_all_places() -> None:
    rng = np.random.RandomState(1)
    for _ in range(200):
        low, length, start, own = rng.uniform(0, 20, size=4)
        high, side = low + rng.uniform(0, 20), (start, start + own)
        best = max(common((x, x + length), side) for x in np.linspace(low, high, 4001))
        assert most_shared((low, high), length, side) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("least", [0.1, 0.5, 0.9, 1.0])
def test_the_overlap_asked_for_is_always_met_where_the_bounds_admit_it(least: float) -> None:
    rng = np.random.RandomState(2)
    found = []
    for _ in range(500):
        first = draw_box(rng, WHOLE, (60, 40, 20), SHAPE)
        found.append(overlap(first, draw_box(rng, WHOLE, (30, 60, 15), SHAPE, near=first, min_overlap=least)))
    reachable = 2 / 3  # 30 × 40 × 15 of 30 × 60 × 15 voxels: the second is longer along A
    assert min(found) >= min(least, reachable) - 1e-9
    if least < reachable:
        assert max(found) > least + 0.1  # not held at the least


def test_an_overlap_out_of_reach_becomes_the_largest_there_is() -> None:
    near = ((10.0, 30.0), (10.0, 20.0), (5.0, 10.0))
    for seed in range(50):
        box = draw_box(np.random.RandomState(seed), WHOLE, (10, 40, 5), SHAPE, near=near, min_overlap=0.9)
        assert overlap(near, box) == pytest.approx(10 * 10 * 5 / (20 * 10 * 5))


def test_the_border_gives_way_to_the_overlap() -> None:
    near, bounds = ((0.0, 8.0), (0.0, 8.0), (-4.0, 4.0)), ((50.0, 100.0), (0.0, 90.0), (0.0, 40.0))
    for seed in range(50):
        box = draw_box(np.random.RandomState(seed), bounds, (4, 4, 4), SHAPE, near=near, min_overlap=0.5)
        assert overlap(near, box) >= 0.5
        assert min(start for start, _ in box) >= 0  # what of the other lies outside of the volume draws nobody there
    assert draw_box(np.random.RandomState(0), bounds, (4, 4, 4), SHAPE, near=near)[0][0] >= 50


def test_without_a_demand_near_changes_nothing() -> None:
    near = ((0.0, 20.0), (0.0, 20.0), (0.0, 20.0))
    boxes = [draw_box(np.random.RandomState(3), WHOLE, (20, 20, 20), SHAPE, near=n) for n in (None, near)]
    assert boxes[0] == boxes[1]


def test_draws_are_as_many_whatever_the_volume_and_the_demand() -> None:
    after = set()
    for extent, least in (((10, 10, 10), 0.0), ((200, 10, 10), 0.5), ((90, 80, 39), 1.0)):
        rng = np.random.RandomState(4)
        draw_box(rng, WHOLE, extent, SHAPE, near=WHOLE, min_overlap=least)
        after.add(rng.uniform())
    assert len(after) == 1


def test_covering_holds_the_box_and_its_margin_inside_the_volume() -> None:
    assert covering(((2.5, 7.1), (-4.0, 3.0), (38.5, 50.0)), SHAPE, (1, 0, 2)) == ((1, 9), (0, 3), (36, 40))
    assert covering(((200.0, 210.0), (0.0, 1.0), (0.0, 1.0)), SHAPE, (0, 0, 0)) == ((99, 100), (0, 1), (0, 1))
