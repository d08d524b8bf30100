"""Figures of binary labels and scores, and the operating point; every one accepts many weightings of the cases at once.

scikit-learn defines the figures and draws the curves; its functions take one weighting a call and sort anew each time,
which is slow in a bootstrap of many cases. The versions here sort once for a whole block of resamples and agree with
scikit-learn's `sample_weight` to rounding, ties included. Cases whose label is NaN are left out everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

Floats = npt.NDArray[np.float64]


class Metric(Protocol):
    """A figure of labels (n,) of 0 and 1, scores (n,) and weights (..., n) -> (...); NaN where it is undefined."""

    def __call__(self, y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats: ...


@dataclass(frozen=True)
class Confusion:
    """Counts of cases at a threshold: true and false positives, true and false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int


def roc_auc(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Area under the ROC curve by trapezoids, so that a tie counts a half; NaN without both classes."""
    tp, fp = _counts_from_the_top(*_labelled(y, score, weights))
    area = np.sum(np.diff(fp, axis=-1) * (tp[..., 1:] + tp[..., :-1]), axis=-1) / 2
    return _ratio(area, tp[..., -1] * fp[..., -1])


def average_precision(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Mean precision over the steps of recall, not interpolated (scikit-learn's definition); NaN without positives."""
    tp, fp = _counts_from_the_top(*_labelled(y, score, weights))
    called = tp + fp
    precision = np.divide(
        tp, called, out=np.zeros_like(tp), where=called > 0
    )  # no weight yet: recall does not step either
    return _ratio(np.sum(np.diff(tp, axis=-1) * precision[..., 1:], axis=-1), tp[..., -1])


def brier_score(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Mean squared distance of probability and label: 0 is perfect, a constant .5 scores .25 (Brier 1950)."""
    y, score, weights = _labelled(y, score, weights)
    return _ratio(weights @ np.square(score - y), weights.sum(axis=-1))


def sensitivity(y: Floats, score: Floats, weights: Floats | None = None, /, *, threshold: float) -> Floats:
    """Share of the positives whose score is at or above `threshold`; NaN without positives."""
    y, score, weights = _labelled(y, score, weights)
    return _ratio(weights @ (y * (score >= threshold)), weights @ y)


def specificity(y: Floats, score: Floats, weights: Floats | None = None, /, *, threshold: float) -> Floats:
    """Share of the negatives whose score is below `threshold`; NaN without negatives."""
    y, score, weights = _labelled(y, score, weights)
    return _ratio(weights @ ((1 - y) * (score < threshold)), weights @ (1 - y))


def equal_point(y: Floats, score: Floats) -> float:
    """The threshold at which sensitivity and specificity are equal, or nearest to it; a case is called from it upwards.

    Of two thresholds equally near, the one with the larger sum is taken. NaN without both classes.
    """
    if why_undefined(y):
        return float("nan")
    y, score, _ = _labelled(y, score, None)
    false_positive_rate, true_positive_rate, thresholds = roc_curve(y, score, drop_intermediate=False)
    distance = np.abs(true_positive_rate - (1 - false_positive_rate))
    best = np.lexsort((false_positive_rate - true_positive_rate, np.round(distance, 12)))[0]
    return float(thresholds[best])


def confusion(y: Floats, score: Floats, *, threshold: float) -> Confusion:
    """Count the cases called positive (score at or above `threshold`) and negative, right and wrong."""
    y, score, _ = _labelled(y, score, None)
    called, positive = score >= threshold, y == 1
    pairs = ((called & positive), (called & ~positive), (~called & ~positive), (~called & positive))
    return Confusion(*(int(np.count_nonzero(pair)) for pair in pairs))


def why_undefined(y: Floats) -> str | None:
    """Say why no curve can be drawn through these labels, or None where one can."""
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    if positives + negatives == 0:
        return "no case has a label"
    if positives == 0:
        return f"all {negatives} labelled cases are negative"
    if negatives == 0:
        return f"all {positives} labelled cases are positive"
    return None


def checked_labels(y: Any) -> Floats:
    """Labels as floats; ValueError for anything but 0, 1 and NaN (unknown)."""
    labels: Floats = np.asarray(y, dtype=np.float64)
    wrong = labels[~(np.isnan(labels) | (labels == 0) | (labels == 1))]
    if wrong.size:
        raise ValueError(f"a label is 0, 1 or missing, not {wrong[0]:g}")
    return labels


def _labelled(y: Floats, score: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Leave out the cases without a label; weights are ones where none are given. ValueError for a NaN score."""
    weights = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(y)
    if not known.all():
        y, score, weights = y[known], score[known], weights[..., known]
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} labelled cases have no score (NaN)")
    return y, score, weights


def _counts_from_the_top(y: Floats, score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and negatives at or above each distinct score, highest first, after a zero: (..., k + 1)."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))  # the last of each run of ties
    weights = weights[..., order]  # (..., n)
    positive = np.cumsum(weights * y[order], axis=-1)[..., ends]
    every = np.cumsum(weights, axis=-1)[..., ends]
    zero = np.zeros((*every.shape[:-1], 1))
    return np.concatenate((zero, positive), axis=-1), np.concatenate((zero, every - positive), axis=-1)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Floats = np.where(denominator > 0, numerator / denominator, np.nan)[
            ()
        ]  # one weighting: a plain scalar
    return quotient
