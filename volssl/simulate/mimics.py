"""Bright things that are no blood: calcifications as small Gaussian spots, placed by anatomy, more of them with age."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volssl.simulate.lattice import Field
from volssl.simulate.patient import Patient


@dataclass(frozen=True)
class Spot:
    """A soft bright ellipsoid: center in scanner mm, radii in mm along R, A, S, and the HU added at its peak."""

    center_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    hu: float


def draw_spots(rng: np.random.Generator, patient: Patient, rotation: np.ndarray, shift_mm: np.ndarray) -> list[Spot]:
    """One patient's calcifications: choroid plexus, pineal gland, falx, basal ganglia, vessels, and a rare meningioma.

    Args:
        rotation: head to scanner, 3 x 3.
        shift_mm: of the head in the scanner.
    """
    age = patient.age_years
    wide = patient.vault_mm[0] / 68 * (0.94 + 0.16 * patient.atrophy)
    spots: list[tuple[np.ndarray, float, float]] = []  # head center, radius in mm, HU

    def cluster(center: tuple[float, float, float], count: int, spread_mm: float, radius_mm: float, hu: float) -> None:
        for _ in range(count):
            radius = radius_mm * float(np.exp(rng.normal(0, 0.25)))
            spots.append((rng.normal(center, spread_mm), radius, hu * float(np.exp(rng.normal(0, 0.3)))))

    if rng.random() < 0.35 + 0.006 * (age - 20):
        for side in (-1, 1):
            if rng.random() < 0.85:
                cluster(
                    (22 * side * wide, -41, 9),
                    int(rng.integers(1, 4)),
                    1.8,
                    rng.uniform(1.5, 4.2),
                    rng.uniform(40, 260),
                )
    if rng.random() < 0.75:
        cluster((0, -29, 3), int(rng.integers(1, 3)), 1.0, rng.uniform(1.2, 3.0), rng.uniform(50, 300))
    if rng.random() < 0.3:
        side = rng.choice((-1.0, 1.0))
        cluster(
            (0.6 * side, rng.uniform(-30, 55), rng.uniform(38, 62)),
            int(rng.integers(1, 5)),
            2.5,
            2.0,
            rng.uniform(80, 500),
        )
    if rng.random() < 0.12 + 0.004 * max(0, age - 40):
        height, hu = rng.uniform(0, 6), rng.uniform(15, 90)
        for side in (-1, 1):
            cluster((19 * side, 4, height), int(rng.integers(1, 4)), 2.0, rng.uniform(1.6, 3.6), hu)
    if rng.random() < (age - 40) / 60:
        for side in (-1, 1):
            cluster((9.0 * side, 5, -22), int(rng.integers(1, 4)), 1.8, 1.5, rng.uniform(100, 500))
    if rng.random() < 0.4:
        cluster((0, 3, -24), 3, 1.3, 1.7, rng.uniform(12, 24))  # the basilar artery
    for side in (-1, 1):
        if rng.random() < 0.6:
            cluster((24 * side * wide, -41, 6), 3, 2.2, rng.uniform(2.5, 5.5), rng.uniform(14, 40))  # the plexus itself
    if rng.random() < 0.08:  # a meningioma under the vault
        side = rng.choice((-1.0, 1.0))
        place = rng.normal((0, 0, 1), (0.7, 0.7, 0.3))
        edge = np.abs(place / np.linalg.norm(place)) * (np.array(patient.vault_mm) - 11)
        center = (edge[0] * side, edge[1] * rng.choice((-1.0, 1.0)), edge[2])
        cluster(center, 3, 2.5, rng.uniform(5, 9), rng.uniform(8, 22))
    if rng.random() < 0.13:  # Fahr's disease
        for side in (-1, 1):
            cluster((23 * side, 3, 3), 5, 4.0, rng.uniform(2.5, 4.5), rng.uniform(15, 60))
    return [_placed(rotation @ center + shift_mm, radius, hu) for center, radius, hu in spots]


def _placed(center: np.ndarray, radius_mm: float, hu: float) -> Spot:
    return Spot((float(center[0]), float(center[1]), float(center[2])), (radius_mm, radius_mm, radius_mm * 1.1), hu)


def add_spots(
    image: Field, spots: list[Spot], r_mm: Field, a_mm: Field, s_mm: float, voxel_mm: tuple[float, float, float]
) -> None:
    """Add to a slice (A, R), in place, what its voxels hold of each spot: the same amount at every voxel size."""
    for spot in spots:
        wide = [float(np.sqrt(mm**2 / 2.5 + size**2 / 12)) for mm, size in zip(spot.radii_mm, voxel_mm, strict=True)]
        away = (s_mm - spot.center_mm[2]) / wide[2]
        if abs(away) > 3:
            continue
        fill = np.prod([mm / np.sqrt(2.5) / sigma for mm, sigma in zip(spot.radii_mm, wide, strict=True)])
        r = np.exp(-0.5 * ((r_mm - spot.center_mm[0]) / wide[0]) ** 2)
        a = np.exp(-0.5 * ((a_mm - spot.center_mm[1]) / wide[1]) ** 2)
        peak = spot.hu * float(fill) * float(np.exp(-0.5 * away**2))
        image += (peak * a[:, None] * r[None, :]).astype(np.float32)
