"""How well an output does among the patients of each sex, age band, scanner or site, small groups marked.

Every group is judged at the threshold of all: whether it holds for them is what a subgroup tells. Bounds that overlap
between groups are no proof that the groups are alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from volssl.evaluation.bootstrap import bootstrap_figures
from volssl.evaluation.metrics import Floats, confusion, roc_auc, sensitivity, specificity, why_undefined

if TYPE_CHECKING:
    from volssl.evaluation.predictions import Cases

FEWEST_PATIENTS = 10  # of each class; a percentile interval of fewer is too narrow to be believed
UNKNOWN = "unknown"
SUBGROUP_FIGURES = ("auc", "sensitivity", "specificity")


def subgroup_figures(
    cases: Cases, threshold: float | None, *, resamples: int, level: float, seed: int
) -> dict[str, Any]:
    """Counts and intervals of one group.

    Args:
        cases: of the group.
        threshold: of the whole; None where there is none, and no sensitivity or specificity then.
        resamples, level, seed: see `bootstrap_interval`.

    Returns:
        `n`, `n_patients`, `positives`, `small`, `reason` and, in `metrics`, AUC, sensitivity and specificity.
    """

    def figures(y: Floats, score: Floats, weights: Floats) -> dict[str, Floats]:
        area = {"auc": roc_auc(y, score, weights)}
        if threshold is None:
            return area
        counts = confusion(y, score, weights, threshold=threshold)
        return area | {"sensitivity": sensitivity(counts), "specificity": specificity(counts)}

    found = bootstrap_figures(
        figures, cases.y, cases.score, cases.patients, resamples=resamples, level=level, seed=seed
    )
    of_class = [len(set(cases.patients[cases.y == label])) for label in (0, 1)]
    return {
        "n": len(cases.y),
        "n_patients": cases.n_patients,
        "positives": cases.positives,
        "small": min(of_class) < FEWEST_PATIENTS,
        "reason": why_undefined(cases.y),
        "metrics": {name: interval.as_json() for name, interval in found.items()},
    }
