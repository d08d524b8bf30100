"""Grids that are not straight in RAS: how oblique or sheared they are, and volumes resampled to a straight grid."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import SimpleITK

from volssl.data.volume import RefusedError, Volume


def oblique_degrees(affine: np.ndarray) -> float:
    """The largest angle between an axis of the grid and the axis of RAS that it is named after."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(directions), -1, 1))).max())


def shear_degrees(affine: np.ndarray) -> float:
    """How far two axes of the grid are from standing square on each other; 0 where all do."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    between = (directions.T @ directions)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arcsin(np.clip(np.abs(between), 0, 1))).max())


def straightened(volume: Volume, *, outside: float, voxels_max: int) -> Volume:
    """Resample a volume, trilinear, to a grid straight in RAS that holds all its voxels, with the same spacing.

    Args:
        outside: value of what the source does not cover.

    Raises:
        RefusedError: the straight grid is too large.
    """
    spacing = np.array(volume.spacing_mm)
    corners = np.array([*itertools.product(*[(0, n - 1) for n in volume.array.shape])])  # (8, 3)
    places = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    low, high = places.min(axis=0), places.max(axis=0)
    shape = [int(n) for n in np.ceil((high - low) / spacing - 1e-3) + 1]
    if math.prod(shape) > voxels_max:
        times = " x ".join(map(str, shape))
        raise RefusedError("too_large", f"Straight in RAS the grid is {times}; {voxels_max} voxels are the most.")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low
    back = np.linalg.inv(volume.affine) @ affine  # straight index to the source's index
    array = _resampled(volume.array, back, shape, outside)
    return replace(
        volume,
        array=array,
        affine=affine,
        origin=replace(volume.origin, sops=()),  # no slice is one of the source's any more
        first_slice_z_mm=float(low[2]),
        slice_step_z_mm=float(spacing[2]),
    )


def _resampled(array: np.ndarray, back: np.ndarray, shape: list[int], outside: float) -> np.ndarray:
    """Values at `back @ index`, float32. ITK knows no sheared grid, so it is told indices for millimetres."""
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(back[:3, :3].ravel().tolist())
    transform.SetTranslation(back[:3, 3].tolist())
    image = SimpleITK.GetImageFromArray(np.asarray(array, np.float32).transpose(2, 1, 0))
    zero, one, straight = [0.0] * 3, [1.0] * 3, np.eye(3).ravel().tolist()
    resampled = SimpleITK.Resample(
        image, shape, transform, SimpleITK.sitkLinear, zero, one, straight, outside, SimpleITK.sitkFloat32
    )
    return np.asarray(SimpleITK.GetArrayFromImage(resampled).transpose(2, 1, 0))
