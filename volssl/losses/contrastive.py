"""Contrast: samples that belong together attract, all others repel (Chen et al. 2020; He et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(scores: Tensor, positives: Tensor, *, ignored: Tensor | None = None) -> Tensor:
    """InfoNCE with any number of positives a row (Khosla et al. 2020, Eq. 2; with one, Eq. 1 of Chen et al. 2020).

    Args:
        scores: (N, M) similarities of N anchors with M candidates, divided by the temperature.
        positives: (N, M) bool: who belongs to an anchor.
        ignored: (N, M) bool: candidates that neither attract nor repel, such as the anchor itself. Positives count all
            the same.

    Returns:
        A scalar: the mean, over anchors with a positive, of the mean over their positives of the negative log of the
        positive's share among all candidates; 0 where there is no positive at all.
    """
    scores = scores.float()
    if ignored is not None:
        scores = scores.masked_fill(ignored & ~positives, -torch.inf)
    log_share = torch.log_softmax(scores, dim=1)
    count = positives.sum(dim=1)
    rows = -torch.where(positives, log_share, 0.0).sum(dim=1) / count.clamp(min=1)
    return rows.sum() / (count > 0).sum().clamp(min=1)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float, kin: Tensor | None = None) -> Tensor:
    """The loss of SimCLR, on cosine similarities (Chen et al. 2020, Eq. 1).

    Args:
        first: (B, dim) features of one crop of each sample; they need not be of norm 1.
        second: (B, dim) of the other.
        temperature: divides the similarities; smaller is sharper.
        kin: (B, B) bool: samples j that are as near to i as its positive pair is. They do not repel.

    Returns:
        A scalar: the mean over all 2 B crops; each has one positive and up to 2 B - 2 negatives.
    """
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):
        features = functional.normalize(torch.cat([first, second]).float(), dim=1)
        scores = features @ features.T / temperature  # (2 B, 2 B)
    itself = torch.eye(2 * n, dtype=torch.bool, device=scores.device)
    return contrastive_loss(
        scores, itself.roll(n, dims=1), ignored=itself if kin is None else itself | kin.repeat(2, 2)
    )


def queue_loss(
    queries: Tensor, keys: Tensor, queue: Tensor, *, temperature: float, ignored: Tensor | None = None
) -> Tensor:
    """The loss of MoCo, on cosine similarities (He et al. 2020, Eq. 1).

    Args:
        queries: (B, dim) features; they need not be of norm 1.
        keys: (B, dim), each the positive of its query; without gradient.
        queue: (Q, dim) keys of earlier samples, the negatives.
        temperature: divides the similarities.
        ignored: (B, Q) bool: rows of the queue that do not repel a query: of its own kind, or not filled yet. The
            others count for them, so that a loss means the same however full the queue is.

    Returns:
        A scalar: the mean cross-entropy of finding the key among 1 + Q; ln(1 + Q) where all features are the same.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, k, negatives = (functional.normalize(rows.float(), dim=1) for rows in (queries, keys.detach(), queue))
        positive, others = (q * k).sum(dim=1, keepdim=True) / temperature, q @ negatives.T / temperature
        if ignored is not None:
            left = (~ignored).sum(dim=1, keepdim=True)
            others = others.masked_fill(ignored, -torch.inf) + torch.log(ignored.shape[1] / left.clamp(min=1))
        return (torch.logsumexp(torch.cat([positive, others], dim=1), dim=1) - positive.squeeze(1)).mean()
