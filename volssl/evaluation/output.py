"""Every figure of one output: the curve's, those at each operating point, DeLong's variance, calibration; as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from volssl.evaluation.bootstrap import Interval, bootstrap_figures
from volssl.evaluation.calibration import BINS, expected_calibration_error, fit_temperature, reliability, scaled
from volssl.evaluation.delong import delong_interval, why_no_variance
from volssl.evaluation.metrics import (
    AT_A_THRESHOLD,
    Floats,
    brier_score,
    confusion,
    confusions,
    log_loss,
    of_ranking,
    why_undefined,
)
from volssl.evaluation.operating_points import RULES

if TYPE_CHECKING:
    from volssl.evaluation.predictions import Cases

CHOSEN_ON_VALIDATION = "validation"
CHOSEN_ON_SAME = "the evaluated cases themselves"
NO_VALIDATION = "no validation cases were given"
SEVERAL = "patients have several cases each, which DeLong's variance would take for strangers"
FIRST_POINT = next(iter(RULES))  # whose figures stand beside AUC, and split the subgroups


def output_figures(
    cases: Cases, validation: Cases | None, *, resamples: int, level: float, seed: int
) -> dict[str, Any]:
    """All figures of one output. The intervals of those at a threshold hold the threshold fixed.

    Args:
        cases: that are evaluated.
        validation: on which thresholds and the temperature are chosen; None where there are none.
        resamples, level, seed: see `bootstrap_interval`.
    """
    why_not = NO_VALIDATION if validation is None else why_undefined(validation.y)
    chosen_on = cases if validation is None or why_not else validation
    thresholds = {name: rule.choose(chosen_on.y, chosen_on.score) for name, rule in RULES.items()}
    thresholds = {name: value for name, value in thresholds.items() if not np.isnan(value)}

    def figures(y: Floats, score: Floats, weights: Floats) -> dict[str, Floats]:
        return of_ranking(y, score, weights) | {"brier": brier_score(y, score, weights)} | at(y, score, weights)

    def at(y: Floats, score: Floats, weights: Floats) -> dict[str, Floats]:
        counts = confusions(y, score, weights, thresholds=thresholds) if thresholds else {}
        return {
            f"{point} {name}": figure(at_point)
            for point, at_point in counts.items()
            for name, (figure, _) in AT_A_THRESHOLD.items()
        }

    found = bootstrap_figures(
        figures, cases.y, cases.score, cases.patients, resamples=resamples, level=level, seed=seed
    )
    points: dict[str, dict[str, Any]] = {}
    for name, threshold in thresholds.items():
        points[name] = {
            "rule": RULES[name].text,
            "threshold": threshold,
            "chosen_on": CHOSEN_ON_SAME if why_not else CHOSEN_ON_VALIDATION,
            "why_not_on_validation": why_not,
            **confusion(cases.y, cases.score, threshold=threshold).as_json(),
            "metrics": {figure: _with_reason(found[f"{name} {figure}"], figure) for figure in AT_A_THRESHOLD},
        }
    nothing = Interval(np.nan, np.nan, np.nan, len(cases.y), cases.n_patients, level, why_undefined(cases.y))
    first = points[FIRST_POINT]["metrics"] if points else dict.fromkeys(AT_A_THRESHOLD, nothing.as_json())
    return {
        "n": len(cases.y),
        "n_patients": cases.n_patients,
        "positives": cases.positives,
        "unlabelled": cases.unlabelled,
        "unscored": cases.unscored,
        "reason": why_undefined(cases.y),
        "metrics": {name: found[name].as_json() for name in ("auc", "average_precision", "brier")} | first,
        "auc_delong": _delong(cases, level),
        "operating_points": points,
        "calibration": _calibration(cases, validation),
    }


def _with_reason(interval: Interval, figure: str) -> dict[str, Any]:
    """A figure at a threshold as JSON; where it is undefined, what there is none of."""
    return replace(interval, reason=AT_A_THRESHOLD[figure][1] if interval.reason else None).as_json()


def _delong(cases: Cases, level: float) -> dict[str, Any]:
    """Standard error and interval of the AUC by DeLong, where each patient has one case."""
    reason = why_no_variance(cases.y) or (SEVERAL if cases.n_patients < len(cases.y) else None)
    if reason:
        return {"standard_error": None, "low": None, "high": None, "level": level, "reason": reason}
    error, low, high = delong_interval(cases.y, cases.score, level=level)
    return {"standard_error": error, "low": low, "high": high, "level": level, "reason": None}


def _calibration(cases: Cases, validation: Cases | None) -> dict[str, Any]:
    """The network's own probabilities, and those scaled by the temperature that validation asks for."""
    found = NO_VALIDATION if validation is None else fit_temperature(validation.y, validation.score)
    temperature, reason = (None, found) if isinstance(found, str) else (found, None)
    after = None if temperature is None else _probabilities(cases.y, scaled(cases.score, temperature))
    return {
        "bins": BINS,
        "before": _probabilities(cases.y, cases.score),
        "temperature": temperature,
        "reason": reason,
        "after": after,
    }


def _probabilities(y: Floats, probability: Floats) -> Mapping[str, Any]:
    """How well probabilities fit: ECE, Brier score and log loss, None without a case; and the reliability curve."""
    curve = reliability(y, probability)
    figures = {
        "ece": expected_calibration_error(curve),
        "brier": float(brier_score(y, probability)),
        "log_loss": float(log_loss(y, probability)),
    }
    told: dict[str, Any] = {name: None if np.isnan(value) else value for name, value in figures.items()}
    return told | {"curve": [asdict(part) for part in curve]}
