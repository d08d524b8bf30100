"""The signs of collapse against numbers worked out by hand and by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from volssl.losses.collapse import effective_rank, feature_spread, prototype_use


def test_features_that_fill_the_sphere_have_spread_one_and_equal_ones_none() -> None:
    filling = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_spread(filling).item() == pytest.approx(1, abs=0.01)
    assert feature_spread(torch.ones(10, 64)).item() == pytest.approx(0, abs=1e-6)


def test_spread_does_not_depend_on_the_length_of_features() -> None:
    # Two unit vectors along each of two axes: each axis holds 0 and 1 half the time, std .5; times sqrt(2).
    features = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    assert feature_spread(features).item() == pytest.approx(0.5 * math.sqrt(2), abs=1e-6)


def test_effective_rank_counts_directions_and_is_that_of_scipy() -> None:
    assert effective_rank(3 * torch.eye(6)[:4]).item() == pytest.approx(4, abs=1e-4)
    assert effective_rank(torch.ones(50, 8)).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(torch.zeros(5, 8)).item() == 0
    features = np.random.default_rng(1).normal(size=(30, 12)) * np.arange(1, 13)
    expected = np.exp(entropy(np.linalg.svd(features, compute_uv=False)))
    assert effective_rank(torch.from_numpy(features)).item() == pytest.approx(expected, rel=1e-4)


def test_prototypes_used_alike_have_entropy_one_and_one_that_takes_all_leaves_the_rest_dead() -> None:
    each_its_own, all_the_first = 100 * torch.eye(8), torch.zeros(8, 8)
    all_the_first[:, 0] = 100
    assert [v.item() for v in prototype_use(each_its_own, temperature=0.1)] == pytest.approx([1, 0], abs=1e-6)
    assert [v.item() for v in prototype_use(all_the_first, temperature=0.1)] == pytest.approx([0, 7 / 8], abs=1e-6)


def test_prototype_use_divides_by_the_temperature() -> None:
    # Scores 0 and ln 20 / 10 at temperature .1: odds of 1 to 20, so the first is used 1/21 of the time, under .1 / 2.
    scores = torch.tensor([[0.0, math.log(20) / 10]])
    share, dead = prototype_use(scores, temperature=0.1)
    assert share.item() == pytest.approx(entropy([1 / 21, 20 / 21]) / math.log(2), rel=1e-5)
    assert dead.item() == 0.5
    assert prototype_use(scores, temperature=1.0)[1].item() == 0


def test_half_precision_and_gradients_are_no_matter() -> None:
    features = torch.randn(20, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for measure in (feature_spread, effective_rank):
        assert measure(features.bfloat16()).item() == pytest.approx(measure(features).item(), rel=0.01)
        assert not measure(features).requires_grad
