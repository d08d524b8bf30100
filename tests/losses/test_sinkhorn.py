"""Sinkhorn codes against the plain form of the paper and against what must hold of any code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.03, 3), (0.03, 1), (0.5, 10)])
def test_codes_equal_the_published_algorithm(epsilon: float, iterations: int) -> None:
    scores = cosines(24, 10)
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    assert np.abs(codes.numpy() - published(scores.numpy(), epsilon, iterations)).max() <= 1e-6


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


def test_half_precision_and_autocast_do_not_overflow() -> None:
    scores = cosines(12, 6)
    exact = sinkhorn(scores.bfloat16().float(), epsilon=0.03, iterations=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sinkhorn(scores.bfloat16(), epsilon=0.03, iterations=3)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, exact)


def test_a_constant_on_all_scores_cancels() -> None:
    scores = cosines(10, 4)
    shifted = sinkhorn(scores - 3.0, epsilon=0.05, iterations=3)
    torch.testing.assert_close(shifted, sinkhorn(scores, epsilon=0.05, iterations=3), atol=1e-6, rtol=1e-4)


def test_ranks_with_different_numbers_of_rows_equal_one_process() -> None:
    """Three ranks of 7, 1 and 0 rows, run in lock step by threads that meet in the collective."""
    import threading

    scores = cosines(8, 5)
    parts = [scores[:7], scores[7:], scores[:0]]
    barrier, slots, results = threading.Barrier(3), [torch.zeros(1)] * 3, [torch.zeros(1)] * 3

    def work(rank: int) -> None:
        def all_reduce(x: torch.Tensor) -> torch.Tensor:
            slots[rank] = x
            barrier.wait()
            total = slots[0] + slots[1] + slots[2]
            barrier.wait()
            return total

        results[rank] = sinkhorn(parts[rank], epsilon=0.03, iterations=3, all_reduce=all_reduce)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = sinkhorn(scores, epsilon=0.03, iterations=3)
    torch.testing.assert_close(torch.cat(results), together, atol=1e-6, rtol=0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="epsilon"):
        sinkhorn(torch.zeros(2, 2), epsilon=0.0, iterations=3)
