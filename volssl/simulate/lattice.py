"""Smooth fields of a head on one coarse lattice in scanner millimetres, and their slices at any spacing.

Anatomy is drawn once on the lattice, and a scan only samples it: so a seed gives the same head at every spacing. Fields
are interpolated by Catmull–Rom cubics through sparse matrices, which run on one thread and repeat bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

Field = npt.NDArray[np.floating[Any]]  # (S, R, A) on the lattice, (A, R) in a slice
Fields = dict[str, Field]
Point = tuple[float, float, float]

STEP_MM = 4.0
START_MM = {"R": -116.0, "A": -136.0, "S": -116.0}
COUNT = {"R": 59, "A": 69, "S": 56}
SHAPE = (COUNT["S"], COUNT["R"], COUNT["A"])


def lattice_axes_mm() -> tuple[Field, Field, Field]:
    """Scanner coordinates along R, A, S of the lattice's knots, each shaped to broadcast to (S, R, A)."""
    r, a, s = (np.float32(START_MM[k]) + np.float32(STEP_MM) * np.arange(COUNT[k], dtype=np.float32) for k in "RAS")
    return r[None, :, None], a[None, None, :], s[:, None, None]


def head_axes_mm(rotation: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]) -> tuple[Field, Field, Field]:
    """Head coordinates x, y, z (S, R, A) of the lattice's knots, for a head that lies as `draw_pose` says."""
    r, a, s = lattice_axes_mm()
    turn, move = rotation.astype(np.float32), shift.astype(np.float32)
    x, y, z = (turn[0, i] * (r - move[0]) + turn[1, i] * (a - move[1]) + turn[2, i] * (s - move[2]) for i in range(3))
    return x, y, z


def cubic_matrix(at_mm: Field, axis: str) -> sparse.csr_array:
    """Catmull–Rom weights that bring lattice knots along `axis` to the positions `at_mm`: (len(at_mm), knots)."""
    return sparse.csr_array(_weights_at(at_mm, axis))


def _weights_at(at_mm: Field, axis: str) -> Field:
    place = np.clip((at_mm - START_MM[axis]) / STEP_MM, 0.0, COUNT[axis] - 1.001)
    left = np.floor(place).astype(int)
    return _cubic_weights(place - left, left, COUNT[axis])


def _cubic_weights(t: npt.NDArray[np.float64], left: npt.NDArray[np.int_], count: int) -> Field:
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    weights = np.zeros((len(t), count), np.float32)
    for offset, tap in zip((-1, 0, 1, 2), taps, strict=True):
        np.add.at(weights, (np.arange(len(t)), np.clip(left + offset, 0, count - 1)), tap.astype(np.float32))
    return weights


class Slicer:
    """Cuts axial slices out of a stack of lattice fields.

    Args:
        fields: name to (S, R, A).
        r_mm: scanner positions of the slice's columns.
        a_mm: scanner positions of the slice's rows.
    """

    def __init__(self, fields: Fields, r_mm: Field, a_mm: Field) -> None:
        self.names = tuple(fields)
        self.stack = np.stack([fields[name] for name in self.names], axis=2)  # (S, R, F, A)
        self.to_r = cubic_matrix(r_mm, "R")
        self.to_a = cubic_matrix(a_mm, "A")

    def at(self, s_mm: float) -> Fields:
        """The slice at height `s_mm`: name to (A, R)."""
        weights = _weights_at(np.array([s_mm]), "S")[0]
        plane = np.zeros(self.stack.shape[1:], np.float32)  # (R, F, A)
        for knot in np.flatnonzero(weights):
            plane += weights[knot] * self.stack[knot]
        count = len(self.names)
        wide = self.to_r @ plane.reshape(COUNT["R"], -1)  # (columns, F * A)
        wide = np.ascontiguousarray(wide.reshape(-1, count, COUNT["A"]).transpose(2, 1, 0))  # (A, F, columns)
        slices = (self.to_a @ wide.reshape(COUNT["A"], -1)).reshape(-1, count, self.to_r.shape[0])
        return dict(zip(self.names, np.ascontiguousarray(slices.transpose(1, 0, 2)), strict=True))


def smooth_noise(rng: np.random.Generator, wavelength_mm: float) -> Field:
    """A smooth field with mean 0 and deviation near 1, whose bumps lie about `wavelength_mm` apart: (S, R, A)."""
    coarse = [max(4, int(np.ceil(n * STEP_MM / (wavelength_mm / 2))) + 3) for n in SHAPE]
    values = rng.standard_normal(coarse, dtype=np.float32)
    for axis, count in enumerate(SHAPE):
        place = 1 + np.arange(count) * STEP_MM / (wavelength_mm / 2)
        left = np.floor(place).astype(int)
        weights = sparse.csr_array(_cubic_weights(place - left, left, values.shape[axis]))
        first = np.moveaxis(values, axis, 0)
        spread = (weights @ np.ascontiguousarray(first).reshape(len(first), -1)).reshape(count, *first.shape[1:])
        values = np.moveaxis(spread, 0, axis)
    return np.ascontiguousarray(values * 1.5, dtype=np.float32)


def band_noise(rng: np.random.Generator, wavelength_mm: float) -> Field:
    """A field that swings at about one wavelength only, as gyri do: (S, R, A), deviation 1."""
    sigma = wavelength_mm / STEP_MM / 5.2
    white = rng.standard_normal(SHAPE, dtype=np.float32)
    fine = ndimage.gaussian_filter(white, sigma, truncate=2.5)
    band = fine - ndimage.gaussian_filter(fine, 1.4 * sigma, truncate=2.0)
    return np.asarray(band / band.std(), np.float32)


def soft_min(a: Field, b: Field, blend_mm: float) -> Field:
    """The smaller of two distances, rounded over `blend_mm` where they meet."""
    gap = np.clip(0.5 + 0.5 * (b - a) / blend_mm, 0, 1)
    return np.asarray(b + (a - b) * gap - blend_mm * gap * (1 - gap))


def sigmoid(x: Field) -> Field:
    """1 / (1 + exp(-x)), through tanh, which does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def plateau(*distances: Field) -> Field:
    """exp(-Σ d⁴): 1 over a box with round corners, 0 beyond it."""
    return np.asarray(np.exp(-sum((d * d) ** 2 for d in distances)), np.float32)


def ellipsoid(x: Field, y: Field, z: Field, center: Point, radii: Point) -> Field:
    """Depth inside an ellipsoid in mm, negative outside, exact on its axes: broadcast shape of x, y, z."""
    u, v, w = (x - center[0]) / radii[0], (y - center[1]) / radii[1], (z - center[2]) / radii[2]
    return np.asarray((1 - np.sqrt(u * u + v * v + w * w)) * np.float32(min(radii)))
