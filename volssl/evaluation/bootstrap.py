"""Percentile bootstrap by patient: how far a figure would move with other patients (Efron and Tibshirani 1993, ch. 13).

Patients are drawn with replacement and bring all their studies, so that two scans of one person are not taken for two
witnesses. A draw that lost a class which the data have is drawn again. A figure may be undefined in a draw all the
same, such as PPV where nobody is called positive: that draw is left out of this figure's bounds, and the result tells
how many were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volssl.evaluation.metrics import Floats, Metric, checked_labels, why_undefined

BLOCK = 1_000_000  # weights in memory at once: resamples x cases
ALIKE = "all cases are called alike at this threshold"

# Labels (n,), scores (n,) and weights (..., n) -> figures by name, (...) each.
Figures = Callable[[Floats, Floats, Floats], Mapping[str, Floats]]


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its bootstrap interval.

    Attributes:
        value: the figure on the cases themselves; NaN where it is undefined.
        low, high: the bounds.
        n: labelled cases it rests on.
        n_patients: patients they belong to.
        level: share of the resamples between the bounds.
        reason: why there is no value, else None.
        left_out: resamples in which the figure was undefined; the bounds are those of the others.
    """

    value: float
    low: float
    high: float
    n: int
    n_patients: int
    level: float = 0.95
    reason: str | None = None
    left_out: int = 0

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"undefined ({self.reason})"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def clear_of_zero(self) -> bool:
        """Whether zero lies outside of the bounds: for a difference, that it is unlikely to be chance."""
        return self.low > 0 or self.high < 0

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON: None for NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def bootstrap_interval(
    metric: Metric,
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap a figure of one model.

    Args:
        metric: a function of `volssl.evaluation.metrics`, thresholds bound with `functools.partial`.
        y: labels (n,), 0 or 1; cases with NaN are left out.
        score: scores (n,), or (n, k) of k models trained alike, whose mean figure is taken; NaN on a labelled case is
            a ValueError.
        groups: the patient of each case (n,).
        resamples, level, seed: how many draws, the share of them between the bounds, and the seed of the draws.
    """
    labels, (scores,), patients = _labelled_cases(y, [score], groups)

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"": mean_figure(metric, labels, scores, weights)}

    return _percentile_intervals(statistic, labels, patients, resamples=resamples, level=level, seed=seed)[""]


def bootstrap_figures(
    figures: Figures,
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap many figures of one model on the same draws; `bootstrap_interval` says the rest."""
    labels, (scores,), patients = _labelled_cases(y, [score], groups)
    order = np.argsort(-scores, kind="stable")  # once, not once a block: what is sorted sorts fast
    labels, scores, patients = labels[order], scores[order], patients[order]

    def statistic(weights: Floats) -> Mapping[str, Floats]:
        return figures(labels, scores, weights)

    return _percentile_intervals(statistic, labels, patients, resamples=resamples, level=level, seed=seed)


def paired_difference(
    metric: Metric,
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    other: npt.ArrayLike,
    groups: npt.ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap the figure of `score` minus that of `other` on the same draws of the same cases; arguments as above."""
    labels, (scores, others), patients = _labelled_cases(y, [score, other], groups)

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"": mean_figure(metric, labels, scores, weights) - mean_figure(metric, labels, others, weights)}

    return _percentile_intervals(statistic, labels, patients, resamples=resamples, level=level, seed=seed)[""]


def mean_figure(metric: Metric, y: Floats, scores: Floats, weights: Floats) -> Floats:
    """A figure of one model, (n,), or the mean of that of several, (n, k)."""
    models = scores.T if scores.ndim == 2 else [scores]
    mean: Floats = np.mean([metric(y, model, weights) for model in models], axis=0)
    return mean


def resample_weights(y: Floats, patients: npt.NDArray[Any], *, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks (rows, n): how often each case is in each resample; the draws do not depend on the block."""
    _, patient_of_case = np.unique(patients, return_inverse=True)  # (n,)
    count = int(patient_of_case.max()) + 1
    positives = np.bincount(patient_of_case, weights=y, minlength=count).astype(np.float64)
    negatives = np.bincount(patient_of_case, weights=1 - y, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(y))
    for start in range(0, resamples, rows):
        block = [_draw(rng, positives, negatives) for _ in range(min(rows, resamples - start))]
        yield np.stack(block)[:, patient_of_case]


def _draw(rng: np.random.Generator, positives: Floats, negatives: Floats) -> Floats:
    """How often each patient is drawn (patients,), of draws that keep each class that there is."""
    while True:
        times = np.bincount(rng.integers(0, len(positives), size=len(positives)), minlength=len(positives))
        if all((times @ of_class > 0) or not of_class.any() for of_class in (positives, negatives)):
            return times.astype(np.float64)


def _percentile_intervals(
    statistic: Callable[[Floats], Mapping[str, Floats]],
    y: Floats,
    patients: npt.NDArray[Any],
    *,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, Interval]:
    n, n_patients = len(y), len(np.unique(patients))
    values = statistic(np.ones(n))
    defined = {name: float(value) for name, value in values.items() if n and not np.isnan(value)}
    blocks: list[Mapping[str, Floats]] = []
    if defined:
        blocks = [statistic(weights) for weights in resample_weights(y, patients, resamples=resamples, seed=seed)]
    intervals = {}
    for name in values:
        if name not in defined:
            reason = why_undefined(y) or ALIKE
            intervals[name] = Interval(math.nan, math.nan, math.nan, n, n_patients, level, reason)
            continue
        draws = np.concatenate([block[name] for block in blocks])
        known = draws[~np.isnan(draws)]
        low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) if len(known) else (math.nan, math.nan)
        left_out = len(draws) - len(known)
        intervals[name] = Interval(defined[name], float(low), float(high), n, n_patients, level, left_out=left_out)
    return intervals


def _labelled_cases(
    y: npt.ArrayLike, scores: list[npt.ArrayLike], groups: npt.ArrayLike
) -> tuple[Floats, list[Floats], npt.NDArray[Any]]:
    """Leave out cases without a label; ValueError where lengths differ or a case lacks a patient."""
    labels = checked_labels(y)
    columns = [np.asarray(score, dtype=np.float64) for score in scores]
    patients = np.asarray(groups, dtype=object)
    if any(patient is None or patient != patient for patient in patients):
        raise ValueError("a case has no patient: studies of one person cannot be kept together")
    patients = patients.astype(str)
    lengths = {len(column) for column in (labels, *columns, patients)}
    if len(lengths) > 1:
        raise ValueError(f"labels, scores and patients differ in length: {sorted(lengths)}")
    kept = ~np.isnan(labels)
    return labels[kept], [column[kept] for column in columns], patients[kept]
