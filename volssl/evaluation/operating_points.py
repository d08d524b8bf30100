"""Rules by which a threshold is chosen on validation: equal sensitivity and specificity, or one of them given.

A case is called positive from the threshold upwards. Chosen on the cases that are then judged, a threshold flatters;
`volssl.evaluation.predictions` says on which it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.metrics import roc_curve

from volssl.evaluation.metrics import Floats, checked_labels, why_undefined

ROUNDING = 1e-12  # 8 of 10 positives are 80 %, whatever the last bit of the quotient


@dataclass(frozen=True)
class Rule:
    """A way to choose a threshold.

    Attributes:
        name: what people call it.
        text: what holds at the threshold, to stand after "where".
        choose: labels (n,), scores (n,) -> the threshold; NaN without both classes.
    """

    name: str
    text: str
    choose: Callable[[Floats, Floats], float]


def equal_point(y: Floats, score: Floats) -> float:
    """The threshold at which sensitivity and specificity are equal, or nearest to it.

    Of two thresholds equally near, the one with the larger sum is taken. NaN without both classes.
    """
    if why_undefined(y):
        return float("nan")
    sensitivity, specificity, thresholds = _points(y, score)
    distance = np.round(np.abs(sensitivity - specificity), 12)
    return float(thresholds[np.lexsort((-sensitivity - specificity, distance))[0]])


def sensitivity_point(y: Floats, score: Floats, *, sensitivity: float) -> float:
    """The highest threshold that finds at least this share of the positives. NaN without both classes."""
    if why_undefined(y):
        return float("nan")
    found, _, thresholds = _points(y, score)
    return float(thresholds[found >= sensitivity - ROUNDING][0])


def specificity_point(y: Floats, score: Floats, *, specificity: float) -> float:
    """The lowest threshold that clears at least this share of the negatives. NaN without both classes.

    Where too many negatives share the highest score, it lies just above that, and nobody is called positive.
    """
    if why_undefined(y):
        return float("nan")
    _, cleared, thresholds = _points(y, score)
    return float(thresholds[cleared >= specificity - ROUNDING][-1])


RULES = {
    "equal": Rule("Sensitivity = specificity", "sensitivity and specificity are equal", equal_point),
    "sensitivity_80": Rule(
        "Sensitivity 80\N{NO-BREAK SPACE}%", "sensitivity is at least 80 %", partial(sensitivity_point, sensitivity=0.8)
    ),
    "specificity_95": Rule(
        "Specificity 95\N{NO-BREAK SPACE}%",
        "specificity is at least 95 %",
        partial(specificity_point, specificity=0.95),
    ),
}


def _points(y: Floats, score: Floats) -> tuple[Floats, Floats, Floats]:
    """Sensitivity, specificity and threshold at each distinct score, from the top down, after calling nobody."""
    y = checked_labels(y)
    known = ~np.isnan(y)
    false_positive_rate, true_positive_rate, thresholds = roc_curve(y[known], score[known], drop_intermediate=False)
    thresholds[0] = np.nextafter(thresholds[1], np.inf)  # infinity is no JSON
    return true_positive_rate, 1 - false_positive_rate, thresholds
