"""What a comparison found, as tables: each model's mean AUC over its repeats, and what it gains over another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from volssl.evaluation.bootstrap import Interval, bootstrap_interval, paired_difference
from volssl.evaluation.convergence import Convergence, Course, convergence
from volssl.evaluation.delong import delong_test, why_no_variance
from volssl.evaluation.metrics import Floats, roc_auc
from volssl.evaluation.predictions import cases_of
from volssl.evaluation.robustness import auc_lost, relative_change

RULE = "intensity rule"  # the name of the simple baseline, and of its mode
Key = tuple[str, str, float]  # encoder, mode, fraction


@dataclass(frozen=True)
class Group:
    """Models that differ in their repeat alone.

    Attributes:
        encoder, mode, fraction: what they have in common.
        patients: labelled ones that each trained on.
        tables: of predictions, one a repeat, of the same studies.
        validation_auc: mean of the repeats, on the patients that chose the epoch; NaN where nothing was chosen so.
    """

    encoder: str
    mode: str
    fraction: float
    patients: int
    tables: Sequence[pd.DataFrame]
    validation_auc: float = math.nan

    @property
    def key(self) -> Key:
        return self.encoder, self.mode, self.fraction


def pooled(tables: Sequence[pd.DataFrame], output: str) -> tuple[Floats, Floats, npt.NDArray[Any]]:
    """Labels (n,), scores of every repeat (n, k) and patients (n,) of an output's cases.

    Raises:
        ValueError: where the repeats were asked about different cases.
    """
    cases = [cases_of(table.sort_values("id"), output) for table in tables]
    first = cases[0]
    for other in cases[1:]:
        if not np.array_equal(first.y, other.y) or list(first.patients) != list(other.patients):
            raise ValueError(f"{output}: the repeats were asked about different cases; nothing can be paired")
    return first.y, np.stack([of_repeat.score for of_repeat in cases], axis=1), first.patients


def summarise(
    groups: Sequence[Group], outputs: Sequence[str], *, reference: str, resamples: int = 1000
) -> pd.DataFrame:
    """A row a group and output.

    Args:
        groups: of the encoders, and those of `RULE`, whose mode is `RULE` too.
        outputs: of the task; a mode that leaves one unanswered has no row of it.
        reference: encoder to which differences are taken, of the same mode and fraction.
        resamples: of each bootstrap by patient; the draws are the same for all.

    Returns:
        `encoder`, `mode`, `fraction`, `output`, `labelled_patients`, `repeats`, `validation_auc`, `n`, `n_patients`;
        the mean AUC over the repeats `auc`, `auc_low`, `auc_high` and its spread `auc_sd`; and the paired differences
        `to_reference` and `to_rule` with `_low`, `_high`, NaN where there is none, and DeLong's two-sided `_delong_p`,
        NaN too where a patient has several cases, which DeLong takes for independent.
    """
    of = {group.key: group for group in groups}
    rows = []
    for group in groups:
        for output in (name for name in outputs if f"p_{name}" in group.tables[0]):
            y, scores, patients = pooled(group.tables, output)
            auc = bootstrap_interval(roc_auc, y, scores, patients, resamples=resamples)
            areas = [float(roc_auc(y, column)) for column in scores.T]
            others = {"to_reference": (reference, group.mode), "to_rule": (RULE, RULE)}
            row: dict[str, Any] = {
                "encoder": group.encoder,
                "mode": group.mode,
                "fraction": group.fraction,
                "output": output,
                "labelled_patients": group.patients,
                "repeats": len(group.tables),
                "validation_auc": group.validation_auc,
                "n": auc.n,
                "n_patients": auc.n_patients,
                **_columns("auc", auc),
                "auc_sd": float(np.std(areas, ddof=1)) if len(areas) > 1 else math.nan,
            }
            for name, (encoder, mode) in others.items():
                other = of.get((encoder, mode, group.fraction))
                difference, p = None, math.nan
                if other is not None and other.key != group.key and group.encoder != RULE:
                    theirs = pooled(other.tables, output)[1]
                    difference = paired_difference(roc_auc, y, scores, theirs, patients, resamples=resamples)
                    if len(np.unique(patients)) == len(y) and not why_no_variance(y):
                        p = delong_test(y, scores, theirs).p
                row |= {**_columns(name, difference), f"{name}_delong_p": p}
            rows.append(row)
    return pd.DataFrame(rows)


def interval_of(row: Mapping[str, Any], name: str) -> Interval | None:
    """A figure of a row of `summarise`; None where it has none."""
    value, low, high = (float(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    return None if math.isnan(value) else Interval(value, low, high, int(row["n"]), int(row["n_patients"]))


def convergence_table(courses: Mapping[str, list[Course]], reference: str) -> pd.DataFrame:
    """A row an encoder: the epochs of `Convergence`, and what is saved, in per cent; NaN for never."""
    rows = []
    for name, repeats in courses.items():
        found: Convergence = convergence(repeats, courses[reference])
        rows.append(
            {
                "encoder": name,
                "repeats": found.repeats,
                "best_validation_auc": float(np.mean([course.best for course in repeats])),
                "epochs_to_98_percent": _finite(found.converged),
                "saved_percent": 100 * found.saved,
                "epochs_to_reference_best": _finite(found.to_reference),
                "repeats_that_reached_it": found.reached,
                "saved_to_reference_best_percent": 100 * found.saved_to_reference,
            }
        )
    return pd.DataFrame(rows)


def course_rows(courses: Mapping[str, list[Course]]) -> pd.DataFrame:
    """The curves behind the convergence plot: a row an encoder, repeat and validated epoch."""
    parts = [
        pd.DataFrame({"encoder": name, "repeat": k, "epoch": course.epochs, "validation_auc": course.values})
        for name, repeats in courses.items()
        for k, course in enumerate(repeats)
    ]
    return pd.concat(parts, ignore_index=True)


def robustness_table(answers: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """A row an encoder and perturbation: how the relative change is spread over cases, draws and repeats; the AUC lost.

    Args:
        answers: of each encoder, a table a repeat, as `perturbed_answers` gives them, with the label `y`.
    """
    rows = []
    for name, repeats in answers.items():
        lost = [auc_lost(table) for table in repeats]
        together = pd.concat(repeats).assign(change=lambda table: relative_change(table))
        for way, of_way in together.groupby("perturbation", sort=False):
            spread = of_way["change"].quantile([0.05, 0.25, 0.5, 0.75, 0.95])
            rows.append(
                {
                    "encoder": name,
                    "perturbation": way,
                    "answers": len(of_way),
                    **{f"change_p{round(100 * share)}": value for share, value in spread.items()},
                    "mean_absolute_change": float((of_way["after"] - of_way["before"]).abs().mean()),
                    "auc_lost": _mean(one[str(way)] for one in lost),
                }
            )
    return pd.DataFrame(rows)


def _columns(name: str, interval: Interval | None) -> dict[str, float]:
    value = (math.nan,) * 3 if interval is None else (interval.value, interval.low, interval.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))


def _finite(epoch: float) -> float:
    return epoch if math.isfinite(epoch) else math.nan


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
