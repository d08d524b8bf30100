"""Each figure against scikit-learn, a published worked example, or a count by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from volssl.evaluation.metrics import (
    AT_A_THRESHOLD,
    at_threshold,
    average_precision,
    brier_score,
    checked_labels,
    confusion,
    npv,
    ppv,
    roc_auc,
    sensitivity,
    specificity,
    why_undefined,
)
from volssl.evaluation.operating_points import equal_point

# Hanley and McNeil 1982, table I: one reader's ratings 1 to 5 of 58 normal and 51 abnormal CT images; area .893.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
HANLEY_Y = np.repeat([0.0, 1.0], [58, 51])
HANLEY_SCORE = np.repeat(np.tile([1.0, 2, 3, 4, 5], 2), NORMAL + ABNORMAL)


def weighted_cases(decimals: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores rounded so that many tie, and four rows of weights, zeros among them."""
    rng = np.random.default_rng(7)
    y = (rng.random(200) < 0.3).astype(float)
    score = np.clip(np.round(0.3 * y + 0.7 * rng.random(200), decimals), 0, 1)
    return y, score, rng.integers(0, 4, size=(4, 200)).astype(float)


def test_the_area_of_hanley_and_mcneil_is_what_they_printed() -> None:
    assert round(float(roc_auc(HANLEY_Y, HANLEY_SCORE)), 3) == 0.893


def test_the_area_is_the_share_of_pairs_in_order_with_ties_for_a_half() -> None:
    y, score, _ = weighted_cases(decimals=1)
    pairs = np.sign(score[y == 1][:, None] - score[y == 0][None, :])
    assert float(roc_auc(y, score)) == pytest.approx((pairs.mean() + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 2, 9])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(roc_auc, roc_auc_score), (average_precision, average_precision_score), (brier_score, brier_score_loss)],
)
def test_weighted_figures_equal_those_of_scikit_learn(ours, theirs, decimals) -> None:
    y, score, weights = weighted_cases(decimals)
    expected = [theirs(y, score, sample_weight=row) for row in weights]
    assert ours(y, score, weights) == pytest.approx(expected, abs=1e-12)
    assert float(ours(y, score)) == pytest.approx(theirs(y, score), abs=1e-12)


def test_the_small_examples_of_scikit_learns_manual_come_out() -> None:
    y, score = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert float(roc_auc(y, score)) == 0.75
    assert float(average_precision(y, score)) == pytest.approx(5 / 6)  # 1/2 x 1 + 1/2 x 2/3
    assert float(brier_score(np.array([0.0, 1, 1, 0]), np.array([0.1, 0.9, 0.8, 0.3]))) == pytest.approx(0.0375)


def test_leading_cases_without_weight_change_no_figure() -> None:
    y, score, weights = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.8, 0.4, 0.2]), np.array([0.0, 0, 1, 1])
    assert float(roc_auc(y, score, weights)) == 1
    assert float(average_precision(y, score, weights)) == 1


def test_at_rating_four_the_reader_finds_44_of_51_and_clears_45_of_58() -> None:
    counts = confusion(HANLEY_Y, HANLEY_SCORE, threshold=4)
    assert counts.as_json() == {"tp": 44, "fp": 13, "tn": 45, "fn": 7}
    assert float(sensitivity(counts)) == pytest.approx(44 / 51)
    assert float(specificity(counts)) == pytest.approx(45 / 58)
    assert float(ppv(counts)) == pytest.approx(44 / 57)
    assert float(npv(counts)) == pytest.approx(45 / 52)


def test_weights_count_as_repeated_cases() -> None:
    y, score, weights = weighted_cases(decimals=1)
    times = weights[0].astype(int)
    repeated = np.repeat(y, times), np.repeat(score, times)
    for figure, _ in AT_A_THRESHOLD.values():
        metric = at_threshold(figure, 0.5)
        assert float(metric(y, score, weights[0])) == pytest.approx(float(metric(*repeated)), abs=1e-12)


def test_sensitivity_and_specificity_meet_at_rating_four() -> None:
    # Of ratings 3, 4 and 5 the two lie .23, .09 and .32 apart.
    assert equal_point(HANLEY_Y, HANLEY_SCORE) == 4


def test_of_two_equally_near_thresholds_the_better_is_taken() -> None:
    # From .9 upwards 0 and 1/2, from .5 upwards 1 and 1/2: half apart both, but the second finds the positive.
    assert equal_point(np.array([0.0, 1, 0]), np.array([0.9, 0.5, 0.1])) == 0.5


def test_a_missing_class_gives_no_number_and_a_reason() -> None:
    negative, score = np.zeros(3), np.array([0.1, 0.2, 0.3])
    assert np.isnan(roc_auc(negative, score))
    assert np.isnan(average_precision(negative, score))
    assert np.isnan(sensitivity(confusion(negative, score, threshold=0.2)))
    assert float(specificity(confusion(negative, score, threshold=0.2))) == pytest.approx(1 / 3)
    assert np.isnan(equal_point(negative, score))
    assert why_undefined(negative) == "all 3 labelled cases are negative"
    assert why_undefined(1 - negative) == "all 3 labelled cases are positive"
    assert why_undefined(negative[:0]) == "no case has a label"


def test_cases_without_a_label_count_nowhere() -> None:
    y, score, weights = weighted_cases(decimals=1)
    more_y, more_score = np.append(y, [np.nan] * 3), np.append(score, [0.9, np.nan, 0.1])
    more_weights = np.pad(weights, ((0, 0), (0, 3)), constant_values=2)
    for metric in (roc_auc, average_precision, brier_score):
        assert metric(more_y, more_score, more_weights) == pytest.approx(metric(y, score, weights), abs=1e-12)
    assert confusion(more_y, more_score, threshold=0.5) == confusion(y, score, threshold=0.5)
    assert equal_point(more_y, more_score) == equal_point(y, score)
    assert why_undefined(np.array([np.nan, 1])) == "all 1 labelled cases are positive"


def test_a_labelled_case_without_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match="1 labelled cases have no score"):
        roc_auc(np.array([0.0, 1]), np.array([0.3, np.nan]))


def test_a_label_of_two_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="not 2"):
        checked_labels([0, 1, np.nan, 2])
