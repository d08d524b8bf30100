"""Changes of intensity against NumPy, and the ranges that they are drawn from."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from volssl.transforms.intensity import add_noise, adjust, draw_intensity


def test_gamma_comes_before_the_linear_change_and_the_result_is_cut_off() -> None:
    image = torch.tensor([[0.0, 0.5, 0.8, 1.0]])
    got = adjust(image, gamma=2.0, scale=1.1, shift=-0.1)
    torch.testing.assert_close(got, torch.tensor([[0.0, 0.175, 0.604, 1.0]]))
    torch.testing.assert_close(adjust(image, gamma=1.0, scale=0.9, shift=0.2), torch.tensor([[0.2, 0.65, 0.92, 1.0]]))
    assert image.tolist() == torch.tensor([[0.0, 0.5, 0.8, 1.0]]).tolist()


def test_noise_has_its_deviation_and_is_the_same_for_the_same_seed() -> None:
    image = torch.full((1, 40, 40, 40), 0.5)
    noisy = add_noise(image, sigma=0.05, seed=7)
    assert abs(float((noisy - 0.5).std()) - 0.05) < 0.001
    assert stats.kstest((noisy - 0.5).flatten()[:5000].numpy() / 0.05, "norm").pvalue > 1e-3
    assert torch.equal(noisy, add_noise(image, sigma=0.05, seed=7))
    assert not torch.equal(noisy, add_noise(image, sigma=0.05, seed=8))
    assert float(add_noise(image, sigma=2.0, seed=0).max()) == 1.0
    assert float(image.min()) == 0.5


def test_intensities_are_uniform_on_their_ranges() -> None:
    rng = np.random.RandomState(0)
    ranges = {"gamma": (1.8, 2.6), "scale": (0.9, 1.1), "shift": (-0.2, 0.2)}
    drawn = [draw_intensity(rng, gamma_probability=0.3, **ranges) for _ in range(3000)]
    gammas = np.array([change["gamma"] for change in drawn])
    assert abs((gammas != 1).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 3000)
    values = {"gamma": gammas[gammas != 1]}
    values |= {name: np.array([change[name] for change in drawn]) for name in ("scale", "shift")}
    for name, (low, high) in ranges.items():
        assert stats.kstest(values[name], "uniform", args=(low, high - low)).pvalue > 1e-3
