"""Sinkhorn-Knopp codes: samples spread evenly over prototypes (Cuturi 2013; Caron et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

AllReduce = Callable[[Tensor], Tensor]


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int, all_reduce: AllReduce | None = None) -> Tensor:
    """The codes Q* of Eq. 3 of Ghesu et al. 2022: a normalised exponential matrix.

    The factors 1/K and 1/B of the published algorithm cancel and are left out, which also keeps the result right where
    ranks hold different numbers of samples. How it is worked out: `codes_in_place`.

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
    wide = torch.empty_like(scores, dtype=torch.float64)
    return codes_in_place(scores, wide, epsilon=epsilon, iterations=iterations, all_reduce=all_reduce)


@torch.no_grad()
def codes_in_place(
    scores: Tensor,
    wide: Tensor,
    *,
    epsilon: float,
    iterations: int,
    all_reduce: AllReduce | None = None,
    wanted: slice = slice(None),
) -> Tensor:
    """`sinkhorn`, in memory that is given, and of the rows that are wanted.

    Works in float64 whatever autocast says, with one exponential a score. The codes are u_b exp(s_bk / epsilon) v_k,
    with factors u that make the sums of samples one and v those of prototypes. What is subtracted from a column or a
    row of the exponents changes the factors alone: the largest of each column, then of each row, so that no
    exponential overflows (a half-precision one does at a score of 0.33 with epsilon 0.03), and every sum has a
    summand that is far from 0.

    Args:
        scores, epsilon, iterations, all_reduce: see `sinkhorn`.
        wide: (B, K) float64, written over.
        wanted: the rows whose codes are returned; all count.
    """
    center = center_of_prototypes(scores, all_reduce)
    torch.add(center / -epsilon, scores, alpha=1 / epsilon, out=wide)
    largest = wide.amax(dim=1, keepdim=True)
    kernel = wide.sub_(largest).exp_()
    of_samples = largest.squeeze(1).exp_()
    for left in reversed(range(iterations)):
        use = of_samples @ kernel
        of_prototypes = 1 / (use if all_reduce is None else all_reduce(use))
        if left:
            of_samples = 1 / (kernel @ of_prototypes)
    codes = kernel[wanted] * of_prototypes
    return (codes / codes.sum(dim=1, keepdim=True)).to(torch.float32)


def center_of_prototypes(scores: Tensor, all_reduce: AllReduce | None) -> Tensor:
    """The largest score of each prototype, (B, K) -> (K,) in float64; of several ranks the mean of theirs.

    A center must be shared by all ranks, and sums are all that they exchange.
    """
    samples = len(scores)
    largest = scores.amax(dim=0).double() if samples else scores.new_zeros(scores.shape[1], dtype=torch.float64)
    if all_reduce is None:
        return largest
    sums = all_reduce(torch.cat([largest, largest.new_tensor([float(samples > 0)])]))
    return sums[:-1] / sums[-1].clamp(min=1)
