"""Figures of binary labels and scores, of the curve and at a threshold; all take many weightings of the cases at once.

scikit-learn defines the figures and draws the curves; its functions take one weighting a call and sort anew each time,
which is slow in a bootstrap of many cases. The versions here sort once for a whole block of resamples and agree with
scikit-learn's `sample_weight` to rounding, ties included. Where a figure has nothing to divide by it is NaN, where
scikit-learn writes 0. Cases whose label is NaN are left out everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from volssl.evaluation.ranking import walk

Floats = npt.NDArray[np.float64]
SURE = 1e-7  # a float32 sigmoid rounds to 0 or 1 beyond; a logarithm needs a bound


class Metric(Protocol):
    """A figure of labels (n,) of 0 and 1, scores (n,) and weights (..., n) -> (...); NaN where it is undefined."""

    def __call__(self, y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats: ...


@dataclass(frozen=True)
class Confusion:
    """Cases at a threshold, counted or weighed, (...): true and false positives, true and false negatives."""

    tp: Floats
    fp: Floats
    tn: Floats
    fn: Floats

    def as_json(self) -> dict[str, int]:
        """The counts of one weighting as whole numbers."""
        return {name: int(getattr(self, name)) for name in ("tp", "fp", "tn", "fn")}


def roc_auc(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Area under the ROC curve by trapezoids, so that a tie counts a half; NaN without both classes."""
    return of_ranking(y, score, weights)["auc"]


def average_precision(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Mean precision over the steps of recall, not interpolated (scikit-learn's definition); NaN without positives."""
    return of_ranking(y, score, weights)["average_precision"]


def of_ranking(y: Floats, score: Floats, weights: Floats | None = None, /) -> dict[str, Floats]:
    """`auc` and `average_precision`, of one sort and one pass."""
    y, score, weights = _labelled(y, score, weights)
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True)[: len(score)]  # whether a case is the last of a run of ties
    rows = weights.reshape(math.prod(weights.shape[:-1]), len(y))
    figures = walk()(np.ascontiguousarray(rows), y, order, ends).reshape(2, *weights.shape[:-1])
    return {"auc": figures[0], "average_precision": figures[1]}


def brier_score(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Mean squared distance of probability and label: 0 is perfect, a constant .5 scores .25 (Brier 1950)."""
    y, score, weights = _labelled(y, score, weights)
    return _ratio(weights @ np.square(score - y), weights.sum(axis=-1))


def log_loss(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
    """Mean of −ln of the probability given to what was so; probabilities are held `SURE` away from 0 and 1."""
    y, score, weights = _labelled(y, score, weights)
    score = np.clip(score, SURE, 1 - SURE)
    return _ratio(weights @ -(y * np.log(score) + (1 - y) * np.log1p(-score)), weights.sum(axis=-1))


def confusion(y: Floats, score: Floats, weights: Floats | None = None, /, *, threshold: float) -> Confusion:
    """Count the cases called positive (score at or above `threshold`) and negative, right and wrong."""
    return confusions(y, score, weights, thresholds={"": threshold})[""]


def confusions(
    y: Floats, score: Floats, weights: Floats | None = None, /, *, thresholds: Mapping[str, float]
) -> dict[str, Confusion]:
    """The counts at each of several thresholds, by name, in one product of matrices."""
    y, score, weights = _labelled(y, score, weights)
    called = [score >= threshold for threshold in thresholds.values()]
    columns = [y, 1 - y, *(part for c in called for part in (y * c, (1 - y) * c))]
    counts = np.moveaxis(weights @ np.stack(columns, axis=-1), -1, 0)  # (2 + 2 thresholds, ...)
    positive, negative, pairs = counts[0], counts[1], counts[2:].reshape(-1, 2, *counts.shape[1:])
    return {
        name: Confusion(tp, fp, negative - fp, positive - tp) for name, (tp, fp) in zip(thresholds, pairs, strict=True)
    }


def sensitivity(counts: Confusion) -> Floats:
    """Share of the positives that are called so (recall)."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Confusion) -> Floats:
    """Share of the negatives that are called so."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def ppv(counts: Confusion) -> Floats:
    """Share of those called positive who are (precision); it falls with the share of positives among the cases."""
    return _ratio(counts.tp, counts.tp + counts.fp)


def npv(counts: Confusion) -> Floats:
    """Share of those called negative who are; it rises as the share of positives falls."""
    return _ratio(counts.tn, counts.tn + counts.fn)


def f1(counts: Confusion) -> Floats:
    """Harmonic mean of sensitivity and PPV: 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def balanced_accuracy(counts: Confusion) -> Floats:
    """Mean of sensitivity and specificity."""
    return (sensitivity(counts) + specificity(counts)) / 2


def mcc(counts: Confusion) -> Floats:
    """Matthews' correlation of label and call, −1 to 1 (Matthews 1975)."""
    tp, fp, tn, fn = counts.tp, counts.fp, counts.tn, counts.fn
    return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


# The figures at a threshold, by name, and what is missing where each is undefined.
AT_A_THRESHOLD: dict[str, tuple[Callable[[Confusion], Floats], str]] = {
    "sensitivity": (sensitivity, "no case is positive"),
    "specificity": (specificity, "no case is negative"),
    "ppv": (ppv, "no case is called positive"),
    "npv": (npv, "no case is called negative"),
    "f1": (f1, "no case is positive, and none is called so"),
    "balanced_accuracy": (balanced_accuracy, "the cases are all of one class"),
    "mcc": (mcc, "the cases, or the calls, are all of one class"),
}


def at_threshold(figure: Callable[[Confusion], Floats], threshold: float) -> Metric:
    """A figure of counts, such as `ppv`, as a `Metric` with a fixed threshold."""

    def metric(y: Floats, score: Floats, weights: Floats | None = None, /) -> Floats:
        return figure(confusion(y, score, weights, threshold=threshold))

    return metric


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


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient, NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        quotient: Floats = np.where(denominator > 0, numerator / denominator, np.nan)[
            ()
        ]  # one weighting: a plain scalar
    return quotient
