"""The bootstrap against a plain loop, against SciPy, and against what patients with several studies demand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score, roc_auc_score

from volssl.evaluation import bootstrap as module
from volssl.evaluation.bootstrap import bootstrap_figures, bootstrap_interval, paired_difference
from volssl.evaluation.metrics import at_threshold, average_precision, of_ranking, ppv, roc_auc


def cases(n: int, patients: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    return y, rng.normal(size=n) + 1.2 * y, np.array([f"patient-{index:03d}" for index in rng.integers(0, patients, n)])


def looped(statistic, y, groups, *, resamples, seed) -> list[float]:
    """The same draws as plain lists of cases: whole patients with replacement, again where a class is lost."""
    rng, patients, values = np.random.default_rng(seed), sorted(set(groups)), []
    while len(values) < resamples:
        drawn = rng.integers(0, len(patients), size=len(patients))
        chosen = [case for patient in drawn for case in range(len(y)) if groups[case] == patients[patient]]
        if len({y[case] for case in chosen}) == 2:
            values.append(statistic(chosen))
    return values


@pytest.mark.parametrize(("ours", "theirs"), [(roc_auc, roc_auc_score), (average_precision, average_precision_score)])
def test_the_interval_equals_that_of_a_plain_loop_over_the_same_draws(ours, theirs) -> None:
    y, score, groups = cases(40, 18)
    values = looped(lambda chosen: theirs(y[chosen], score[chosen]), y, groups, resamples=120, seed=5)
    interval = bootstrap_interval(ours, y, score, groups, resamples=120, seed=5, level=0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [5, 95])), abs=1e-12)
    assert interval.value == pytest.approx(theirs(y, score), abs=1e-12)
    assert (interval.n, interval.n_patients, interval.level) == (40, len(set(groups)), 0.9)


def test_the_paired_difference_equals_that_of_a_plain_loop_over_the_same_draws() -> None:
    y, score, groups = cases(40, 18)
    other = score + np.random.default_rng(0).normal(size=40)

    def difference(chosen: list[int]) -> float:
        return roc_auc_score(y[chosen], score[chosen]) - roc_auc_score(y[chosen], other[chosen])

    interval = paired_difference(roc_auc, y, score, other, groups, resamples=120, seed=5)
    values = looped(difference, y, groups, resamples=120, seed=5)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)
    assert interval.value == pytest.approx(difference(list(range(40))), abs=1e-12)


def test_the_interval_agrees_with_scipy_where_each_patient_has_one_study() -> None:
    y, score, _ = cases(150, 150)
    theirs = bootstrap(
        (y, score), roc_auc_score, paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=1
    ).confidence_interval
    ours = bootstrap_interval(roc_auc, y, score, range(150), resamples=1000, seed=1)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_interval_has_the_width_of_hanley_and_mcneils_standard_error() -> None:
    y = np.repeat([0.0, 1.0], [58, 51])
    score = np.repeat(np.tile([1.0, 2, 3, 4, 5], 2), (33, 6, 6, 11, 2, 3, 2, 2, 11, 33))
    interval = bootstrap_interval(roc_auc, y, score, range(109))
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(0.032, abs=0.003)  # their table II


def test_four_studies_a_patient_make_the_interval_twice_as_wide_as_if_they_were_strangers() -> None:
    y, score, _ = cases(60, 60)
    y, score, patients = (np.repeat(values, 4) for values in (y, score, np.arange(60)))
    grouped = bootstrap_interval(roc_auc, y, score, patients)
    strangers = bootstrap_interval(roc_auc, y, score, range(240))
    assert 1.6 < (grouped.high - grouped.low) / (strangers.high - strangers.low) < 2.4


def test_blocks_of_any_size_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    y, score, groups = cases(50, 20)
    whole = bootstrap_interval(roc_auc, y, score, groups, resamples=30)
    monkeypatch.setattr(module, "BLOCK", 7 * 50)
    assert bootstrap_interval(roc_auc, y, score, groups, resamples=30) == whole
    assert bootstrap_interval(roc_auc, y, score, groups, resamples=30, seed=1) != whole


def test_a_single_positive_patient_is_in_every_resample() -> None:
    y = np.eye(1, 12)[0]
    for weights in module.resample_weights(y, np.arange(12), resamples=200, seed=0):
        assert (weights[:, 0] >= 1).all()
        assert (weights[:, 1:].sum(axis=1) >= 1).all()


def test_unlabelled_cases_change_nothing() -> None:
    y, score, groups = cases(40, 18)
    more = np.append(y, np.nan), np.append(score, np.nan), np.append(groups, "patient-999")
    assert bootstrap_interval(roc_auc, *more, resamples=50) == bootstrap_interval(
        roc_auc, y, score, groups, resamples=50
    )


def test_many_figures_of_one_pass_have_the_intervals_of_each_alone() -> None:
    y, score, groups = cases(40, 18)
    together = bootstrap_figures(of_ranking, y, score, groups, resamples=60, seed=4)
    for name, metric in (("auc", roc_auc), ("average_precision", average_precision)):
        alone = bootstrap_interval(metric, y, score, groups, resamples=60, seed=4)
        assert (together[name].value, together[name].low, together[name].high) == pytest.approx(
            (alone.value, alone.low, alone.high), abs=1e-12
        )


def test_draws_in_which_a_figure_is_undefined_are_left_out_of_its_bounds_and_counted() -> None:
    y, score, groups = np.array([1.0, 0, 0, 1]), np.array([0.9, 0.2, 0.3, 0.1]), list("abcd")
    interval = bootstrap_interval(at_threshold(ppv, 0.5), y, score, groups, resamples=400, seed=5)
    weights = np.concatenate(list(module.resample_weights(y, np.array(groups), resamples=400, seed=5)))
    assert interval.left_out == (weights[:, 0] == 0).sum()  # nobody is called where the first case is absent
    assert 60 < interval.left_out < 160
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_ppv_without_a_call_has_no_value_but_a_reason() -> None:
    interval = bootstrap_interval(at_threshold(ppv, 0.5), [0, 1], [0.1, 0.2], ["a", "b"])
    assert (interval.as_json()["value"], interval.reason) == (None, "all cases are called alike at this threshold")


def test_one_class_has_no_interval_but_a_reason() -> None:
    interval = bootstrap_interval(roc_auc, [0, 0, np.nan], [0.1, 0.2, 0.3], ["a", "b", "c"])
    assert math.isnan(interval.value)
    assert interval.as_json() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 2,
        "n_patients": 2,
        "level": 0.95,
        "reason": "all 2 labelled cases are negative",
        "left_out": 0,
    }
    assert str(interval) == "undefined (all 2 labelled cases are negative)"


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    y, score, groups = cases(40, 18)
    interval = paired_difference(roc_auc, y, score, score, groups, resamples=50)
    assert (interval.value, interval.low, interval.high, interval.clear_of_zero) == (0, 0, 0, False)


def test_a_useless_score_is_clearly_worse_than_a_perfect_one() -> None:
    y, _, groups = cases(80, 40)
    assert paired_difference(roc_auc, y, np.zeros(80), y, groups, resamples=100).clear_of_zero


@pytest.mark.parametrize(
    ("y", "score", "groups", "message"),
    [
        ([0, 1], [0.1, np.nan], ["a", "b"], "1 labelled cases have no score"),
        ([0, 1], [0.1, 0.2, 0.3], ["a", "b"], "differ in length"),
        ([0, 1], [0.1, 0.2], ["a", None], "no patient"),
        ([0, 3], [0.1, 0.2], ["a", "b"], "not 3"),
    ],
)
def test_unfit_cases_are_refused(y, score, groups, message) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(roc_auc, y, score, groups)


@pytest.mark.slow
def test_a_hundred_thousand_cases_take_a_thousand_resamples_in_under_twenty_seconds() -> None:
    y, score, _ = cases(100_000, 100_000)
    other = score + np.random.default_rng(0).normal(size=100_000)
    for call in (
        lambda: bootstrap_interval(roc_auc, y, score, np.arange(100_000) // 2),
        lambda: paired_difference(roc_auc, y, score, other, np.arange(100_000) // 2),
    ):
        start = time.process_time()  # not the clock's: other work on the machine is no fault of ours
        call()
        assert time.process_time() - start < 20


def test_the_figure_of_several_models_is_the_mean_of_theirs_on_the_same_draws() -> None:
    y, first, groups = cases(40, 18)
    second = -first + 2 * y
    both = np.stack([first, second], axis=1)
    values = looped(
        lambda chosen: np.mean([roc_auc_score(y[chosen], model[chosen]) for model in both.T]),
        y,
        groups,
        resamples=60,
        seed=2,
    )
    interval = bootstrap_interval(roc_auc, y, both, groups, resamples=60, seed=2)
    assert interval.value == pytest.approx(np.mean([roc_auc_score(y, first), roc_auc_score(y, second)]), abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)
    assert paired_difference(roc_auc, y, both, both[:, ::-1], groups, resamples=20).high == pytest.approx(0, abs=1e-12)
