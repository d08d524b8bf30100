"""A head of ellipsoids whose every number is known: brain in a skull in a scalp, with face and neck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

BRAIN_MM = (68.0, 84.0, 64.0)  # half axes
SKULL_MM, SCALP_MM = 7.0, 5.0
MIDDLE_MM = (110.0, 125.0, 134.0)  # of the brain, from the scan's lower edges
AIR, SOFT, BONE, BRAIN = -1000, 20, 900, 36


@dataclass(frozen=True)
class Phantom:
    """`hu` and `brain` (R, A, S) on voxels of `spacing_mm`."""

    hu: np.ndarray
    brain: np.ndarray
    spacing_mm: tuple[float, float, float]


def make_phantom(
    *,
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0),
    extent_mm: tuple[float, float, float] = (220.0, 250.0, 230.0),
    middle_mm: tuple[float, float, float] = MIDDLE_MM,
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shoulders: bool = False,
    noise_hu: float = 8.0,
) -> Phantom:
    """A head about `middle_mm`, turned about R, A and S."""
    shape = tuple(round(extent / mm) for extent, mm in zip(extent_mm, spacing_mm, strict=True))
    at_mm = positions_mm(shape, spacing_mm)
    x = (at_mm - np.array(middle_mm)) @ Rotation.from_euler("xyz", turn_deg, degrees=True).as_matrix()
    brain = np.array(BRAIN_MM)
    soft = _ellipsoid(x, brain + SKULL_MM + SCALP_MM)
    soft |= (np.hypot(x[..., 0], x[..., 1] + 10) < 60) & (x[..., 2] < -40)  # neck
    soft |= _ellipsoid(x, (60, 50, 60), (0, 60, -60)) | _ellipsoid(x, (12, 20, 20), (0, 110, -60))  # face, nose
    if shoulders:
        soft |= (np.abs(x[..., 0]) < 210) & (np.abs(x[..., 1] + 20) < 100) & (x[..., 2] < -130)
    hu = np.where(soft, SOFT, AIR)
    jaw = _ellipsoid(x, (50, 40, 12), (0, 60, -85)) & ~_ellipsoid(x, (44, 34, 12), (0, 60, -85))
    hu[jaw | _ellipsoid(x, brain + SKULL_MM)] = BONE
    inside = _ellipsoid(x, brain)
    hu[inside] = BRAIN
    noise = np.random.RandomState(0).normal(0, noise_hu, shape)
    return Phantom(np.round(hu + noise).astype(np.int16), inside, spacing_mm)


def positions_mm(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Centers of all voxels, (R, A, S, 3)."""
    axes = [(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def share_inside(mask: np.ndarray, box: tuple[tuple[float, float], ...]) -> float:
    """Share of a mask's voxels whose centers lie in a box."""
    centers = np.argwhere(mask) + 0.5
    edges = np.array(box)
    return float(((centers >= edges[:, 0]) & (centers <= edges[:, 1])).all(axis=1).mean())


def _ellipsoid(x: np.ndarray, half_mm: tuple[float, ...] | np.ndarray, at: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    return (((x - np.array(at)) / np.array(half_mm)) ** 2).sum(axis=-1) < 1
