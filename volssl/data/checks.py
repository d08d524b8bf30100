"""What a volume must be to enter the store: thresholds in one place, the form it is stored in, the foreground."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from volssl.data.modality import not_in_hu, settle_modality
from volssl.data.oblique import oblique_degrees, shear_degrees, straightened
from volssl.data.volume import RefusedError, Volume, in_c_order, planes

if TYPE_CHECKING:
    from volssl.views.base import Box

AIR_HU = -1024
OBLIQUE = ("keep", "resample")


@dataclass(frozen=True)
class Thresholds:
    """What decides whether a source becomes a volume; `store.json` keeps them."""

    slices_min: int = 5
    voxels_max: int = 1 << 30  # 1024 cubed
    parts_max: int = 16  # volumes in a file; what holds more is a series of times
    extent_min_mm: float = 20.0
    voxel_min_mm: float = 0.05
    voxel_max_mm: float = 15.0
    straight_degrees: float = 0.1  # a grid that is less oblique, or less sheared, counts as straight
    air_max_share: float = 0.999
    body_hu: float = -500.0  # what is denser is body, what is thinner is air
    padding_hu: float = -1500.0  # what is lower is what a scanner fills its corners with, not air
    low_hu: float = -200.0  # no tissue but lung is below it: CT with air reaches it, MR never does
    low_min_share: float = 0.001
    hu_range_min: float = 50.0  # from the lowest to the highest value of a CT
    tissue_min_hu: float = -300.0  # the median of tissue in a CT that shows no air
    tissue_max_hu: float = 400.0
    background_min_share: float = 0.1  # zeros around a brain without its skull
    brain_max_hu: float = 100.0  # where most of it lies, from zero
    brain_min_share: float = 0.75
    brain_median_min_hu: float = 15.0  # white matter has about 30 HU, grey matter 40
    brain_median_max_hu: float = 50.0  # the T1 template, which is scaled to 100, lies above it
    shifted_body: float = 200.0  # of values to which 1024 was added: what is not air
    shifted_body_share: float = 0.02  # where less is there, nothing is told from it
    shifted_water_low: float = 850.0  # where most of that lies then, about 1024
    shifted_water_high: float = 1200.0
    shifted_min_share: float = 0.6
    picture_tissue: float = 60.0  # above it, tissue between 0 and 255 is grey on a screen
    mr_max: float = 1e9  # a scanner's units are arbitrary, but a value beyond is damage, and drowns all statistics
    hu_min: float = -(2.0**24)  # beyond it float32, which scaled values pass through, skips whole numbers
    hu_max: float = 2.0**24


THRESHOLDS = Thresholds()


def check(
    volume: Volume, modality: str | None = None, limits: Thresholds = THRESHOLDS, *, oblique: str = "keep"
) -> Volume:
    """Return the volume as it is stored: whole HU for CT, in int16 where they fit; float32 for MR; its modality known.

    Args:
        modality: what the user says files are that do not say it themselves.
        oblique: `keep` leaves the voxels of an oblique grid where they are; `resample` brings them to a grid that is
            straight in RAS. A sheared grid, which no image format holds, is always resampled.

    Raises:
        RefusedError: a threshold is missed; the sentence says which and by how much.
    """
    if oblique not in OBLIQUE:
        raise ValueError(f"oblique is {' or '.join(OBLIQUE)}, not {oblique!r}")
    _check_grid(volume, limits)
    volume = _finite(volume)
    low, high = _check_values(volume.array)
    if volume.modality is None:
        kind, note = settle_modality(volume, modality, subsample(volume.array, 128)[0], limits)
        volume = replace(volume, modality=kind).noting(*[note] if note else [])
    volume = _straight(volume, low, oblique, limits)
    return (_as_ct if volume.modality == "CT" else _as_mr)(volume, low, high, limits)


def foreground(array: np.ndarray, modality: str) -> Box:
    """The box of the largest thing that is not air, found on every n-th voxel and widened by n.

    Args:
        array: (R, A, S), HU for CT.
    """
    sample, step = subsample(array, 96)
    labels, count = ndimage.label(sample > air_level(sample, modality))
    if count == 0:
        return (0, array.shape[0]), (0, array.shape[1]), (0, array.shape[2])
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    box = []
    found = ndimage.find_objects(labels)[int(sizes.argmax()) - 1]
    for edges, stride, n in zip(found, step, array.shape, strict=True):
        box.append((max(0, (edges.start - 1) * stride + 1), min(n, edges.stop * stride)))
    return box[0], box[1], box[2]


def air_level(sample: np.ndarray, modality: str) -> float:
    """The value at and below which a voxel is air.

    In HU it is fixed. In MR it lies a quarter of the way from the mean of what Otsu's method finds dark to the mean of
    the rest: where no value lies between them, Otsu's threshold is the largest value of the noise itself.
    """
    if modality == "CT":
        return THRESHOLDS.body_hu
    dark = sample <= threshold_otsu(sample)
    low, high = float(sample[dark].mean()), float(sample[~dark].mean()) if not dark.all() else float(sample.max())
    return low + (high - low) / 4


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
    array = volume.array
    if array.dtype.kind != "f" or np.isfinite(_ends(array)).all():
        return volume
    bad = ~np.isfinite(array)
    if bad.all():
        raise RefusedError("not_finite", "No voxel has a finite value.")
    lowest = array.min(where=~bad, initial=np.inf)
    array = array.copy()
    array[bad] = lowest
    return replace(volume, array=array).noting(
        f"{int(bad.sum())} voxels that were not finite took the lowest value, {lowest:g}"
    )


def _check_values(array: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value, where there are others between them."""
    low, high = _ends(array)
    if low == high:
        raise RefusedError("constant", f"Every voxel has the value {low:g}.")
    few = subsample(array, 16)[0]
    for part in chain([few], (array[plane] for plane in planes(array))):
        if ((part != low) & (part != high)).any():
            return float(low), float(high)
    raise RefusedError("mask", f"Every voxel is {low:g} or {high:g}: that is a mask, not a scan.")


