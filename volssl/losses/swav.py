"""The swapped prediction of SwAV with many crops (Caron et al. 2020, Eq. 2 and 6; Ghesu et al. 2022, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from volssl.losses.sinkhorn import sinkhorn


def swav_loss(
    scores: Sequence[Tensor],
    *,
    assigned: Sequence[int],
    queue_scores: Sequence[Tensor] | None = None,
    temperature: float,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """Predict the codes of each assigned crop from every other crop.

    In float32 whatever autocast says. The scores are those of the whole batch, of all ranks: nothing is exchanged here.

    Args:
        scores: for each crop (B, K), cosine similarities with the prototypes.
        assigned: the crops whose codes are computed; large or small.
        queue_scores: for each assigned crop (Q, K), similarities of earlier samples, which make the codes less flat.
        temperature: divides the scores in the prediction.
        epsilon, iterations: see `sinkhorn`.

    Returns:
        A scalar: over assigned crops i, the mean over crops v other than i of the cross-entropy of q_i and
        softmax(scores_v / temperature). The codes carry no gradient.

    Raises:
        ValueError: where fewer than two crops are given, or an assigned one does not exist.
    """
    if len(scores) < 2 or not assigned or not set(assigned) <= set(range(len(scores))):
        raise ValueError(f"two crops or more and assigned ones among them are needed, not {len(scores)} and {assigned}")
    codes: dict[int, Tensor] = {}
    for position, i in enumerate(assigned):
        rows = scores[i] if queue_scores is None else torch.cat([queue_scores[position], scores[i]])
        codes[i] = sinkhorn(rows, epsilon=epsilon, iterations=iterations)[len(rows) - len(scores[i]) :]
    return swapped_prediction(scores, codes, temperature=temperature)


def swapped_prediction(scores: Sequence[Tensor], codes: Mapping[int, Tensor], *, temperature: float) -> Tensor:
    """What `swav_loss` is once the codes of the assigned crops are known: codes (B, K) by the number of the crop."""
    log_p = [torch.log_softmax(s.float() / temperature, dim=1) for s in scores]
    loss = scores[0].new_zeros((), dtype=torch.float32)
    for i, code in codes.items():
        others = [-(code * log_p[v]).sum(dim=1).mean() for v in range(len(scores)) if v != i]
        loss = loss + torch.stack(others).mean()
    return loss / len(codes)
