"""Changes of intensity for values in [0, 1] (Ghesu et al. 2022, section 3.3)."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def adjust(image: Tensor, *, gamma: float, scale: float, shift: float) -> Tensor:
    """`clamp(scale * image ** gamma + shift)`: the paper's non-linear, then linear rescaling of values in [0, 1]."""
    changed = image if gamma == 1 else image.pow(gamma)
    return (changed * scale + shift).clamp_(0.0, 1.0)


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
