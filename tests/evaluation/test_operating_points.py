"""Where thresholds come to lie: by hand on ten cases, and at the ends, where a rule can hardly be kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from volssl.evaluation.metrics import confusion
from volssl.evaluation.operating_points import RULES, equal_point, sensitivity_point, specificity_point

Y = np.array([1.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
SCORE = np.array([0.95, 0.9, 0.7, 0.6, 0.2, 0.8, 0.5, 0.4, 0.3, 0.1])


@pytest.mark.parametrize(
    ("sensitivity", "threshold"), [(0.2, 0.95), (0.4, 0.9), (0.5, 0.7), (0.6, 0.7), (0.8, 0.6), (0.81, 0.2), (1, 0.2)]
)
def test_the_highest_threshold_that_finds_enough_is_taken(sensitivity: float, threshold: float) -> None:
    assert sensitivity_point(Y, SCORE, sensitivity=sensitivity) == threshold


@pytest.mark.parametrize(
    ("specificity", "threshold"), [(1, 0.9), (0.81, 0.9), (0.8, 0.6), (0.6, 0.5), (0.2, 0.2), (0, 0.1)]
)
def test_the_lowest_threshold_that_clears_enough_is_taken(specificity: float, threshold: float) -> None:
    assert specificity_point(Y, SCORE, specificity=specificity) == threshold


def test_sensitivity_and_specificity_of_four_in_five_meet() -> None:
    assert equal_point(Y, SCORE) == 0.6


def test_where_the_top_is_shared_nobody_is_called_and_the_threshold_is_a_number() -> None:
    y, score = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.9, 0.2, 0.1])
    threshold = specificity_point(y, score, specificity=0.95)
    assert 0.9 < threshold < 0.9 + 1e-12
    assert confusion(y, score, threshold=json.loads(json.dumps(threshold))).as_json() == {
        "tp": 0,
        "fp": 0,
        "tn": 2,
        "fn": 2,
    }


@pytest.mark.parametrize("rule", RULES)
def test_one_class_has_no_threshold_and_unlabelled_cases_choose_none(rule: str) -> None:
    assert np.isnan(RULES[rule].choose(np.zeros(3), np.array([0.1, 0.2, 0.3])))
    more = RULES[rule].choose(np.append(Y, np.nan), np.append(SCORE, 0.77))
    assert more == RULES[rule].choose(Y, SCORE)
