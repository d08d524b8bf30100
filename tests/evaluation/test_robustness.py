"""Robustness, on networks whose answers are known: one that sees the mean of its image, one that sees nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import rotate
from torch import Tensor, nn

from volssl.evaluation.robustness import (
    PERTURBATIONS,
    area_means,
    auc_lost,
    balanced_cases,
    gamma,
    noise,
    perturbed_answers,
    relative_change,
    thick_slices,
)
from volssl.tasks import Hemorrhage

TASK = Hemorrhage(grid=(16, 16, 8), types=False, slices=False)
WAYS = {way.name: way for way in PERTURBATIONS}


class MeanNetwork(nn.Module):
    """The logit of the mean of the image: its probability is the mean."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=(1, 2, 3, 4))[:, None].double() * self.factor)


class Constant(MeanNetwork):
    """Always .25, whatever it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(torch.full((len(images), 1), 0.25))


def constant(value: float) -> Tensor:
    return torch.full((1, 16, 16, 8), value)


def test_under_gamma_a_constant_image_answers_its_power() -> None:
    answers = perturbed_answers(MeanNetwork(), TASK, [constant(0.5)], output="hemorrhage", draws=7)
    of_gamma = answers[answers["perturbation"] == "Gamma"]
    assert of_gamma["before"].to_numpy() == pytest.approx(0.5)
    assert of_gamma["after"].to_numpy() == pytest.approx(0.5 ** of_gamma["strength"].to_numpy(), abs=1e-5)
    assert of_gamma["strength"].between(1.8, 2.6).all()
    expected = 100 * (0.5 ** (of_gamma["strength"] - 1) - 1)  # (p' - p) / p, in per cent
    assert relative_change(of_gamma).to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-2)


def test_thick_slices_leave_a_constant_image_as_it_is() -> None:
    answers = perturbed_answers(MeanNetwork(), TASK, [constant(0.5)], output="hemorrhage", draws=3)
    thick = answers[answers["perturbation"] == "Slice thickness"]
    assert relative_change(thick).to_numpy() == pytest.approx(0, abs=1e-3)


def test_a_network_that_does_not_look_does_not_change_its_mind() -> None:
    images = [torch.rand(1, 16, 16, 8, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    answers = perturbed_answers(Constant(), TASK, images, output="hemorrhage", draws=4)
    assert len(answers) == 2 * 4 * len(PERTURBATIONS)
    assert relative_change(answers).to_numpy() == pytest.approx(0)


def test_every_network_is_asked_about_the_same_images() -> None:
    images = [torch.rand(1, 16, 16, 8), torch.rand(1, 16, 16, 8)]
    one = perturbed_answers(MeanNetwork(1.0), TASK, images, output="hemorrhage", draws=3)
    half = perturbed_answers(MeanNetwork(0.5), TASK, images, output="hemorrhage", draws=3)
    assert half["strength"].tolist() == one["strength"].tolist()
    assert half["after"].to_numpy() == pytest.approx(0.5 * one["after"].to_numpy(), abs=1e-6)
    alone = perturbed_answers(MeanNetwork(), TASK, images[:1], output="hemorrhage", draws=3)
    pd.testing.assert_frame_equal(alone, one[one["case"] == 0].reset_index(drop=True))


def test_the_network_stays_in_the_mode_it_was_in() -> None:
    network = MeanNetwork().train()
    perturbed_answers(network, TASK, [constant(0.5)], output="hemorrhage", draws=1)
    assert network.training


def test_slices_three_times_as_thick_hold_the_means_of_three() -> None:
    image = torch.arange(9.0).reshape(1, 1, 1, 9)
    assert area_means(image.reshape(1, 1, 9), 3).flatten().tolist() == pytest.approx([1, 4, 7])
    assert area_means(torch.tensor([[[0.0, 3.0, 6.0]]]), 2).flatten().tolist() == pytest.approx(
        [1, 5]
    )  # (0 + 3/2) / 1.5
    thick = thick_slices(image, 3)
    assert thick.shape == image.shape
    assert thick.flatten()[[1, 4, 7]].tolist() == pytest.approx([1, 4, 7])


def test_a_rotation_turns_in_plane_as_scipy_does() -> None:
    image = torch.zeros(1, 16, 16, 2)
    image[0, 3:8, 6:12] = 1
    turned = WAYS["Rotation"].apply(image, 20.0, (1.0, 1.0, 5.0), torch.Generator())
    expected = rotate(image[0, ..., 0].numpy(), 20, reshape=False, order=1)
    assert np.abs(turned[0, ..., 0].numpy() - expected).max() < 1e-5


def test_scaling_enlarges_what_lies_in_the_middle() -> None:
    image = torch.zeros(1, 32, 32, 1)
    image[0, 8:24, 8:24] = 1
    larger = WAYS["Scaling"].apply(image, 1.25, (1.0, 1.0, 5.0), torch.Generator())
    assert float(larger.sum()) == pytest.approx(16 * 16 * 1.25**2, rel=0.03)


def test_noise_has_the_deviation_it_was_given() -> None:
    changed = noise(constant(0.5), 0.05, torch.Generator().manual_seed(1))
    assert float(changed.std()) == pytest.approx(0.05, rel=0.05)
    assert gamma(constant(0.5), 2.0).unique().tolist() == [0.25]


def test_the_auc_lost_is_that_before_less_the_mean_over_draws() -> None:
    rows = [
        # case, label, before, after in draw 1, after in draw 2
        (0, 0.0, 0.1, 0.1, 0.9),
        (1, 1.0, 0.6, 0.6, 0.3),
        (2, 1.0, 0.8, 0.8, 0.2),
    ]
    answers = pd.DataFrame(
        [
            {"case": case, "perturbation": "Noise", "before": before, "after": after, "y": y}
            for case, y, before, *draws in rows
            for after in draws
        ]
    )
    assert auc_lost(answers) == {"Noise": pytest.approx(1 - (1 + 0) / 2)}


def test_cases_are_half_positive_where_there_are_enough() -> None:
    y = pd.Series([1.0] * 3 + [0.0] * 20 + [np.nan])
    assert [int((y[balanced_cases(y, n)] == 1).sum()) for n in (4, 10, 50)] == [2, 3, 3]
    assert [len(balanced_cases(y, n)) for n in (4, 10, 50)] == [4, 10, 23]
    assert len(set(balanced_cases(y, 10))) == 10
    assert (y[balanced_cases(1 - y, 6)] == 0).sum() == 3
