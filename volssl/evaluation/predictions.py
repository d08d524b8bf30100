"""The table of predictions, and every figure drawn from it.

One row a study: `id`, `patient`, and for each output the label `y_<output>` (0, 1, NaN unknown) and the probability
`p_<output>`. An output whose cells are lists, such as `slices`, is counted entry by entry; all entries of a patient are
resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from volssl.evaluation.bootstrap import Interval, bootstrap_interval
from volssl.evaluation.metrics import (
    Floats,
    Metric,
    average_precision,
    brier_score,
    checked_labels,
    confusion,
    equal_point,
    roc_auc,
    sensitivity,
    specificity,
    why_undefined,
)
from volssl.files import write_text

CHOSEN_ON_VALIDATION = "validation"
CHOSEN_ON_SAME = "the evaluated cases themselves"


@dataclass(frozen=True)
class Cases:
    """The labelled cases of one output: labels, probabilities, patients (n,); and how many were left out, and why."""

    y: Floats
    score: Floats
    patients: npt.NDArray[Any]
    unlabelled: int
    unscored: int

    @property
    def positives(self) -> int:
        return int(self.y.sum())


def evaluate_predictions(
    predictions: pd.DataFrame,
    *,
    outputs: Sequence[str],
    validation: pd.DataFrame | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Work out every figure of every output, with bootstrap intervals by patient, as plain JSON.

    Args:
        predictions: the table described above, of one split.
        outputs: names of the outputs, the one that matters most first.
        validation: the same table of the validation patients; thresholds are chosen on it. Without it, or where it
            lacks a class, they are chosen on the evaluated cases, which flatters them, and the result says so.
        resamples, level, seed: see `bootstrap_interval`.

    Raises:
        ValueError: a column is missing, a label or probability is out of range, splits are mixed, or a patient stands
            in both tables.
    """
    _check_table(predictions, outputs)
    if validation is not None:
        _check_table(validation, outputs)
        both = set(predictions["patient"]) & set(validation["patient"])
        if both:
            raise ValueError(
                f"{len(both)} patients are among the evaluated and the validation cases, {min(both)} for one"
            )
    options = {"resamples": resamples, "level": level, "seed": seed}
    results = {}
    for output in outputs:
        held_out = None if validation is None else cases_of(validation, output)
        results[output] = _evaluate_output(cases_of(predictions, output), held_out, options)
    return {
        "split": str(predictions["split"].iloc[0]) if "split" in predictions else None,
        "n_studies": len(predictions),
        "n_patients": int(predictions["patient"].nunique()),
        "bootstrap": {**options, "by": "patient", "interval": "percentile"},
        "outputs": results,
    }


def write_metrics_json(metrics: Mapping[str, Any], path: Path) -> Path:
    """Write the figures as JSON that any reader takes (no NaN); returns the path."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    return path


def cases_of(predictions: pd.DataFrame, output: str) -> Cases:
    """The labelled cases of an output; lists are laid end to end, entries without a score left out and counted."""
    labels, scores = predictions[f"y_{output}"], predictions[f"p_{output}"]
    patients = predictions["patient"].to_numpy(dtype=object)
    by_entry = is_by_entry(predictions, output)
    if by_entry:
        entries = [entries_of(row, output) for row in predictions.to_dict("records")]
        patients = np.repeat(patients, [len(of_study) for of_study, _ in entries])
        labels, scores = (np.concatenate(side) for side in zip(*entries, strict=True))
    y, score = checked_labels(labels), np.asarray(scores, dtype=np.float64)
    if (score < 0).any() or (score > 1).any():
        raise ValueError(f"p_{output} holds values outside of 0 to 1: probabilities are wanted, not logits")
    labelled, scored = ~np.isnan(y), ~np.isnan(score)
    if not by_entry and (labelled & ~scored).any():
        raise ValueError(f"p_{output}: {int((labelled & ~scored).sum())} labelled studies have no score (NaN)")
    kept = labelled & scored
    return Cases(y[kept], score[kept], patients[kept], int((~labelled).sum()), int((labelled & ~scored).sum()))


def is_by_entry(predictions: pd.DataFrame, output: str) -> bool:
    """Whether an output has a list a study (slices) and not one number."""
    return bool(len(predictions)) and isinstance(predictions[f"p_{output}"].iloc[0], list | tuple | np.ndarray)


def entries_of(row: Mapping[str, Any], output: str) -> tuple[Floats, Floats]:
    """Labels and scores of one study in an output of lists; a label cell that is no list is unknown throughout."""
    score = np.asarray(row[f"p_{output}"], dtype=np.float64)
    cell = row[f"y_{output}"]
    label = np.asarray(cell, dtype=np.float64) if isinstance(cell, list | tuple | np.ndarray) else score * np.nan
    if len(label) != len(score):
        raise ValueError(f"study {row['id']}: {len(label)} labels but {len(score)} scores in {output}")
    return label, score


def _evaluate_output(cases: Cases, validation: Cases | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of one output; the intervals of sensitivity and specificity hold the threshold fixed."""
    on_validation = validation is not None and why_undefined(validation.y) is None
    chosen_on = validation if validation is not None and on_validation else cases
    threshold = equal_point(chosen_on.y, chosen_on.score)
    metrics: dict[str, Metric] = {"auc": roc_auc, "average_precision": average_precision, "brier": brier_score}
    if not np.isnan(threshold):
        metrics["sensitivity"] = partial(sensitivity, threshold=threshold)
        metrics["specificity"] = partial(specificity, threshold=threshold)
    reason = why_undefined(cases.y)
    undefined = Interval(np.nan, np.nan, np.nan, len(cases.y), len(set(cases.patients)), options["level"], reason)
    intervals = dict.fromkeys(("auc", "average_precision", "brier", "sensitivity", "specificity"), undefined)
    for name, metric in metrics.items():
        intervals[name] = bootstrap_interval(metric, cases.y, cases.score, cases.patients, **options)
    point = None
    if not np.isnan(threshold):
        counts = asdict(confusion(cases.y, cases.score, threshold=threshold))
        rule = "sensitivity and specificity are equal"
        point = {"threshold": threshold, "rule": rule, "chosen_on": _chosen_on(on_validation), **counts}
    return {
        "n": len(cases.y),
        "n_patients": len(set(cases.patients)),
        "positives": cases.positives,
        "unlabelled": cases.unlabelled,
        "unscored": cases.unscored,
        "reason": reason,
        "metrics": {name: interval.as_json() for name, interval in intervals.items()},
        "operating_point": point,
    }


def _chosen_on(on_validation: bool) -> str:
    return CHOSEN_ON_VALIDATION if on_validation else CHOSEN_ON_SAME


def _check_table(predictions: pd.DataFrame, outputs: Sequence[str]) -> None:
    wanted = ["id", "patient", *(f"{kind}_{output}" for output in outputs for kind in ("y", "p"))]
    missing = [column for column in wanted if column not in predictions]
    if missing:
        has = ", ".join(map(str, predictions))
        raise ValueError(f"the table of predictions lacks {', '.join(missing)}; it has {has}")
    if predictions.empty:
        raise ValueError("the table of predictions is empty")
    if "split" in predictions and predictions["split"].nunique() > 1:
        raise ValueError(f"the table of predictions mixes splits: {', '.join(sorted(set(predictions['split'])))}")
