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

NEVER_SEEN = -30.0  # logit of a class that no training case has


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


def class_probe(
    train: npt.ArrayLike,
    y: npt.ArrayLike,
    validation: npt.ArrayLike,
    y_validation: npt.ArrayLike,
    *,
    grid: Sequence[float] = C_GRID,
    max_iter: int = 1000,
) -> LinearProbe:
    """`linear_probe` of several classes, multinomial, with the C of the best mean AUC of one class against the rest.

    Args:
        train: (N, dim).
        y: (N,) index of the class, NaN where unknown.
        validation, y_validation: chooses C; where no class has an AUC there, the smallest.

    Raises:
        ValueError: where fewer than two classes are known.
    """
    labels, truth = np.asarray(y, dtype=np.float64), np.asarray(y_validation, dtype=np.float64)
    known, seen = ~np.isnan(labels), ~np.isnan(truth)
    if len(np.unique(labels[known])) < 2:
        raise ValueError("no probe can be trained: fewer than two classes are known")
    features, outside = np.asarray(train, dtype=np.float64)[known], np.asarray(validation, dtype=np.float64)[seen]
    grid = sorted(grid)
    models = [fitted(features, labels[known], c, max_iter) for c in grid]
    aucs = []
    for model in models:
        scores = model.predict_proba(outside) if len(outside) else np.empty((0, len(model.classes_)))
        each = [
            float(roc_auc((truth[seen] == one).astype(float), scores[:, i])) for i, one in enumerate(model.classes_)
        ]
        finite = [auc for auc in each if not math.isnan(auc)]
        aucs.append(math.fsum(finite) / len(finite) if finite else math.nan)
    best = 0 if np.isnan(aucs).all() else int(np.nanargmax(aucs))
    return LinearProbe(models[best], grid[best], aucs[best])


def as_linear(probe: LinearProbe, classes: int) -> tuple[Floats, Floats]:
    """A probe as one linear layer on features as they are, the standardisation folded into it.

    Args:
        classes: 1 for a yes or no; else how many classes there are, some of which the probe may never have seen: these
            have no weights and a very small bias.

    Returns:
        (classes, dim) weights and (classes,) biases.
    """
    scaler, model = probe.model[0], probe.model[-1]
    coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
    weights, biases = np.zeros((classes, coefficients.shape[1])), np.full(classes, NEVER_SEEN)
    if classes == 1:
        weights, biases = coefficients, intercepts
    else:
        places = model.classes_.astype(int)
        two = len(coefficients) == 1  # of two classes one logit: the other's is 0
        weights[places] = np.concatenate([0 * coefficients, coefficients]) if two else coefficients
        biases[places] = np.concatenate([0 * intercepts, intercepts]) if two else intercepts
    folded = weights / scaler.scale_
    return folded, biases - folded @ scaler.mean_


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
