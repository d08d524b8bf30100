"""Linear probes: logistic regression on frozen features, by scikit-learn (L-BFGS) on standardised features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from volssl.evaluation.metrics import Floats, checked_labels, roc_auc, why_undefined

C_GRID = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the larger, the less the weights are held back


@dataclass(frozen=True)
class LinearProbe:
    """A logistic regression on features.

    Attributes:
        model: standardises features and classifies them.
        c: the strength of regularisation that was chosen, as scikit-learn counts it.
        auc: of that choice: on validation where it was given, so that it is a little hopeful, else over the inner
            folds; NaN where it is undefined.
    """

    model: Pipeline
    c: float
    auc: float

    def scores(self, features: npt.ArrayLike) -> Floats:
        """(N, dim) -> the probability (N,) that each is positive."""
        answer: Floats = self.model.predict_proba(np.asarray(features, dtype=np.float64))[:, 1]
        return answer


def linear_probe(
    train: npt.ArrayLike,
    y: npt.ArrayLike,
    validation: npt.ArrayLike | None = None,
    y_validation: npt.ArrayLike | None = None,
    *,
    patients: npt.ArrayLike | None = None,
    grid: Sequence[float] = C_GRID,
    folds: int = 5,
    max_iter: int = 1000,
) -> LinearProbe:
    """Fit on the training features, with the C of the best AUC; of equals the one that regularises most.

    Args:
        train: (N, dim).
        y: (N,) of 0, 1 and NaN; cases with NaN are left out, here and in validation.
        validation, y_validation: chooses C. Without it, or where it lacks a class, folds of the training cases do,
            each case scored by a model that saw nobody of its fold.
        patients: (N,) the patient of each training case, whose cases stay in one fold; each its own where None.
        grid: of C.
        folds: at most; fewer where a class has fewer patients.
        max_iter: of L-BFGS. A model that has not converged by then is judged like the others.

    Raises:
        ValueError: where the labels lack a class.
    """
    labels = checked_labels(y)
    if why_undefined(labels) is not None:
        raise ValueError(f"no probe can be trained: {why_undefined(labels)}")
    known = ~np.isnan(labels)
    features, labels = np.asarray(train, dtype=np.float64)[known], labels[known]
    grid = sorted(grid)
    truth = None if y_validation is None else checked_labels(y_validation)
    if validation is not None and truth is not None and why_undefined(truth) is None:
        seen = np.asarray(validation, dtype=np.float64)
        models = [fitted(features, labels, c, max_iter) for c in grid]
        aucs = [float(roc_auc(truth, model.predict_proba(seen)[:, 1])) for model in models]
        best = int(np.argmax(aucs))
        return LinearProbe(models[best], grid[best], aucs[best])
    groups = np.arange(len(labels)) if patients is None else np.asarray(patients)[known]
    aucs = [inner_auc(features, labels, groups, c, folds=folds, max_iter=max_iter) for c in grid]
    best = 0 if np.isnan(aucs).all() else int(np.nanargmax(aucs))
    return LinearProbe(fitted(features, labels, grid[best], max_iter), grid[best], aucs[best])


def fitted(features: Floats, labels: Floats, c: float, max_iter: int) -> Pipeline:
    """Standardise and fit; starts from zero weights, so nothing is random."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, solver="lbfgs", max_iter=max_iter))
    with warnings.catch_warnings():
        # Weak regularisation of separable classes has its optimum at infinity; validation judges where it got to.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels.astype(int))


def inner_auc(
    features: Floats, labels: Floats, groups: npt.NDArray[np.generic], c: float, *, folds: int, max_iter: int
) -> float:
    """Mean AUC over folds by patient, of those that hold both classes; NaN where there are none."""
    aucs = []
    for inside, outside in inner_folds(labels, groups, folds):
        model = fitted(features[inside], labels[inside], c, max_iter)
        aucs.append(float(roc_auc(labels[outside], model.predict_proba(features[outside])[:, 1])))
    known = [auc for auc in aucs if not math.isnan(auc)]
    return math.fsum(known) / len(known) if known else math.nan


def inner_folds(
    labels: Floats, groups: npt.NDArray[np.generic], folds: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(inside, outside) of each fold whose inside holds both classes: stratified, patients kept together."""
    fewest = min(len(np.unique(groups[labels == value])) for value in (0, 1))
    if min(folds, fewest) < 2:
        return
    for inside, outside in StratifiedGroupKFold(min(folds, fewest)).split(labels, labels, groups):
        if len(np.unique(labels[inside])) == 2:
            yield inside, outside
