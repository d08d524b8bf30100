"""A table of every figure that an evaluation writes, each against a second source: scikit-learn, SciPy, or by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as theirs
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from volssl.evaluation.predictions import evaluate_predictions


def table(n: int, seed: int) -> pd.DataFrame:
    """Cases of one patient each, scores of two decimals so that many tie, 30 % positive, too sure of themselves."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    p = np.clip(np.round(1 / (1 + np.exp(-rng.normal(3.0 * y - 1.5, 2.5))), 2), 0.01, 0.99)
    return pd.DataFrame({"id": [f"{seed}-{i}" for i in range(n)], "y_a": y, "p_a": p}).assign(patient=lambda t: t["id"])


TEST, VALIDATION = table(400, 1), table(300, 2)
Y, P = TEST["y_a"].to_numpy(), TEST["p_a"].to_numpy()
VALIDATION_Y, VALIDATION_P = VALIDATION["y_a"].to_numpy(), VALIDATION["p_a"].to_numpy()
RESULT = evaluate_predictions(TEST, outputs=["a"], validation=VALIDATION, resamples=50)["outputs"]["a"]


def rates(threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity on validation, counted."""
    called = threshold <= VALIDATION_P
    return called[VALIDATION_Y == 1].mean(), 1 - called[VALIDATION_Y == 0].mean()


def searched(point: str) -> float:
    """The threshold of a rule, by trying every score of the validation cases."""
    tried = [(*rates(score), score) for score in sorted(set(VALIDATION_P))]
    if point == "sensitivity_80":
        return max(score for found, _, score in tried if found >= 0.8)
    if point == "specificity_95":
        return min(score for _, cleared, score in tried if cleared >= 0.95)
    return min(tried, key=lambda each: (abs(each[0] - each[1]), -each[0] - each[1]))[2]


def temperature() -> float:
    """One over the slope of a logistic regression on the logits, without intercept and without penalty."""
    logits = np.log(VALIDATION_P / (1 - VALIDATION_P))[:, None]
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits, VALIDATION_Y)
    return float(1 / fitted.coef_[0, 0])


def scaled() -> np.ndarray:
    odds = (P / (1 - P)) ** (1 / temperature())
    return odds / (1 + odds)


def binned_error(p: np.ndarray) -> float:
    """ECE of the bins of scikit-learn's calibration curve, which says nothing of how many cases each has."""
    share, mean = calibration_curve(Y, p, n_bins=10)
    counts = [((low < p) & (p <= high)).sum() for low, high in pairwise(np.linspace(0, 1, 11))]
    return float(np.average(np.abs(share - mean), weights=[count for count in counts if count]))


def brunner_munzel_error() -> float:
    """DeLong's standard error: that of Brunner and Munzel's test, whose statistic is (AUC − 1/2) over it."""
    statistic = stats.brunnermunzel(P[Y == 0], P[Y == 1], distribution="normal").statistic
    return abs((theirs.roc_auc_score(Y, P) - 0.5) / statistic)


OF_THE_CURVE = {
    "auc": lambda: theirs.roc_auc_score(Y, P),
    "auc (SciPy)": lambda: stats.mannwhitneyu(P[Y == 1], P[Y == 0]).statistic / ((Y == 1).sum() * (Y == 0).sum()),
    "average_precision": lambda: theirs.average_precision_score(Y, P),
    "brier": lambda: theirs.brier_score_loss(Y, P),
}
AT_A_POINT = {
    "sensitivity": lambda called: theirs.recall_score(Y, called),
    "specificity": lambda called: theirs.recall_score(Y, called, pos_label=0),
    "ppv": lambda called: theirs.precision_score(Y, called),
    "npv": lambda called: theirs.precision_score(Y, called, pos_label=0),
    "f1": lambda called: theirs.f1_score(Y, called),
    "balanced_accuracy": lambda called: theirs.balanced_accuracy_score(Y, called),
    "mcc": lambda called: theirs.matthews_corrcoef(Y, called),
}
OF_PROBABILITIES = {
    "brier": lambda p: theirs.brier_score_loss(Y, p),
    "log_loss": lambda p: theirs.log_loss(Y, p),
    "ece": binned_error,
}
POINTS = ("equal", "sensitivity_80", "specificity_95")


def test_the_table_leaves_no_figure_out() -> None:
    assert set(RESULT["metrics"]) == {name.split(" ")[0] for name in OF_THE_CURVE} | set(AT_A_POINT)
    assert set(RESULT["calibration"]["before"]) == {*OF_PROBABILITIES, "curve"}
    assert set(RESULT["operating_points"]) == set(POINTS)
    assert all(set(point["metrics"]) == set(AT_A_POINT) for point in RESULT["operating_points"].values())


@pytest.mark.parametrize("figure", OF_THE_CURVE)
def test_a_figure_of_the_curve(figure: str) -> None:
    assert RESULT["metrics"][figure.split(" ")[0]]["value"] == pytest.approx(OF_THE_CURVE[figure](), abs=1e-12)


@pytest.mark.parametrize("point", POINTS)
def test_a_threshold_is_the_one_that_trying_all_of_them_finds(point: str) -> None:
    assert RESULT["operating_points"][point]["threshold"] == searched(point)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("figure", AT_A_POINT)
def test_a_figure_at_a_point(point: str, figure: str) -> None:
    expected = AT_A_POINT[figure](searched(point) <= P)
    assert RESULT["operating_points"][point]["metrics"][figure]["value"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("figure", AT_A_POINT)
def test_beside_the_auc_stand_the_figures_of_the_first_point(figure: str) -> None:
    assert RESULT["metrics"][figure]["value"] == pytest.approx(AT_A_POINT[figure](searched("equal") <= P), abs=1e-12)


@pytest.mark.parametrize("point", POINTS)
def test_the_counts_at_a_point(point: str) -> None:
    tn, fp, fn, tp = theirs.confusion_matrix(Y, searched(point) <= P).ravel()
    told = RESULT["operating_points"][point]
    assert (told["tn"], told["fp"], told["fn"], told["tp"]) == (tn, fp, fn, tp)


def test_the_temperature() -> None:
    assert RESULT["calibration"]["temperature"] == pytest.approx(temperature(), rel=1e-4)
    assert temperature() > 1.2  # too sure, as these cases were made


@pytest.mark.parametrize("figure", OF_PROBABILITIES)
def test_a_figure_of_the_probabilities_before_and_after_scaling(figure: str) -> None:
    told = RESULT["calibration"]
    assert told["before"][figure] == pytest.approx(OF_PROBABILITIES[figure](P), abs=1e-12)
    assert told["after"][figure] == pytest.approx(OF_PROBABILITIES[figure](scaled()), abs=1e-5)


def test_the_standard_error_of_the_auc() -> None:
    assert RESULT["auc_delong"]["standard_error"] == pytest.approx(brunner_munzel_error(), rel=1e-10)


def test_the_interval_of_delong_reaches_two_standard_errors() -> None:
    told, error = RESULT["auc_delong"], brunner_munzel_error()
    low, high = stats.norm.interval(0.95, loc=theirs.roc_auc_score(Y, P), scale=error)
    assert (told["low"], told["high"]) == pytest.approx((low, high))
