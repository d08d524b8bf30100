"""How soon training gets there: the first epoch at 98 % of the final best (Ghesu et al. 2022, Fig. 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from volssl.evaluation.metrics import Floats

SHARE = 0.98  # of the best, which the paper calls the threshold of high performance
NEVER = math.inf


@dataclass(frozen=True)
class Course:
    """A figure on validation patients over the epochs of one run, (n,) each; higher is better."""

    epochs: Floats
    values: Floats

    def __post_init__(self) -> None:
        if len(self.epochs) != len(self.values) or not len(self.epochs) or np.isnan(self.values).any():
            raise ValueError("a course has a figure for each epoch, at least one, and none that is NaN")

    @property
    def best(self) -> float:
        """The highest value."""
        return float(self.values.max())

    @property
    def best_epoch(self) -> float:
        """The first epoch with the highest value."""
        return self.first_at(self.best)

    @property
    def converged(self) -> float:
        """The first epoch with 98 % of the run's own best."""
        return self.first_at(SHARE * self.best)

    def first_at(self, level: float) -> float:
        """The first epoch with a value of `level` or more; infinite where none has."""
        reached = np.flatnonzero(self.values >= level)
        return float(self.epochs[reached[0]]) if len(reached) else NEVER


@dataclass(frozen=True)
class Convergence:
    """Epochs of one model's repeats, each the median; infinite where half of the repeats never got there.

    Attributes:
        converged: first epoch at 98 % of the run's own best.
        to_reference: first epoch at the best of the reference's run of the same repeat.
        reached: of the repeats, how many got to that.
        repeats: how many there are.
        saved: share of the reference's epochs to convergence that is saved: .72 is 72 % fewer, below 0 are more.
        saved_to_reference: the same for the epochs to the reference's best, of the reference's own.
    """

    converged: float
    to_reference: float
    reached: int
    repeats: int
    saved: float
    saved_to_reference: float


def convergence(courses: list[Course], reference: list[Course]) -> Convergence:
    """Compare the repeats of a model with those of the reference, the first with the first and so on.

    Raises:
        ValueError: where they are not equally many.
    """
    if len(courses) != len(reference) or not courses:
        raise ValueError(f"{len(courses)} repeats against {len(reference)}: they are compared in pairs")
    to_reference = [mine.first_at(other.best) for mine, other in zip(courses, reference, strict=True)]
    converged = median_epoch([course.converged for course in courses])
    to_best = median_epoch(to_reference)
    return Convergence(
        converged=converged,
        to_reference=to_best,
        reached=sum(math.isfinite(epoch) for epoch in to_reference),
        repeats=len(courses),
        saved=_saved(converged, median_epoch([course.converged for course in reference])),
        saved_to_reference=_saved(to_best, median_epoch([course.best_epoch for course in reference])),
    )


def mean_course(courses: list[Course]) -> tuple[Floats, Floats, Floats]:
    """Epochs that all repeats have, and the mean and standard deviation of their values there (n,) each."""
    shared = sorted(set.intersection(*({float(epoch) for epoch in course.epochs} for course in courses)))
    values = np.array([course.values[np.isin(course.epochs, shared)] for course in courses])  # (repeats, n)
    return np.array(shared), values.mean(axis=0), values.std(axis=0)


def median_epoch(epochs: list[float]) -> float:
    """The median, of an even number the later of the two in the middle, so that it is an epoch, or never."""
    return sorted(epochs)[len(epochs) // 2]


def _saved(epochs: float, of: float) -> float:
    return 1 - epochs / of if math.isfinite(epochs) else math.nan
