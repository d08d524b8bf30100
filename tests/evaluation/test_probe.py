"""The linear probe against scikit-learn used directly, and what it may see."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from volssl.evaluation.probe import C_GRID, inner_folds, linear_probe


def made(n: int, seed: int, dim: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Features of many scales whose first two tell the label, with noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, dim))
    y = (features[:, 0] - features[:, 1] + rng.normal(size=n) > 0).astype(float)
    return 5 + features * np.logspace(-2, 2, dim), y


TRAIN, Y = made(80, 0)
VALIDATION, TRUTH = made(200, 1)


def by_hand(c: float) -> np.ndarray:
    """Standardised with the training mean and deviation, then scikit-learn."""
    mean, std = TRAIN.mean(axis=0), TRAIN.std(axis=0)
    model = LogisticRegression(C=c, max_iter=1000).fit((TRAIN - mean) / std, Y)
    return model.predict_proba((VALIDATION - mean) / std)[:, 1]


def test_the_probe_is_logistic_regression_on_standardised_features_with_the_c_best_on_validation() -> None:
    probe = linear_probe(TRAIN, Y, VALIDATION, TRUTH)
    aucs = [roc_auc_score(TRUTH, by_hand(c)) for c in C_GRID]
    assert len(set(aucs)) == len(aucs)  # so that the choice is one
    assert probe.c == C_GRID[int(np.argmax(aucs))]
    assert probe.auc == pytest.approx(max(aucs), abs=1e-6)
    np.testing.assert_allclose(probe.scores(VALIDATION), by_hand(probe.c), atol=1e-6)


def test_of_equally_good_choices_the_strongest_regularisation_is_taken() -> None:
    features = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    assert linear_probe(features, [0, 0, 1, 1], features, [0, 0, 1, 1], grid=(1.0, 0.01, 0.1)).c == 0.01


def test_unlabelled_cases_change_nothing() -> None:
    more = np.vstack([TRAIN, 1e6 * np.ones((3, 30))])
    more_validation = np.vstack([VALIDATION, np.ones((2, 30))])
    probe = linear_probe(more, [*Y, *[np.nan] * 3], more_validation, [*TRUTH, np.nan, np.nan])
    np.testing.assert_array_equal(
        probe.scores(VALIDATION), linear_probe(TRAIN, Y, VALIDATION, TRUTH).scores(VALIDATION)
    )


def test_without_validation_c_is_chosen_on_folds_that_keep_patients_together() -> None:
    # A patient's cases share a label and a mark that says who it is: who is on both sides of a fold is recognised.
    rng = np.random.default_rng(3)
    who = np.repeat(np.arange(24), 4)
    y = rng.permutation(np.repeat([0.0, 1.0], 12))[who]
    marks = np.eye(24)[who] + 0.01 * rng.normal(size=(96, 24))
    assert linear_probe(marks, y).auc > 0.95
    assert linear_probe(marks, y, patients=who).auc < 0.75
    folds = list(inner_folds(y, who, 5))
    assert len(folds) == 5
    assert all(not set(who[inside]) & set(who[outside]) for inside, outside in folds)
    assert sorted(np.concatenate([outside for _, outside in folds])) == list(range(96))


def test_a_validation_of_one_class_leaves_the_choice_to_the_folds() -> None:
    assert linear_probe(TRAIN, Y, VALIDATION, np.ones(200)).c == linear_probe(TRAIN, Y).c


def test_features_that_collapsed_tell_nothing_and_raise_nothing() -> None:
    probe = linear_probe(np.ones((80, 5)), Y, np.ones((200, 5)), TRUTH)
    assert probe.auc == 0.5


def test_labels_of_one_class_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="all 80 labelled cases are negative"):
        linear_probe(TRAIN, np.zeros(80))
