"""Energy bands against SciPy's Gaussians and the equation written out in NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from volssl.transforms.bands import band_energies, blurs, correction, gains, gaussian, rebalance

SIGMAS_MM, SPACING_MM = (2.0, 4.0, 8.0), (1.0, 1.5, 3.0)


def picture(seed: int, channels: int = 2) -> np.ndarray:
    """Noise and a bright ball, (C, 20, 18, 9)."""
    image = np.random.default_rng(seed).uniform(0, 0.3, (channels, 20, 18, 9))
    image[:, 6:14, 5:12, 3:7] += 0.6
    return image.astype(np.float32)


def scipy_bands(image: np.ndarray) -> np.ndarray:
    """(C, …) -> (4, C, …): differences of SciPy's Gaussians, and the last Gaussian."""
    levels = [image.astype(np.float64)]
    for mm in SIGMAS_MM:
        sigma = (0, *(mm / step for step in SPACING_MM))
        levels.append(ndimage.gaussian_filter(image.astype(np.float64), sigma, mode="nearest"))
    return np.stack([a - b for a, b in pairwise(levels)] + [levels[-1]])


@pytest.mark.parametrize("sigma", [(0.0, 0.3, 1.0), (2.0, 1.7, 5.0), (30.0, 1.0, 1.0)])
def test_the_blur_is_scipy_s(sigma: tuple[float, float, float]) -> None:
    image = picture(0)
    expected = ndimage.gaussian_filter(image.astype(np.float64), (0, *sigma), mode="nearest")
    np.testing.assert_allclose(gaussian(torch.from_numpy(image), sigma).numpy(), expected, atol=2e-6)


def test_the_energies_are_the_dispersions_of_scipy_s_bands() -> None:
    image = torch.from_numpy(picture(1))
    blurred = blurs(image, sigmas_mm=SIGMAS_MM, spacing_mm=SPACING_MM)
    assert tuple(blurred.shape) == (3, 2, 20, 18, 9)
    expected = scipy_bands(image.numpy()).std(axis=(2, 3, 4))  # (4, 2)
    np.testing.assert_allclose(band_energies(image, blurred).numpy(), expected, rtol=1e-4)


def test_rebalanced_bands_are_equation_8() -> None:
    image = torch.from_numpy(picture(2))
    bands = scipy_bands(image.numpy())
    energies = bands.std(axis=(2, 3, 4))
    reference = energies * np.array([[0.5, 2.0], [1.5, 0.9], [0.8, 1.1], [1.0, 0.7]])
    expected = (bands * (reference / energies)[:, :, None, None, None]).sum(axis=0).clip(0, 1)
    blurred = blurs(image, sigmas_mm=SIGMAS_MM, spacing_mm=SPACING_MM)
    gain = gains(torch.from_numpy(reference).float(), band_energies(image, blurred))
    np.testing.assert_allclose(rebalance(image, gain, correction(blurred, gain)).numpy(), expected, atol=2e-5)
    assert np.abs(expected - image.numpy()).max() > 0.2


def test_the_image_s_own_energies_leave_it_as_it_is() -> None:
    image = torch.from_numpy(picture(3))
    blurred = blurs(image, sigmas_mm=SIGMAS_MM, spacing_mm=SPACING_MM)
    energies = band_energies(image, blurred)
    gain = gains(energies, energies)
    torch.testing.assert_close(rebalance(image, gain, correction(blurred, gain)), image, atol=1e-6, rtol=0)


def test_gains_are_bounded_where_a_band_is_empty() -> None:
    energies = torch.tensor([[0.0, 0.1], [0.2, 0.4]])
    assert gains(torch.tensor([[0.1, 0.1], [0.01, 0.2]]), energies).tolist() == [[4.0, 1.0], [0.25, 0.5]]
