"""Signs of collapse: spread and effective rank of features, and the use of prototypes (Garrido et al. 2023).

Plain functions of what a method has at hand. They carry no gradient, take any precision, and work in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

DEAD = 0.1  # of an even share: a prototype used less than this is called dead


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """Standard deviation of the normalised features times sqrt(dim), averaged over dimensions (Chen and He 2021).

    Args:
        features: (N, dim), a row a sample; rows are L2-normalised first.

    Returns:
        A scalar: about 1 where the features fill the sphere evenly, 0 where all are the same.
    """
    rows = functional.normalize(features.float(), dim=1)
    return rows.std(dim=0, correction=0).mean() * math.sqrt(rows.shape[1])


@torch.no_grad()
def effective_rank(features: Tensor, *, epsilon: float = 1e-7) -> Tensor:
    """RankMe: exp of the entropy of the singular values as shares of their sum (Garrido et al. 2023, equation 2).

    Not centred, as in the paper: features that are all the same have rank 1. It cannot exceed the number of rows, so
    give it some hundreds (a queue and the batch) where they are at hand, and always as many.

    Args:
        features: (N, dim), a row a sample; not normalised here.
        epsilon: added to each share, against the logarithm of 0.

    Returns:
        A scalar between 1 and min(N, dim); 0 for rows of zeros alone.
    """
    values = torch.linalg.svdvals(features.float())
    total = values.sum()
    if not total > 0:
        return torch.zeros((), device=features.device)
    shares = values / total + epsilon
    return torch.exp(-(shares * shares.log()).sum())


@torch.no_grad()
def prototype_use(scores: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """How evenly the prototypes are used, and how many hardly at all.

    The use of a prototype is its mean probability over the rows. Each row is of one sample, and a row can make few
    prototypes live: with fewer rows than some times K the dead are overcounted, so give the queue's scores too.

    Args:
        scores: (N, K), samples against prototypes.
        temperature: divides the scores, as in the prediction.

    Returns:
        The entropy of the use over ln K, 1 where all are used alike and 0 where one takes all; and the share of
        prototypes that are dead, used less than a tenth of an even share.
    """
    use = torch.softmax(scores.float() / temperature, dim=1).mean(dim=0)  # (K,)
    entropy = -torch.special.xlogy(use, use).sum() / math.log(len(use))
    return entropy, (use < DEAD / len(use)).float().mean()