def _ends(array: np.ndarray) -> tuple[Any, Any]:
    """The lowest and the highest value; NumPy is quick to find them where no axis runs against the memory."""
    along = array[tuple(slice(None, None, -1 if step < 0 else 1) for step in array.strides)]
    return along.min(), along.max()


def _straight(volume: Volume, low: float, oblique: str, limits: Thresholds) -> Volume:
    """The volume on a grid that an image format can hold, and the user wants."""
    shear, turn = shear_degrees(volume.affine), oblique_degrees(volume.affine)
    if shear > limits.straight_degrees:
        note = f"a grid sheared by {shear:.1f} degrees was resampled to a straight one"
    elif turn > limits.straight_degrees and oblique == "resample":
        note = f"a grid oblique by {turn:.1f} degrees was resampled to a straight one"
    else:
        return volume
    outside = float(AIR_HU) if volume.modality == "CT" else low
    return straightened(volume, outside=outside, voxels_max=limits.voxels_max).noting(note)


def _as_ct(volume: Volume, low: float, high: float, limits: Thresholds) -> Volume:
    array, notes = volume.array, []
    sample = subsample(array, 128)[0]
    air = float((sample <= limits.body_hu).mean())
    if air > limits.air_max_share:
        raise RefusedError("empty", f"Over {limits.air_max_share:.1%} of the voxels are under {limits.body_hu:g} HU.")
    if high - low < limits.hu_range_min:
        sentence = f"Values from {low:g} to {high:g} span less than {limits.hu_range_min:g} HU: they are not in HU."
        raise RefusedError("intensity_range", sentence)
    if low < limits.hu_min or high > limits.hu_max:
        sentence = f"Values from {low:g} to {high:g}: {limits.hu_min:.0f} to {limits.hu_max:.0f} HU is what is stored."
        raise RefusedError("intensity_range", sentence)
    if why := not_in_hu(sample.astype(np.float32), limits):
        raise RefusedError("not_hu", why)
    if low > limits.body_hu:
        notes.append(f"no air: the lowest value is {low:g} HU")
    dtype = _whole_numbers(low, high)
    if dtype is not np.int16:
        notes.append(f"values from {low:.0f} to {high:.0f} HU do not fit into int16: they are stored as int32")
    return replace(volume, array=_rounded(array, dtype)).noting(*notes)


def _whole_numbers(low: float, high: float) -> type[np.signedinteger]:
    """The type that HU are stored as."""
    short = np.iinfo(np.int16)
    return np.int16 if short.min <= low and high <= short.max else np.int32


def _rounded(array: np.ndarray, dtype: type[np.signedinteger]) -> np.ndarray:
    """To whole numbers, in C order."""
    if array.dtype.kind != "f":
        return in_c_order(array, dtype)
    whole = np.empty(array.shape, dtype)
    for plane in planes(array):
        whole[plane] = np.rint(array[plane])
    return whole


def _as_mr(volume: Volume, low: float, high: float, limits: Thresholds) -> Volume:
    if max(-low, high) > limits.mr_max:
        sentence = f"Values from {low:g} to {high:g}: {limits.mr_max:g} is the most that MR is taken to have."
        raise RefusedError("intensity_range", sentence)
    if (subsample(volume.array, 128)[0] == low).mean() > limits.air_max_share:
        sentence = f"Over {limits.air_max_share:.1%} of the voxels have the lowest value, {low:g}."
        raise RefusedError("empty", sentence)
    return replace(volume, array=in_c_order(volume.array, np.float32))


def _times(values: tuple[float, ...] | list[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
