"""Nearest neighbours against votes counted by hand and by NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from volssl.evaluation.knn import knn_auc, knn_scores

# At 0, 60 and 180 degrees from the case, cosines 1, .5 and -1, whatever their lengths.
TRAIN = np.array([[2.0, 0.0], [0.5, 0.5 * math.sqrt(3)], [-7.0, 0.0]])
CASE = np.array([[10.0, 0.0]])


def test_votes_weigh_by_cosine_similarity_over_the_temperature() -> None:
    near, far = math.exp(1 / 0.5), math.exp(0.5 / 0.5)
    scores = knn_scores(TRAIN, [0, 1, 1], CASE, neighbours=2, temperature=0.5)
    assert scores == pytest.approx([far / (near + far)], abs=1e-12)
    opposite = math.exp(-1 / 0.5)
    scores = knn_scores(TRAIN, [0, 1, 1], CASE, neighbours=20, temperature=0.5)
    assert scores == pytest.approx([(far + opposite) / (near + far + opposite)], abs=1e-12)


def test_unlabelled_cases_have_no_vote_and_one_class_gives_its_own_answer() -> None:
    assert knn_scores(TRAIN, [np.nan, 1, 0], CASE, neighbours=1) == pytest.approx([1])
    assert knn_scores(TRAIN, [0, 0, 0], CASE) == pytest.approx([0])
    with pytest.raises(ValueError, match="no case has a label"):
        knn_scores(TRAIN, [np.nan] * 3, CASE)


def test_the_scores_of_many_are_those_of_a_plain_formula() -> None:
    rng = np.random.default_rng(0)
    train, cases = rng.normal(size=(60, 12)), rng.normal(size=(40, 12))
    y, truth = rng.integers(0, 2, 60).astype(float), rng.integers(0, 2, 40).astype(float)
    similarity = (cases / np.linalg.norm(cases, axis=1)[:, None]) @ (train / np.linalg.norm(train, axis=1)[:, None]).T
    nearest = np.argsort(-similarity, axis=1)[:, :20]  # the defaults are DINO's
    votes = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.07)
    expected = (votes * y[nearest]).sum(axis=1) / votes.sum(axis=1)
    np.testing.assert_allclose(knn_scores(train, y, cases), expected, atol=1e-12)
    truth[3] = np.nan
    known = ~np.isnan(truth)
    assert knn_auc(train, y, cases, truth) == pytest.approx(roc_auc_score(truth[known], expected[known]), abs=1e-12)


def test_without_both_classes_in_validation_there_is_no_auc() -> None:
    assert math.isnan(knn_auc(TRAIN, [0, 1, 1], CASE, [1]))
