"""Whether a probability means what it says: bins of the reliability curve, ECE, and temperature scaling.

The expected calibration error is that of Naeini et al. 2015, for the probability of the positive class: cases in bins
of equal width, and the distance of the mean probability and the share of positives, weighed by cases. It has no
bootstrap interval: noise alone opens a distance in every bin, so that resamples lie above the figure itself.

Temperature scaling (Guo et al. 2017) divides the logit by one number T, chosen on validation for the least log loss.
Each output is binary and is scaled on its own: of a target of several classes, whose outputs are one against the rest,
the scaled probabilities of a case need not sum to 1. Scaling changes no rank, hence no AUC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from volssl.evaluation.metrics import SURE, Floats, why_undefined

BINS = 10
LOWEST, HIGHEST = 0.02, 50.0  # temperatures; at an end of it the validation cases ask for none that is finite
SEPARATED = (
    "the validation cases lie on the right sides of 1/2, or their scores tell nothing: no finite temperature fits"
)


@dataclass(frozen=True)
class Bin:
    """The cases of a bin of probabilities: its edges, how many, their mean probability and share of positives."""

    low: float
    high: float
    n: int
    mean_probability: float
    share_positive: float


def reliability(y: Floats, probability: Floats, *, bins: int = BINS) -> list[Bin]:
    """The bins that hold a case, from the lowest; a probability on an edge is of the lower bin.

    Args:
        y: labels (n,) of 0 and 1.
        probability: (n,) in [0, 1].
        bins: of equal width.
    """
    of_case = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability)
    counts = np.bincount(of_case, minlength=bins)
    sums = np.bincount(of_case, weights=probability, minlength=bins), np.bincount(of_case, weights=y, minlength=bins)
    return [
        Bin(index / bins, (index + 1) / bins, int(n), float(sums[0][index] / n), float(sums[1][index] / n))
        for index, n in enumerate(counts)
        if n
    ]


def expected_calibration_error(curve: Sequence[Bin]) -> float:
    """ECE of a reliability curve; 0 is perfect. NaN without a case."""
    n = sum(part.n for part in curve)
    if not n:
        return math.nan
    return sum(part.n * abs(part.mean_probability - part.share_positive) for part in curve) / n


def fit_temperature(y: Floats, probability: Floats) -> float | str:
    """The temperature of least log loss; above 1 the probabilities were too sure. Else the reason why there is none.

    Args:
        y: labels (n,) of 0 and 1, of validation.
        probability: (n,) in [0, 1].
    """
    reason = why_undefined(y)
    if reason:
        return reason

    against = (1 - 2 * y) * _logit(probability)  # logit of the wrong answer

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, against / math.exp(log_temperature)).mean())

    found = minimize_scalar(
        loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded", options={"xatol": 1e-6}
    )
    temperature = math.exp(found.x)
    at_an_end = not 1.01 * LOWEST < temperature < HIGHEST / 1.01
    return SEPARATED if at_an_end else temperature


def scaled(probability: Floats, temperature: float) -> Floats:
    """Probabilities whose logits are divided by a temperature; held `SURE` away from 0 and 1 before."""
    result: Floats = expit(_logit(probability) / temperature)
    return result


def _logit(probability: Floats) -> Floats:
    result: Floats = logit(np.clip(probability, SURE, 1 - SURE))
    return result
