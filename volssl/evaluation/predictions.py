"""The table of predictions, and every figure drawn from it.

One row a study: `id`, `patient`, and for each output the label `y_<output>` (0, 1, NaN unknown) and the probability
`p_<output>`. An output whose cells are lists, such as `slices`, is counted entry by entry; all entries of a patient are
resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from volssl.evaluation.metrics import Floats, checked_labels
from volssl.evaluation.output import FIRST_POINT, output_figures
from volssl.evaluation.subgroups import FEWEST_PATIENTS, UNKNOWN, subgroup_figures
from volssl.files import write_text


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

    @property
    def n_patients(self) -> int:
        return len(set(self.patients))


def evaluate_predictions(
    predictions: pd.DataFrame,
    *,
    outputs: Sequence[str],
    validation: pd.DataFrame | None = None,
    by: Sequence[str] = (),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Work out every figure of every output, with bootstrap intervals by patient, as plain JSON.

    Args:
        predictions: the table described above, of one split.
        outputs: names of the outputs, the one that matters most first.
        validation: the same table of the validation patients; thresholds are chosen on it. Without it, or where it
            lacks a class, they are chosen on the evaluated cases, which flatters them, and the result says so. So are
            temperatures; without it there are none.
        by: columns whose groups are told apart, such as `sex`; a blank cell is of the group `unknown`.
        resamples, level, seed: see `bootstrap_interval`.

    Raises:
        ValueError: a column is missing, a label or probability is out of range, splits are mixed, or a patient stands
            in both tables.
    """
    _check_table(predictions, outputs, by)
    if validation is not None:
        _check_table(validation, outputs)
        both = set(predictions["patient"]) & set(validation["patient"])
        if both:
            raise ValueError(
                f"{len(both)} patients are among the evaluated and the validation cases, {min(both)} for one"
            )
    results = {}
    for output in outputs:
        held_out = None if validation is None else cases_of(validation, output)
        results[output] = output_figures(
            cases_of(predictions, output), held_out, resamples=resamples, level=level, seed=seed
        )
        points = results[output]["operating_points"]
        threshold = points[FIRST_POINT]["threshold"] if points else None
        results[output]["subgroups"] = {
            column: {
                group: subgroup_figures(cases_of(rows, output), threshold, resamples=resamples, level=level, seed=seed)
                for group, rows in _groups(predictions, column)
            }
            for column in by
        }
    return {
        "split": str(predictions["split"].iloc[0]) if "split" in predictions else None,
        "n_studies": len(predictions),
        "n_patients": int(predictions["patient"].nunique()),
        "validation": None
        if validation is None
        else {"n_studies": len(validation), "n_patients": int(validation["patient"].nunique())},
        "bootstrap": {"resamples": resamples, "level": level, "seed": seed, "by": "patient", "interval": "percentile"},
        "small_subgroup": f"fewer than {FEWEST_PATIENTS} patients with a positive case, or with a negative one",
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


def _groups(predictions: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each group of a column, by name; those of no group last."""
    names = predictions[column].fillna(UNKNOWN).astype(str)
    ordered = sorted(set(names), key=lambda name: (name == UNKNOWN, name))
    return [(name, predictions[names == name]) for name in ordered]


def _check_table(predictions: pd.DataFrame, outputs: Sequence[str], by: Sequence[str] = ()) -> None:
    wanted = ["id", "patient", *by, *(f"{kind}_{output}" for output in outputs for kind in ("y", "p"))]
    missing = [column for column in wanted if column not in predictions]
    if missing:
        has = ", ".join(map(str, predictions))
        raise ValueError(f"the table of predictions lacks {', '.join(missing)}; it has {has}")
    if predictions.empty:
        raise ValueError("the table of predictions is empty")
    if "split" in predictions and predictions["split"].nunique() > 1:
        raise ValueError(f"the table of predictions mixes splits: {', '.join(sorted(set(predictions['split'])))}")
