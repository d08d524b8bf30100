"""What a volume must be to enter the store: thresholds in one place, the modality told from values, the foreground."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from volssl.data.volume import RefusedError, Volume

if TYPE_CHECKING:
    from volssl.views.base import Box

AIR_HU = -1024


@dataclass(frozen=True)
class Thresholds:
    """The limits of `check`, kept in `store.json` as well."""

    slices_min: int = 5
    extent_min_mm: float = 20.0
    voxel_min_mm: float = 0.05
    voxel_max_mm: float = 15.0
    body_hu: float = -500.0  # what is denser is body, what is thinner is air
    body_min_share: float = 0.001
    low_hu: float = -200.0  # no tissue but lung is below it: CT with air reaches it, MR never does
    low_min_share: float = 0.001
    hu_min: float = -32768.0
    hu_max: float = 32767.0


THRESHOLDS = Thresholds()


def check(volume: Volume, modality: str | None = None, limits: Thresholds = THRESHOLDS) -> Volume:
    """Return the volume as it is stored: int16 HU for CT, float32 for MR, its modality known.

    Args:
        modality: what the user says files are that do not say it themselves.

    Raises:
        RefusedError: a threshold is missed; the sentence says which and by how much.
    """
    _check_grid(volume, limits)
    volume = _finite(volume)
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        raise RefusedError("constant", f"Every voxel has the value {low:g}.")
    if volume.modality is None:
        guess = modality or guess_modality(volume.array, limits)
        volume = replace(volume, modality=guess)
        if modality is None:
            volume = volume.noting(f"the modality {guess} was told from the values")
    return _as_ct(volume, low, high, limits) if volume.modality == "CT" else _as_mr(volume)


def guess_modality(array: np.ndarray, limits: Thresholds = THRESHOLDS) -> str:
    """Tell CT in HU, which has air far below zero, from MR, which has no value below zero.

    Raises:
        RefusedError: neither is certain: CT without air, or CT with 1024 added.
    """
    sample = subsample(array, 128)[0].astype(np.float32)
    if (sample <= limits.low_hu).mean() >= limits.low_min_share:
        return "CT"
    ask = "say --modality CT or --modality MR"
    if sample.min() < 0:
        sentence = f"Values from {sample.min():g} to {sample.max():g} fit neither CT with air nor MR: {ask}."
        raise RefusedError("modality_unknown", sentence)
    body = sample[sample > 200]
    if body.size > 0.02 * sample.size and ((body > 850) & (body < 1200)).mean() > 0.6:
        sentence = f"The values look like CT with 1024 added to the HU: subtract it, or {ask}."
        raise RefusedError("modality_unknown", sentence)
    return "MR"


def foreground(array: np.ndarray, modality: str, limits: Thresholds = THRESHOLDS) -> Box:
    """The box of the largest thing that is not air, found on every n-th voxel and widened by n.

    Args:
        array: (R, A, S), HU for CT.
    """
    sample, step = subsample(array, 96)
    labels, count = ndimage.label(sample > air_level(sample, modality, limits))
    if count == 0:
        return _whole(array.shape)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    box = []
    for found, stride, n in zip(
        ndimage.find_objects((labels == sizes.argmax()).astype(np.int8))[0], step, array.shape, strict=True
    ):
        box.append((max(0, (found.start - 1) * stride + 1), min(n, found.stop * stride)))
    return box[0], box[1], box[2]


def air_level(sample: np.ndarray, modality: str, limits: Thresholds = THRESHOLDS) -> float:
    """The value up to which voxels are air: in HU for CT, half of Otsu's threshold for MR."""
    return limits.body_hu if modality == "CT" else float(threshold_otsu(sample)) / 2


def subsample(array: np.ndarray, at_most: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Every n-th voxel, so that no axis keeps more than `at_most`; and the steps."""
    step = tuple(-(-n // at_most) for n in array.shape)
    return array[tuple(slice(None, None, n) for n in step)], step


def _check_grid(volume: Volume, limits: Thresholds) -> None:
    shape, spacing = volume.array.shape, volume.spacing_mm
    if volume.array.ndim != 3 or min(shape) < limits.slices_min:
        raise RefusedError("few_slices", f"The grid {_times(shape)} is under {limits.slices_min} voxels along an axis.")
    if min(spacing) < limits.voxel_min_mm or max(spacing) > limits.voxel_max_mm:
        sentence = f"Voxels of {_times(spacing)} mm are outside {limits.voxel_min_mm:g} to {limits.voxel_max_mm:g} mm."
        raise RefusedError("voxel_size", sentence)
    extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
    if min(extent) < limits.extent_min_mm:
        raise RefusedError(
            "extent", f"The volume measures {_times(extent)} mm; {limits.extent_min_mm:g} mm is the least."
        )


def _finite(volume: Volume) -> Volume:
    if not np.issubdtype(volume.array.dtype, np.floating):
        return volume
    bad = ~np.isfinite(volume.array)
    if not bad.any():
        return volume
    if bad.all():
        raise RefusedError("not_finite", "No voxel has a finite value.")
    lowest = volume.array[~bad].min()
    return replace(volume, array=np.where(bad, lowest, volume.array)).noting(
        f"{int(bad.sum())} voxels that were not finite took the lowest value, {lowest:g}"
    )


def _as_ct(volume: Volume, low: float, high: float, limits: Thresholds) -> Volume:
    array = volume.array
    if (subsample(array, 128)[0] > limits.body_hu).mean() < limits.body_min_share:
        raise RefusedError("empty", f"Under {limits.body_min_share:.1%} of the voxels are above {limits.body_hu:g} HU.")
    notes = []
    if low < limits.hu_min or high > limits.hu_max:
        array = np.clip(array, limits.hu_min, limits.hu_max)
        notes.append(f"values from {low:g} to {high:g} HU were clipped to {limits.hu_min:g} to {limits.hu_max:g}")
    if low > limits.body_hu:
        notes.append(f"no air: the lowest value is {low:g} HU")
    if array.dtype != np.int16:
        array = np.rint(array).astype(np.int16)
    return replace(volume, array=np.ascontiguousarray(array)).noting(*notes)


def _as_mr(volume: Volume) -> Volume:
    return replace(volume, array=np.ascontiguousarray(volume.array, dtype=np.float32))


def _whole(shape: tuple[int, ...]) -> Box:
    return (0, shape[0]), (0, shape[1]), (0, shape[2])


def _times(values: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
