"""DeLong's variance of an AUC, and the test of two AUCs on the same cases (DeLong et al. 1988), in O(n log n).

The placement of a positive is the share of the negatives below it, and of a negative the share of the positives above;
ties count a half. The AUC is the mean of either, and their spread is its variance. Ranks give all of them after one
sort (Sun and Xu 2014). Every case is taken for a witness of its own: where patients have several, only the bootstrap
holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from volssl.evaluation.metrics import Floats, checked_labels, why_undefined

FEWEST = 2  # of each class: one case has no spread


@dataclass(frozen=True)
class DeLongTest:
    """Two AUCs of the same cases, compared.

    Attributes:
        auc, other: the two areas, each the mean of its models.
        difference: `auc` minus `other`.
        standard_error: of the difference.
        z: difference over standard error; NaN where the scores rank all cases alike.
        p: two-sided probability of such a z if there were no difference; 1 where the scores rank all cases alike.
    """

    auc: float
    other: float
    difference: float
    standard_error: float
    z: float
    p: float


def delong_covariance(y: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The AUCs of several models on the same cases and their covariance.

    Args:
        y: labels (n,), 0 or 1; cases with NaN are left out.
        scores: (n, models).

    Returns:
        Areas (models,) and covariance (models, models).

    Raises:
        ValueError: a class has fewer than two cases, or a labelled case no score.
    """
    labels, values = checked_labels(y), np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(labels):
        raise ValueError(f"scores (cases, models) are wanted for {len(labels)} labels, not {values.shape}")
    known = ~np.isnan(labels)
    labels, values = labels[known], values[known]
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).any(axis=1).sum())} labelled cases have no score (NaN)")
    reason = why_no_variance(labels)
    if reason:
        raise ValueError(reason)
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(values, axis=0)  # (m + n, models)
    of_positives = (ranks[positive] - rankdata(values[positive], axis=0)) / n  # share of negatives below, (m, models)
    of_negatives = 1 - (ranks[~positive] - rankdata(values[~positive], axis=0)) / m  # of positives above, (n, models)
    spread = np.cov(of_positives, rowvar=False) / m + np.cov(of_negatives, rowvar=False) / n
    return of_positives.mean(axis=0), np.atleast_2d(spread)


def delong_interval(y: npt.ArrayLike, score: npt.ArrayLike, *, level: float = 0.95) -> tuple[float, float, float]:
    """Standard error of an AUC, and the bounds of its interval on the normal curve, cut at 0 and 1."""
    areas, covariance = delong_covariance(y, np.asarray(score, dtype=np.float64)[:, None])
    error = math.sqrt(covariance[0, 0])
    reach = float(norm.ppf((1 + level) / 2)) * error
    return error, max(float(areas[0]) - reach, 0.0), min(float(areas[0]) + reach, 1.0)


def delong_test(y: npt.ArrayLike, score: npt.ArrayLike, other: npt.ArrayLike) -> DeLongTest:
    """Compare the AUCs of two scores of the same cases, or the mean AUCs of several each.

    Args:
        y: labels (n,), 0 or 1; cases with NaN are left out.
        score, other: (n,), or (n, models) whose AUCs are averaged.
    """
    mine, theirs = (np.asarray(scores, dtype=np.float64).reshape(len(np.asarray(y)), -1) for scores in (score, other))
    areas, covariance = delong_covariance(y, np.concatenate([mine, theirs], axis=1))
    k, others = mine.shape[1], theirs.shape[1]
    contrast = np.concatenate([np.full(k, 1 / k), np.full(others, -1 / others)])  # equation 5 of the paper
    difference = float(contrast @ areas)
    error = math.sqrt(max(float(contrast @ covariance @ contrast), 0.0))
    alike = error < 1e-12  # the covariances cancel, but for rounding
    z = math.nan if alike else difference / error
    p = 1.0 if alike else float(2 * norm.sf(abs(z)))
    return DeLongTest(float(areas[:k].mean()), float(areas[k:].mean()), difference, error, z, p)


def why_no_variance(y: Floats) -> str | None:
    """Say why there is no DeLong variance with these labels, or None where there is."""
    reason = why_undefined(y)
    if reason:
        return reason
    fewer = min(int((y == 1).sum()), int((y == 0).sum()))
    return None if fewer >= FEWEST else f"a class has {fewer} case, and one has no spread"
