"""Changes of intensity for values in [0, 1] (Ghesu et al. 2022, section 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def adjust(image: Tensor, *, gamma: float, scale: float, shift: float) -> Tensor:
    """`clamp(scale * image ** gamma + shift)`: the paper's non-linear, then linear rescaling of values in [0, 1]."""
    changed = image * scale if gamma == 1 else image.pow(gamma).mul_(scale)
    return changed.add_(shift).clamp_(0.0, 1.0)


def add_noise(image: Tensor, *, sigma: float, seed: int) -> Tensor:
    """Add Gaussian noise of a standard deviation, the same for the same seed; held to [0, 1]."""
    drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return torch.add(image, drawn, alpha=sigma).clamp_(0.0, 1.0)


def draw_intensity(
    rng: np.random.RandomState,
    *,
    gamma: tuple[float, float],
    gamma_probability: float,
    scale: tuple[float, float],
    shift: tuple[float, float],
) -> dict[str, float]:
    """Draw the arguments of `adjust`, each uniform on its range; always the same number of draws."""
    use_gamma = rng.uniform() < gamma_probability
    drawn = {"gamma": rng.uniform(*gamma), "scale": rng.uniform(*scale), "shift": rng.uniform(*shift)}
    return drawn if use_gamma else drawn | {"gamma": 1.0}
