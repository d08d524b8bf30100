"""Calibration: probabilities that mean what they say score zero, and one temperature undoes another."""

from __future__ import annotations

import math

import numpy as np
import pytest

from volssl.evaluation.calibration import expected_calibration_error, fit_temperature, reliability, scaled


def drawn(n: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from true probabilities, and probabilities whose logits are so many times theirs."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=n)
    y = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(float)
    return y, 1 / (1 + np.exp(-temperature * logits))


def test_the_bins_of_six_cases_are_counted_by_hand() -> None:
    curve = reliability(np.array([0.0, 0, 1, 1, 1, 0]), np.array([0.1, 0.2, 0.3, 0.6, 0.8, 1.0]), bins=2)
    assert [(part.n, part.share_positive) for part in curve] == [(3, pytest.approx(1 / 3)), (3, pytest.approx(2 / 3))]
    assert [part.mean_probability for part in curve] == [pytest.approx(0.2), pytest.approx(0.8)]
    assert expected_calibration_error(curve) == pytest.approx(2 / 15)  # both bins are 2/15 off


def test_empty_bins_are_left_out_and_the_edges_are_those_of_the_lower_bin() -> None:
    curve = reliability(np.array([1.0, 0, 1]), np.array([0.5, 0.0, 1.0]))
    assert [(part.low, part.high, part.n) for part in curve] == [(0.0, 0.1, 1), (0.4, 0.5, 1), (0.9, 1.0, 1)]
    assert math.isnan(expected_calibration_error(reliability(np.empty(0), np.empty(0))))


def test_true_probabilities_are_calibrated_and_sure_ones_are_not() -> None:
    y, honest = drawn(20_000, 1.0)
    _, sure = drawn(20_000, 3.0)
    assert expected_calibration_error(reliability(y, honest)) < 0.015
    assert expected_calibration_error(reliability(y, sure)) > 0.1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_the_logits_were_multiplied_by(temperature: float) -> None:
    y, probability = drawn(20_000, temperature)
    found = fit_temperature(y, probability)
    assert found == pytest.approx(temperature, rel=0.05)
    assert isinstance(found, float)
    assert expected_calibration_error(reliability(y, scaled(probability, found))) < 0.015


def test_no_other_temperature_has_less_log_loss() -> None:
    y, probability = drawn(300, 2.0)
    found = fit_temperature(y, probability)
    assert isinstance(found, float)

    def loss(temperature: float) -> float:
        p = scaled(probability, temperature)
        return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))

    assert all(loss(found) < loss(found * factor) for factor in (0.99, 1.01))


def test_scaling_halves_the_logit_and_keeps_the_order_at_the_ends() -> None:
    assert scaled(np.array([0.9]), 2.0)[0] == pytest.approx(3 / 4)  # odds of 9 become odds of 3
    ends = scaled(np.array([0.0, 0.2, 1.0]), 2.0)
    assert (np.diff(ends) > 0).all()
    assert np.isfinite(ends).all()


@pytest.mark.parametrize(
    ("y", "probability", "reason"),
    [
        ([0, 0], [0.1, 0.2], "all 2 labelled cases are negative"),
        ([0, 1], [0.1, 0.9], "no finite temperature fits"),  # separated: surer is always better
        ([0, 1], [0.9, 0.1], "no finite temperature fits"),  # the wrong way round: never unsure enough
    ],
)
def test_where_no_temperature_fits_the_reason_is_told(y, probability, reason) -> None:
    assert reason in str(fit_temperature(np.array(y, dtype=float), np.array(probability)))
