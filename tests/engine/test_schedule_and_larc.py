"""The learning rate of each step, and LARC, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from volssl.engine import LARC, WarmupCosine


def test_the_rate_climbs_then_falls_along_a_cosine_as_in_swav() -> None:
    schedule = WarmupCosine(warmup_epochs=2, final=0.001)
    got = [schedule.factor(step, steps_per_epoch=5, total_steps=50) for step in range(50)]
    warm = np.linspace(0, 1, 10)
    rest = [0.001 + 0.5 * 0.999 * (1 + math.cos(math.pi * t / 40)) for t in range(40)]
    np.testing.assert_allclose(got, [*warm, *rest], atol=1e-12)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert WarmupCosine(0, 0.1).factor(0, steps_per_epoch=3, total_steps=9) == 1.0


def test_a_larc_step_scales_by_the_ratio_of_norms() -> None:
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARC([p], lr=2.0, momentum=0.0, weight_decay=0.1, trust=0.001)
    p.grad = torch.tensor([0.0, 2.0])
    optimizer.step()
    # |p| = 5, |g| = 2, rate = .001 * 5 / (2 + .1 * 5) = .002; g + decay p = (.3, 2.4)
    torch.testing.assert_close(p.detach(), torch.tensor([3 - 2 * 0.002 * 0.3, 4 - 2 * 0.002 * 2.4]))
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_a_tensor_of_zeros_is_stepped_as_in_plain_sgd_without_decay() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = LARC([p], lr=0.5, momentum=0.0, weight_decay=0.1)
    p.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.5, -0.5]))


def test_what_has_no_gradient_stays() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    LARC([p], lr=0.5).step()
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("step", [0, 4])
def test_a_warm_up_longer_than_the_run_still_ends(step: int) -> None:
    assert 0 <= WarmupCosine(10).factor(step, steps_per_epoch=5, total_steps=5) <= 1
