"""What the scanner does to a head: kernel, beam hardening, correlated noise, and the table in the picture."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from volssl.simulate.lattice import Field, Fields, plateau
from volssl.simulate.patient import Scanner

AIR_HU = -1000.0


def reconstruct(volume: Field, scanner: Scanner, spacing_mm: float) -> Field:
    """Blur each slice (S, A, R) with the kernel's point spread, and overshoot at edges as sharp kernels do."""
    sigma = scanner.blur_mm / spacing_mm
    smooth = ndimage.gaussian_filter(volume, (0, sigma, sigma), truncate=3.0) if sigma > 0.25 else volume
    wide = 2.0 / spacing_mm
    around = ndimage.gaussian_filter(smooth, (0, wide, wide), truncate=2.0)
    detail = np.clip(smooth - around, -60, 60)
    return np.asarray(smooth + scanner.edge * detail, np.float32)


def noise(
    rng: np.random.Generator, shape: tuple[int, int, int], scanner: Scanner, spacing_mm: float, slice_mm: float
) -> Field:
    """Noise in HU, (S, A, R), with the in-plane spectrum f·exp(−f²/2p²) of filtered back-projection.

    Its power is fixed a square millimetre, so that larger pixels hold less of it; it falls with the root of `slice_mm`.
    """
    count, rows, columns = shape
    size = (fft.next_fast_len(rows, real=True), fft.next_fast_len(columns, real=True))
    white = rng.standard_normal((count, *size), dtype=np.float32)
    up, along = np.fft.fftfreq(size[0], spacing_mm)[:, None], np.fft.rfftfreq(size[1], spacing_mm)[None, :]
    squared = up**2 + along**2
    peak = scanner.noise_peak_per_mm
    power = np.sqrt(squared) * np.exp(-squared / (2 * peak**2))
    power /= 2 * np.pi * np.sqrt(np.pi / 2) * peak**3  # its integral over the plane of frequencies is now 1
    power *= np.sinc(up * spacing_mm) ** 2 * np.sinc(along * spacing_mm) ** 2 / spacing_mm**2
    power += 0.06 * np.exp(-squared / (2 * (peak / 3) ** 2)) / (2 * np.pi * (peak / 3) ** 2) / spacing_mm**2
    spectrum = fft.rfft2(white) * np.sqrt(power).astype(np.float32)
    waves = fft.irfft2(spectrum, s=size)[:, :rows, :columns]
    return np.asarray(waves * (scanner.noise_hu * np.sqrt(5.0 / slice_mm)), np.float32)


def hardening(rng: np.random.Generator, scanner: Scanner, fields: Fields, x: Field, y: Field, z: Field) -> Field:
    """Beam hardening in HU on the lattice: brain brighter beside bone, and the dark band between the petrous bones."""
    strength = scanner.beam_hardening_hu * float(np.exp(rng.normal(0, 0.4)))
    brighter = strength * np.exp(-np.clip(fields["inner"], 0, None) / 7.0)
    band = np.exp(-(((z + 32) / 7) ** 2) - ((y + 26) / 10) ** 2) * plateau(x / 45)
    return np.asarray(brighter - 2.0 * strength * band, np.float32)


def table(rng: np.random.Generator, r_mm: Field, a_mm: Field, back_mm: float) -> Field:
    """The head holder below the occiput, the same in every slice: HU above air, (A, R)."""
    lift, radius, wall = rng.uniform(3, 9), rng.uniform(105, 125), rng.uniform(2.5, 4.0)
    from_axis = np.hypot(r_mm[None, :], a_mm[:, None] - (back_mm - lift + radius))
    shell = np.clip(wall - np.abs(from_axis - radius), 0, 1) * (a_mm[:, None] < back_mm + 30)
    cushion = (np.abs(from_axis - radius + lift * 0.5) < lift * 0.3) * (a_mm[:, None] < back_mm + 15)
    return np.asarray(shell * rng.uniform(150, 700) + cushion * 40.0, np.float32)
