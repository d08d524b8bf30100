"""Sinkhorn-Knopp codes: samples spread evenly over prototypes (Cuturi 2013; Caron et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Tensor, *, epsilon: float, iterations: int, all_reduce: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The codes Q* of Eq. 3 of Ghesu et al. 2022: a normalised exponential matrix.

    Works in float64 whatever autocast says, and through the first round on logarithms: a half-precision `exp` overflows
    at a score of 0.33 with epsilon 0.03. After that round every prototype has a sample with a code of at least 1/(B K),
    so that plain quotients are safe, and several times faster. The factors 1/K and 1/B of the published algorithm
    cancel and are left out, which also keeps the result right where ranks hold different numbers of samples.

    Args:
        scores: (B, K) similarities of B samples with K prototypes; B may be 0 on a rank that has none.
        epsilon: weight of the entropy; smaller is sharper.
        iterations: rounds of prototypes first, samples last.
        all_reduce: sums a tensor over ranks and returns the sum; every rank calls it equally often. None for one rank.

    Returns:
        (B, K) float32, rows summing to 1, without gradient. `scores` is left as it was.

    Raises:
        ValueError: for scores that are no matrix, or an epsilon or a number of iterations that is not positive.
    """
    if scores.ndim != 2 or epsilon <= 0 or iterations < 1:
        raise ValueError(
            f"scores (B, K), epsilon > 0 and iterations >= 1 are needed, not {tuple(scores.shape)}, {epsilon} and "
            f"{iterations}"
        )
    log_q = scores.detach().to(torch.float64) / epsilon
    codes = torch.softmax(log_q - log_sum_over_samples(log_q, all_reduce), dim=1)
    for _ in range(iterations - 1):
        use = codes.sum(dim=0, keepdim=True)
        codes /= use if all_reduce is None else all_reduce(use)
        codes /= codes.sum(dim=1, keepdim=True)
    return codes.to(torch.float32)


def log_sum_over_samples(log_q: Tensor, all_reduce: Callable[[Tensor], Tensor] | None) -> Tensor:
    """log of the sum of exp(log_q) over the samples of all ranks: (B, K) -> (1, K)."""
    if all_reduce is None:
        return torch.logsumexp(log_q, dim=0, keepdim=True)
    # A center shared by all ranks keeps `exp` in range; the mean of the ranks' maxima needs sums alone.
    samples = len(log_q)
    largest = log_q.max() if samples else log_q.new_zeros(())
    sums = all_reduce(torch.stack([largest, log_q.new_tensor(float(samples > 0))]))
    center = sums[0] / sums[1].clamp(min=1)
    return all_reduce((log_q - center).exp().sum(dim=0, keepdim=True)).log() + center
