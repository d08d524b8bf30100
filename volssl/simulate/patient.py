"""Who lies in the simulated scanner, and which scanner it is: draws from the seed, by site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Site = Literal["A", "B"]
AGE_BANDS = ((18, "18-39"), (40, "40-59"), (60, "60-79"), (80, "80+"))


@dataclass(frozen=True)
class Patient:
    """One person's anatomy, all of it fixed by the patient's seed.

    Attributes:
        atrophy: 0 for none, 1 for the shrunken brain of great age.
        vault_mm: half axes of the inside of the skull along right, anterior and superior.
        posterior_mm: the half axis of the skull towards the occiput.
        skull_mm: mean thickness of the vault.
        scalp_mm: mean thickness of the scalp.
    """

    sex: Literal["F", "M"]
    age_years: int
    atrophy: float
    vault_mm: tuple[float, float, float]
    posterior_mm: float
    skull_mm: float
    scalp_mm: float

    @property
    def age_band(self) -> str:
        return [name for start, name in AGE_BANDS if self.age_years >= start][-1]


@dataclass(frozen=True)
class Scanner:
    """One machine with its usual protocol.

    Attributes:
        blur_mm: deviation of the in-plane point spread of its reconstruction kernel.
        edge: overshoot that the kernel leaves at edges, 0 for none.
        noise_hu: deviation of the noise of a 5 mm slice at full resolution.
        noise_peak_per_mm: spatial frequency at which the noise is strongest.
        beam_hardening_hu: brightening of the brain beside the bone.
        slices_mm: slice thicknesses in use.
    """

    name: str
    kernel: str
    blur_mm: float
    edge: float
    noise_hu: float
    noise_peak_per_mm: float
    beam_hardening_hu: float
    slices_mm: tuple[float, ...]


SCANNERS: dict[str, tuple[Scanner, ...]] = {
    "A": (
        Scanner("SIM Alpha 16", "soft 30", 0.75, 0.10, 4.2, 0.22, 5.0, (4.0, 5.0)),
        Scanner("SIM Alpha 64", "soft 40", 0.62, 0.20, 4.8, 0.28, 4.0, (3.0, 4.0, 5.0)),
        Scanner("SIM Beta 64", "brain", 0.68, 0.15, 4.5, 0.25, 6.5, (3.5, 5.0)),
    ),
    "B": (
        Scanner("SIM Gamma 8", "standard", 0.90, 0.05, 6.6, 0.20, 9.0, (6.0, 7.0)),
        Scanner("SIM Delta 128", "sharp 50", 0.50, 0.35, 7.8, 0.34, 4.0, (5.0, 6.0)),
    ),
}
PREVALENCE = {"A": 0.5, "B": 0.35}
AGE_YEARS = {"A": (57.0, 19.0), "B": (69.0, 14.0)}  # mean, deviation


def draw_patient(rng: np.random.Generator, site: Site) -> Patient:
    """Draw sex, age, and the size and shape of the head; site B's patients are older."""
    sex: Literal["F", "M"] = "M" if rng.random() < (0.55 if site == "A" else 0.45) else "F"
    age = int(np.clip(rng.normal(*AGE_YEARS[site]), 18, 96))
    wear = np.clip((age - 35) / 55, 0, 1) ** 1.2
    size = (1.02 if sex == "M" else 0.975) * rng.normal(1, 0.025)
    length, width, height = rng.normal(1, 0.03), rng.normal(1, 0.03), rng.normal(1, 0.025)
    return Patient(
        sex=sex,
        age_years=age,
        atrophy=float(np.clip(0.85 * wear + rng.normal(0, 0.1), 0, 1.1)),
        vault_mm=(68.0 * size * width, 80.0 * size * length, 75.0 * size * height),
        posterior_mm=87.0 * size * length,
        skull_mm=float(rng.uniform(4.8, 7.8)),
        scalp_mm=float(rng.uniform(4.0, 7.5)),
    )


def draw_scanner(rng: np.random.Generator, site: Site) -> Scanner:
    """One of the site's machines."""
    return SCANNERS[site][int(rng.integers(len(SCANNERS[site])))]


def draw_pose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How the head lies: a rotation (3 x 3, head to scanner) and a shift in mm, along R, A, S."""
    pitch, yaw, roll = np.deg2rad(rng.normal([4.0, 0.0, 0.0], [5.0, 4.5, 3.5]))
    about_r = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_s = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_a = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    return about_s @ about_a @ about_r, rng.normal(0, [4.0, 5.0, 4.0])
