"""DeLong's covariance against its definition over all pairs, against SciPy, and against the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import brunnermunzel, norm
from sklearn.metrics import roc_auc_score

from volssl.evaluation.bootstrap import paired_difference
from volssl.evaluation.delong import delong_covariance, delong_interval, delong_test
from volssl.evaluation.metrics import roc_auc


def cases(n: int = 120, decimals: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and scores (n, 3) that tie often; the second is the first with noise, the third is worse."""
    rng = np.random.default_rng(4)
    y = (rng.random(n) < 0.4).astype(float)
    first = rng.normal(size=n) + 1.5 * y
    scores = np.stack([first, first + rng.normal(size=n), 0.5 * first + rng.normal(size=n)], axis=1)
    return y, np.round(scores, decimals)


def by_all_pairs(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The covariance as DeLong et al. 1988 write it, equations 4 to 6: every positive against every negative."""
    positive, negative = scores[y == 1], scores[y == 0]
    m, n, models = len(positive), len(negative), scores.shape[1]
    won = (np.sign(positive[:, None] - negative[None]) + 1) / 2  # (m, n, models): 1, 1/2 or 0
    v10, v01, area = won.mean(axis=1), won.mean(axis=0), won.mean(axis=(0, 1))
    covariance = np.zeros((models, models))
    for r in range(models):
        for s in range(models):
            s10 = ((v10[:, r] - area[r]) * (v10[:, s] - area[s])).sum() / (m - 1)
            s01 = ((v01[:, r] - area[r]) * (v01[:, s] - area[s])).sum() / (n - 1)
            covariance[r, s] = s10 / m + s01 / n
    return covariance


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_ranks_give_the_covariance_of_all_pairs(decimals: int) -> None:
    y, scores = cases(decimals=decimals)
    areas, covariance = delong_covariance(y, scores)
    assert areas == pytest.approx([roc_auc_score(y, score) for score in scores.T], abs=1e-12)
    assert covariance == pytest.approx(by_all_pairs(y, scores), abs=1e-14)


def test_of_four_cases_the_variance_is_what_a_pencil_gives() -> None:
    # Positives .8 and .35, negatives .4 and .1: of the pairs three are in order, AUC 3/4. The positives beat 1 and 1/2
    # of the negatives: variance 1/8, over 2; the negatives are beaten by 1/2 and 1: 1/8, over 2. Together 1/8.
    areas, covariance = delong_covariance([0, 0, 1, 1], np.array([[0.1], [0.4], [0.35], [0.8]]))
    assert (areas[0], covariance[0, 0]) == pytest.approx((0.75, 0.125))


def test_the_variance_is_that_of_brunner_and_munzels_test() -> None:
    y, scores = cases()
    statistic = brunnermunzel(scores[y == 0, 0], scores[y == 1, 0], distribution="normal").statistic
    error, _, _ = delong_interval(y, scores[:, 0])
    assert abs(roc_auc_score(y, scores[:, 0]) - 0.5) / error == pytest.approx(abs(statistic), rel=1e-10)


def test_the_reader_of_hanley_and_mcneil_has_about_the_standard_error_that_they_printed() -> None:
    y = np.repeat([0.0, 1.0], [58, 51])
    score = np.repeat(np.tile([1.0, 2, 3, 4, 5], 2), (33, 6, 6, 11, 2, 3, 2, 2, 11, 33))
    assert delong_interval(y, score)[0] == pytest.approx(0.032, abs=0.002)  # theirs, by another formula


def test_two_correlated_areas_are_compared_by_the_variance_of_their_difference() -> None:
    y, scores = cases()
    covariance = by_all_pairs(y, scores[:, :2])
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = roc_auc_score(y, scores[:, 0]) - roc_auc_score(y, scores[:, 1])
    found = delong_test(y, scores[:, 0], scores[:, 1])
    assert (found.difference, found.standard_error, found.z) == pytest.approx((difference, error, difference / error))
    assert found.p == pytest.approx(2 * norm.cdf(-abs(difference / error)))


def test_the_paired_bootstrap_finds_the_same_spread() -> None:
    y, scores = cases(n=400, decimals=9)
    interval = paired_difference(roc_auc, y, scores[:, 0], scores[:, 2], range(400))
    error = delong_test(y, scores[:, 0], scores[:, 2]).standard_error
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_under_no_difference_five_in_a_hundred_p_values_lie_below_five_per_cent() -> None:
    rng = np.random.default_rng(0)
    p = []
    for _ in range(600):
        y = np.repeat([0.0, 1.0], [60, 40])
        shared = rng.normal(size=100) + y
        p.append(delong_test(y, shared + rng.normal(size=100), shared + rng.normal(size=100)).p)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.027)  # three standard errors of 600 draws


def test_a_model_against_itself_or_a_monotone_of_itself_differs_by_nothing() -> None:
    y, scores = cases()
    found = delong_test(y, scores[:, 0], np.exp(scores[:, 0]))
    assert (found.difference, found.p) == (0, 1)
    assert math.isnan(found.z)


def test_unlabelled_cases_change_nothing() -> None:
    y, scores = cases()
    more = delong_test(np.append(y, np.nan), np.append(scores[:, 0], np.nan), np.append(scores[:, 1], 3))
    assert more == delong_test(y, scores[:, 0], scores[:, 1])


def test_an_interval_stays_within_0_and_1() -> None:
    _, low, high = delong_interval([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    assert (low, high) == (pytest.approx(0.75 - 1.959964 * math.sqrt(0.125)), 1)


@pytest.mark.parametrize(
    ("y", "scores", "message"),
    [
        ([0, 0, 1], [[0.1], [0.2], [0.3]], "a class has 1 case"),
        ([0, 0, 0], [[0.1], [0.2], [0.3]], "all 3 labelled cases are negative"),
        ([0, 0, 1, 1], [[0.1], [0.2], [np.nan], [0.4]], "1 labelled cases have no score"),
        ([0, 1], [0.1, 0.2], "scores \\(cases, models\\)"),
    ],
)
def test_unfit_cases_are_refused(y, scores, message) -> None:
    with pytest.raises(ValueError, match=message):
        delong_covariance(y, np.array(scores))


def test_means_of_several_models_are_compared_by_their_contrast() -> None:
    y, scores = cases()
    test = delong_test(y, scores[:, :2], scores[:, 2])
    covariance = by_all_pairs(y, scores)
    areas = [roc_auc_score(y, score) for score in scores.T]
    variance = (
        (covariance[0, 0] + covariance[1, 1] + 2 * covariance[0, 1]) / 4
        + covariance[2, 2]
        - (covariance[0, 2] + covariance[1, 2])
    )
    assert (test.auc, test.other) == pytest.approx(((areas[0] + areas[1]) / 2, areas[2]))
    assert test.difference == pytest.approx((areas[0] + areas[1]) / 2 - areas[2])
    assert test.standard_error == pytest.approx(math.sqrt(variance))
    assert test.p == pytest.approx(2 * norm.sf(abs(test.difference) / math.sqrt(variance)))
    assert delong_test(y, scores[:, [0, 0]], scores[:, 2]).p == pytest.approx(
        delong_test(y, scores[:, 0], scores[:, 2]).p
    )
