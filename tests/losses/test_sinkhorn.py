"""Sinkhorn codes against the plain form of the paper and against what must hold of any code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import distributed

from tests.ranks import on_ranks
from volssl.losses import sinkhorn


def published(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The algorithm as printed in the appendix of Caron et al. 2020, in float64 and with its factors."""
    q = np.exp(scores.astype(np.float64) / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * b
    return (q * b).T


def cosines(samples: int, prototypes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.nn.functional.normalize(torch.randn(samples, 16, generator=generator), dim=1)
    c = torch.nn.functional.normalize(torch.randn(prototypes, 16, generator=generator), dim=1)
    return z @ c.T


def by_duals(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The codes from the dual of the entropic transport problem, in float64: potentials f of samples, g of prototypes.

    q_bk is exp((s_bk + f_b + g_k) / epsilon); each half-step solves for one potential so that its marginal holds
    (Cuturi 2013): each prototype B/K, each sample 1.
    """
    s = scores.astype(np.float64)
    f, g = np.zeros(len(s)), np.zeros(s.shape[1])
    share = np.log(len(s) / s.shape[1])
    for _ in range(iterations):
        g = epsilon * (share - logsumexp((s + f[:, None]) / epsilon, axis=0))
        f = -epsilon * logsumexp((s + g[None]) / epsilon, axis=1)
    return np.exp((s + f[:, None] + g[None]) / epsilon)


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.03, 3), (0.03, 1), (0.5, 10)])
def test_codes_equal_the_published_algorithm(epsilon: float, iterations: int) -> None:
    scores = cosines(24, 10)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    assert np.abs(codes.numpy() - published(scores.numpy(), epsilon, iterations)).max() <= 1e-6
    assert np.abs(codes.numpy() - by_duals(scores.numpy(), epsilon, iterations)).max() <= 1e-6


def test_codes_equal_those_of_another_toolkit() -> None:
    """What `lightly.loss.swav_loss.sinkhorn` of lightly 1.6.0 gives for these scores in float64, to ten digits."""
    i, j = torch.arange(4.0)[:, None], torch.arange(3.0)[None]
    theirs = {
        0.05: [
            [0.8268770100, 0.0, 0.1731229900],
            [0.0291720123, 0.0, 0.9708279877],
            [0.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
        ],
        0.5: [
            [0.5533235455, 0.0036128967, 0.4430635578],
            [0.4234855782, 0.0135878983, 0.5629265235],
            [0.1345515336, 0.7849272093, 0.0805212571],
            [0.0721428585, 0.8431700869, 0.0846870546],
        ],
    }
    for epsilon, expected in theirs.items():
        codes = sinkhorn(torch.cos(i * i + 3 * j), epsilon=epsilon, iterations=3)
        torch.testing.assert_close(codes, torch.tensor(expected), atol=1e-6, rtol=0)


def test_scores_far_beyond_cosines_have_codes_too() -> None:
    """exp(±4000) is no number in float64; on logarithms it is none of it."""
    scores = cosines(24, 10) * 200
    codes = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert np.abs(codes.numpy() - by_duals(scores.numpy(), 0.05, 3)).max() <= 1e-6
    assert bool(torch.isfinite(codes).all())


def test_rows_sum_to_one_and_many_iterations_use_all_prototypes_equally() -> None:
    codes = sinkhorn(cosines(64, 8), epsilon=0.3, iterations=100)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((8,), 8.0), atol=1e-3, rtol=0)


def test_one_sample_alone_has_flat_codes() -> None:
    codes = sinkhorn(cosines(1, 5), epsilon=0.03, iterations=3)
    torch.testing.assert_close(codes, torch.full((1, 5), 0.2))


def test_two_opposite_samples_take_a_prototype_each() -> None:
    # exp(±1 / .1): after balancing, the odds of the own prototype are e^20 by symmetry.
    scores = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    codes = sinkhorn(scores, epsilon=0.1, iterations=3)
    torch.testing.assert_close(codes, torch.eye(2), atol=1e-8, rtol=0)


def test_input_is_untouched_and_codes_carry_no_gradient() -> None:
    scores = cosines(6, 4).requires_grad_()
    before = scores.detach().clone()
    codes = sinkhorn(scores, epsilon=0.05, iterations=3)
    assert torch.equal(scores.detach(), before)
    assert not codes.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_do_not_overflow(dtype: torch.dtype) -> None:
    scores = cosines(12, 6)
    exact = sinkhorn(scores.to(dtype).float(), epsilon=0.03, iterations=3)
    with torch.autocast("cpu", dtype=dtype):
        codes = sinkhorn(scores.to(dtype), epsilon=0.03, iterations=3)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, exact)


def test_a_constant_on_all_scores_cancels() -> None:
    scores = cosines(10, 4)
    shifted = sinkhorn(scores - 3.0, epsilon=0.05, iterations=3)
    torch.testing.assert_close(shifted, sinkhorn(scores, epsilon=0.05, iterations=3), atol=1e-6, rtol=1e-4)


def summed(values: torch.Tensor) -> torch.Tensor:
    total = values.clone()
    distributed.all_reduce(total)
    return total


def codes_of_a_rank(rank: int, scores: torch.Tensor) -> list[torch.Tensor]:
    """The codes of a rank's rows, for equal, unequal and no rows."""
    distributed.init_process_group("gloo")
    shares = [scores.split(rows)[rank] for rows in ([4, 4], [7, 1], [8, 0])]
    return [sinkhorn(share, epsilon=0.03, iterations=3, all_reduce=summed) for share in shares]


def test_two_processes_equal_one_on_the_joined_rows_also_with_unequal_and_no_rows(tmp_path: Path) -> None:
    scores = cosines(8, 5)
    whole = sinkhorn(scores, epsilon=0.03, iterations=3)
    for parts in zip(*on_ranks(codes_of_a_rank, tmp_path, scores), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        sinkhorn(torch.zeros(2, 2), epsilon=0.0, iterations=3)
