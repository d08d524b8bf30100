"""How soon training gets there, on made curves whose epochs can be read off."""

from __future__ import annotations

import math

import numpy as np
import pytest

from volssl.evaluation.convergence import Course, convergence, mean_course


def course(*values: float, every: int = 1) -> Course:
    return Course(np.arange(1, len(values) + 1) * float(every), np.array(values))


def test_convergence_is_the_first_epoch_at_98_per_cent_of_the_final_best() -> None:
    # 98 % of .90 is .882: epoch 3 has .88, epoch 4 .8825; the dip after it does not matter.
    assert course(0.5, 0.7, 0.88, 0.8825, 0.85, 0.9, 0.89).converged == 4
    assert course(0.5, 0.7, 0.88, 0.8825, 0.85, 0.9, 0.9).best_epoch == 6


def test_epochs_are_those_that_were_validated() -> None:
    assert course(0.5, 0.8, 0.8, every=5).converged == 10


def test_a_model_that_converges_in_7_epochs_of_25_saves_72_per_cent() -> None:
    slow = course(*[0.5] * 24, 0.8)
    fast = course(*[0.5] * 6, 0.8, 0.81)
    found = convergence([fast], [slow])
    assert (found.converged, found.to_reference) == (7, 7)
    assert found.saved == pytest.approx(0.72)
    assert found.saved_to_reference == pytest.approx(0.72)


def test_a_repeat_is_held_against_the_reference_of_the_same_repeat() -> None:
    mine = [course(0.6, 0.7, 0.8), course(0.6, 0.7, 0.8), course(0.6, 0.7, 0.8)]
    reference = [course(0.5, 0.6), course(0.5, 0.7), course(0.5, 0.9)]
    found = convergence(mine, reference)
    assert (found.to_reference, found.reached, found.repeats) == (2, 2, 3)  # epochs 1, 2 and never


def test_half_of_the_repeats_that_never_get_there_are_never() -> None:
    found = convergence([course(0.6), course(0.9)], [course(0.8), course(0.8)])
    assert found.to_reference == math.inf
    assert math.isnan(found.saved_to_reference)
    assert found.reached == 1


def test_more_epochs_than_the_reference_are_a_negative_saving() -> None:
    assert convergence([course(0.5, 0.5, 0.8)], [course(0.5, 0.8)]).saved == pytest.approx(-0.5)


def test_a_mean_is_taken_where_all_repeats_were_validated() -> None:
    epochs, mean, spread = mean_course([course(0.5, 0.6, 0.7), course(0.7, 0.8)])
    assert epochs.tolist() == [1, 2]
    assert mean == pytest.approx([0.6, 0.7])
    assert spread == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize(("mine", "other"), [([], []), ([course(0.5)], [])])
def test_repeats_are_compared_in_pairs(mine: list[Course], other: list[Course]) -> None:
    with pytest.raises(ValueError, match="in pairs"):
        convergence(mine, other)


def test_a_course_has_a_figure_for_each_epoch() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Course(np.array([1.0, 2.0]), np.array([0.5, np.nan]))
