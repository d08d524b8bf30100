"""Where DICOM slices lie: their order along the normal, the affine of the stack, and a gantry's tilt taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK

from volssl.data.checks import AIR_HU
from volssl.data.dicom.headers import Header
from volssl.data.dicom.lines import GAP_TOLERANCE, along_normal, doubled, gap_tolerance, usual_gap
from volssl.data.formats.volume_files import LPS_TO_RAS, itk_affine
from volssl.data.volume import RefusedError

TILT_MAX_DEGREES = 40.0
TILT_MIN_DEGREES = 0.1  # under it the shear moves a head's slices by less than a voxel


def sorted_along_normal(slices: Sequence[Header]) -> tuple[tuple[Header, ...], tuple[tuple[int, int], ...]]:
    """Sort slices along their normal; and which pairs of neighbours lie at one place."""
    places = along_normal(slices)
    ordered = [slices[index] for index in np.argsort(places, kind="stable")]
    places = sorted(places)
    same = doubled(places, usual_gap(places))
    return tuple(ordered), tuple((index - 1, index) for index, yes in enumerate(same) if yes)


def even_step(ordered: Sequence[Header]) -> np.ndarray:
    """The step from slice to slice in LPS mm, which a tilt may turn off the normal.

    Args:
        ordered: slices along their normal.

    Raises:
        RefusedError: slices are missing, or lie unevenly.
    """
    positions = np.array([one.position_mm for one in ordered])  # (slice, 3)
    gaps = np.diff(along_normal(ordered))
    usual = float(np.median(gaps))
    tolerance = gap_tolerance(usual)
    worst = float(gaps[np.abs(gaps - usual).argmax()])
    if abs(worst - usual) > tolerance:
        missing = round(worst / usual) - 1
        if missing > 0 and abs(worst - (missing + 1) * usual) <= max(tolerance, GAP_TOLERANCE * worst):
            raise RefusedError(
                "missing_slices", f"A gap of {worst:.2f} mm where {usual:.2f} is the rule: slices are missing."
            )
        raise RefusedError("uneven_slices", f"A gap of {worst:.2f} mm where {usual:.2f} mm is the rule.")
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    sideways = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(ordered)), step), axis=1).max()
    if sideways > max(1.0, usual):
        raise RefusedError(
            "uneven_slices", f"Slices lie up to {sideways:.1f} mm beside the line that the others are on."
        )
    return np.asarray(step)


def _directions(one: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors in LPS: along a row, along a column, and normal to both."""
    values = np.array(one.orientation, dtype=np.float64)
    row, column = values[:3] / np.linalg.norm(values[:3]), values[3:] / np.linalg.norm(values[3:])
    return row, column, np.cross(row, column)


def stack_affine(first: Header, step_mm: np.ndarray) -> np.ndarray:
    """Index (column, row, slice) to RAS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    row, column, _ = _directions(first)
    affine = np.eye(4)
    affine[:3, 0] = row * (first.column_spacing_mm or 0)
    affine[:3, 1] = column * (first.row_spacing_mm or 0)
    affine[:3, 2] = step_mm
    affine[:3, 3] = np.array(first.position_mm)
    return LPS_TO_RAS @ affine


def tilt_degrees(first: Header, step_mm: np.ndarray) -> float:
    """The angle between the way from slice to slice and the slices' normal.

    Raises:
        RefusedError: it is larger than any gantry's.
    """
    cosine = float(np.dot(_directions(first)[2], step_mm) / np.linalg.norm(step_mm))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > TILT_MAX_DEGREES:
        raise RefusedError("geometry", f"The slices run {tilt:.0f} degrees off their normal: no gantry tilts so far.")
    return tilt


def upright(array: np.ndarray, first: Header, step_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample a sheared stack (column, row, slice) so that its slices lie straight above each other, all of each.

    ITK knows no sheared grid: it is told the straight one, and an affine transform that shifts each slice back. Given
    whole numbers it would cut off the fraction of what it interpolates, so it is given float32.

    Returns:
        The voxels, int16 where they were, and the affine to RAS mm.
    """
    row, column, normal = _directions(first)
    gap_mm = float(np.dot(step_mm, normal))
    spacing = np.array([first.column_spacing_mm, first.row_spacing_mm, gap_mm])
    directions = np.stack([row, column, normal], axis=1)
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0).astype(np.float32, copy=False))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(list(first.position_mm or ()))
    shear = step_mm - gap_mm * normal  # in plane, mm a slice
    whole = directions.T @ shear * (array.shape[2] - 1) / spacing  # voxels, last slice against first
    shift = (np.sign(whole) * np.ceil(np.abs(whole) - 1e-3)).astype(int)
    size = [n + abs(int(move)) for n, move in zip(array.shape, shift, strict=True)]
    origin = np.array(first.position_mm) + directions @ (np.minimum(shift, 0) * spacing)
    back = SimpleITK.AffineTransform(3)
    back.SetMatrix((np.eye(3) - np.outer(shear, normal) / gap_mm).ravel().tolist())
    back.SetCenter(list(first.position_mm or ()))
    air = float(AIR_HU if first.modality == "CT" else array.min())
    straight = SimpleITK.Resample(
        image, size, back, SimpleITK.sitkLinear, origin.tolist(), spacing.tolist(), directions.ravel().tolist(), air
    )
    del image  # the next lines copy
    values = SimpleITK.GetArrayFromImage(straight)
    if array.dtype.kind == "i":
        values = np.rint(values, out=values).astype(array.dtype)
    return values.transpose(2, 1, 0), itk_affine(straight)
