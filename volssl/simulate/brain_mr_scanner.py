"""The simulated MR scanners of two sites, and what they do to a head: blur, uneven coils, Rician noise, any units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from volssl.simulate.compose import Grid
from volssl.simulate.lattice import Field
from volssl.simulate.patient import Site

UNITS = (220.0, 900.0)  # what white matter reads, drawn for each study: MR has no scale of its own


@dataclass(frozen=True)
class MRScanner:
    """One machine with its usual T1-weighted protocol after contrast; signals are in shares of white matter's.

    Attributes:
        tesla: field strength.
        sequence: what the protocol is called.
        grey: signal of the cortex.
        fluid: signal of cerebrospinal fluid.
        enhancement: how much brighter than white matter a vein is, at the usual dose.
        arterial: the same of arteries, as a share of the veins'; less where their blood has left the slice.
        blur_mm: deviation of the point spread in plane.
        noise: deviation of the noise of each channel in a voxel of 1 x 1 x 3 mm.
        unevenness: deviation of the logarithm of the bias field.
        slices_mm: slice thicknesses in use.
        times_ms: repetition, echo and inversion time; 0 for no inversion.
    """

    name: str
    tesla: float
    sequence: str
    grey: float
    fluid: float
    enhancement: float
    arterial: float
    blur_mm: float
    noise: float
    unevenness: float
    slices_mm: tuple[float, ...]
    times_ms: tuple[float, float, float]


SCANNERS: dict[Site, tuple[MRScanner, ...]] = {
    "A": (
        MRScanner(
            "SIM Epsilon 3T", 3.0, "MPRAGE", 0.74, 0.24, 0.95, 0.95, 0.50, 0.042, 0.13, (2.5, 3.0), (2000, 2.6, 900)
        ),
        MRScanner("SIM Zeta 3T", 3.0, "MPRAGE", 0.72, 0.20, 0.85, 0.90, 0.60, 0.036, 0.17, (3.0,), (2300, 3.0, 900)),
    ),
    "B": (
        MRScanner("SIM Eta 1.5T", 1.5, "SPGR", 0.81, 0.36, 0.70, 0.80, 0.65, 0.066, 0.09, (4.0,), (24, 5.0, 0)),
        MRScanner("SIM Theta 1.5T", 1.5, "SE", 0.84, 0.40, 0.65, 0.35, 0.75, 0.058, 0.11, (4.0, 5.0), (550, 12, 0)),
    ),
}


def draw_mr_scanner(rng: np.random.Generator, site: Site) -> MRScanner:
    """One of the site's machines."""
    return SCANNERS[site][int(rng.integers(len(SCANNERS[site])))]


def bias_field(rng: np.random.Generator, scanner: MRScanner, grid: Grid) -> Field:
    """What the coils see of each voxel, (S, A, R), 1 on the mean: a bright or dark middle and a few slow waves."""
    places = [np.asarray(axis, np.float32) / np.float32(100) for axis in (grid.s_mm, grid.a_mm, grid.r_mm)]
    middle = float(rng.normal(0, 1.0))
    s, a, r = places[0][:, None, None], places[1][None, :, None], places[2][None, None, :]
    log = np.float32(middle) * (0.6 - (s * s + a * a + r * r)) + np.float32(rng.normal(0, 0.9)) * s
    for _ in range(3):
        wave, phase = rng.normal(0, 1.6, 3), rng.uniform(0, 2 * np.pi, 3)
        parts = [np.cos(w * axis + p) for w, axis, p in zip(wave, places, phase, strict=True)]
        log = log + np.float32(rng.normal(0, 1.4)) * (
            parts[0][:, None, None] * parts[1][None, :, None] * parts[2][None, None, :]
        ).astype(np.float32)
    return np.asarray(np.exp(np.float32(scanner.unevenness) * log), np.float32)


def receive(rng: np.random.Generator, signal: Field, scanner: MRScanner, grid: Grid, dose: float) -> Field:
    """Blur in plane, and add Rician noise: the length of a complex number both of whose parts are noisy, (S, A, R).

    The noise falls with the root of the voxel's volume, as when voxels are averaged. `dose` scales it.
    """
    pixel = float(grid.r_mm[1] - grid.r_mm[0])
    sigma = scanner.blur_mm / pixel
    seen = ndimage.gaussian_filter(signal, (0, sigma, sigma), truncate=3.0) if sigma > 0.25 else signal
    deviation = np.float32(scanner.noise * dose * np.sqrt(3.0 / (pixel * pixel * grid.slice_mm)))
    real = rng.standard_normal(seen.shape, dtype=np.float32) * deviation + seen
    imaginary = rng.standard_normal(seen.shape, dtype=np.float32) * deviation
    return np.asarray(np.sqrt(real * real + imaginary * imaginary), np.float32)
