"""DICOM series: slices grouped into volumes, sorted along their normal, decoded and placed in space."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK

from volssl.data.checks import AIR_HU
from volssl.data.dicom_geometry import (
    TILT_MIN_DEGREES,
    has_place,
    sorted_evenly,
    stack_affine,
    tilt_degrees,
    upright,
)
from volssl.data.dicom_headers import CT_IMAGE, SECONDARY_CAPTURE, Header
from volssl.data.volume import Origin, RefusedError, Volume, oriented, slices_are_axial

SLICES_MIN = 5


@dataclass(frozen=True)
class Series:
    """A source of one volume that is many files: slices of one series with one orientation, size and spacing."""

    slices: tuple[Header, ...]
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The folder that holds all slices."""
        parents = [one.found.path.parent for one in self.slices]
        shared = parents[0]
        while not all(parent.is_relative_to(shared) for parent in parents):
            shared = shared.parent
        return shared

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it, copies of slices included."""
        return tuple(one.found.path for one in self.slices)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it is made of, copies included."""
        return tuple(sorted({one.found.path for one in self.slices}))

    @property
    def voxels(self) -> int:
        """Number of voxels by the headers."""
        return sum(one.rows * one.columns for one in self.slices)

    @property
    def stored_bytes_per_voxel(self) -> int:
        """Bytes that a voxel takes in the store."""
        return 2 if self.slices[0].modality == "CT" else 4

    @property
    def identity(self) -> str:
        """What stays the same when the files move: series UID and geometry; without a UID, the slices themselves."""
        first = self.slices[0]
        name = first.series or " ".join(sorted({one.sop or _digest(one.found.path) for one in self.slices}))
        return f"{name} {_stack(first)[1:]} {first.phase if self.notes else ''}"

    @property
    def source(self) -> str:
        """What names this source among all others; private."""
        return f"{self.path} {self.identity}"

    @property
    def stamp(self) -> str:
        """Changes when a file does, or joins or leaves."""
        return " ".join(sorted(f"{one.found.path.name} {one.stamp}" for one in self.slices))

    @property
    def says_modality(self) -> bool:
        """Whether the source itself tells CT from MR."""
        return True

    def read(self) -> Volume:
        """Sort, decode and stack the slices to RAS.

        Raises:
            RefusedError: the slices are of another kind, are missing, doubled or uneven, or cannot be decoded.
        """
        _check_kind(self.slices)
        slices, copies = _without_copies(self.slices)
        slices, step_mm = sorted_evenly(slices)
        notes = [*self.notes, *([f"{copies} copies of slices were passed over"] if copies else [])]
        array = np.stack([_decode(one) for one in slices], axis=-1)  # (column, row, slice)
        array, padded = _padding_to_air(array, slices)
        notes += [f"{padded} padding voxels became air"] if padded else []
        affine = stack_affine(slices[0], step_mm)
        origin = _origin(slices, self.identity, axial=slices_are_axial(affine))
        tilt = tilt_degrees(slices[0], step_mm)
        if tilt > TILT_MIN_DEGREES:
            array, affine = upright(array, slices[0], step_mm)
            notes.append(f"a gantry tilt of {tilt:.1f} degrees was taken out by resampling")
        volume = oriented(array, affine, modality=slices[0].modality, origin=origin, notes=tuple(notes))
        if not slices_are_axial(affine):
            return volume
        lowest_mm = min(one.position_mm[2] for one in slices if one.position_mm)
        return replace(volume, first_slice_z_mm=lowest_mm, slice_step_z_mm=abs(float(step_mm[2])))


def grouped(headers: Iterable[Header]) -> list[Series]:
    """Part headers into stacks: by series UID (without one: by folder), orientation, size, spacing, kind; by phase.

    Phase is acquisition, echo and time; it parts a stack only where slices would lie on one another otherwise.
    """
    stacks: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in headers:
        stacks[_stack(header)].append(header)
    groups = []
    for _, stack in sorted(stacks.items()):
        ordered = sorted(stack, key=lambda one: (one.position_mm or (), one.phase, str(one.found.path)))
        groups += _phases(ordered)
    return groups


def _stack(one: Header) -> tuple[str, ...]:
    series = one.series or f"{one.found.path.parent} {one.frame_of_reference}"
    orientation = " ".join(f"{value:.3f}" for value in one.orientation or ()).replace("-0.000", "0.000")
    spacing = f"{one.row_spacing_mm or 0:.4f} {one.column_spacing_mm or 0:.4f}"
    localizer = "localizer" if "LOCALIZER" in one.image_type else ""
    return series, orientation, f"{one.rows} {one.columns}", spacing, one.sop_class, localizer


def _phases(stack: list[Header]) -> list[Series]:
    distinct, _ = _without_copies(tuple(stack))
    if len({one.position_mm for one in distinct}) == len(distinct):
        return [Series(tuple(stack))]
    parts: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for one in stack:
        parts[one.phase].append(one)
    note = (f"one of {len(parts)} phases of a series",)
    return [Series(tuple(part), note if len(parts) > 1 else ()) for _, part in sorted(parts.items())]


def _check_kind(slices: tuple[Header, ...]) -> None:
    first = slices[0]
    if first.sop_class == SECONDARY_CAPTURE:
        raise RefusedError("secondary_capture", "A secondary capture is a picture of a screen, not a scan.")
    if first.modality not in ("CT", "MR"):
        kind = first.modality if len(first.modality) <= 8 and first.modality.isalnum() else "unnamed"
        raise RefusedError("modality", f"The modality is {kind}; CT and MR are read.")
    if "LOCALIZER" in first.image_type:
        raise RefusedError("localizer", f"A localizer of {len(slices)} pictures is no volume.")
    if first.frames > 1:
        raise RefusedError("multi_frame", f"Multi-frame objects ({first.frames} frames in a file) are not read.")
    if first.samples != 1 or first.photometric not in ("MONOCHROME2", ""):
        raise RefusedError("colour", "The pixels are colours or inverted grey, not MONOCHROME2.")
    if not all(has_place(one) for one in slices):
        raise RefusedError(
            "geometry", "Orientation, position or pixel spacing is missing or impossible, so slices have no place."
        )
    if len(slices) < SLICES_MIN:
        raise RefusedError("few_slices", f"{len(slices)} slices; {SLICES_MIN} are the least.")


def _without_copies(slices: tuple[Header, ...]) -> tuple[tuple[Header, ...], int]:
    """Drop files that repeat a slice under the same SOPInstanceUID; and how many they were."""
    kept = {one.sop or str(index): one for index, one in reversed(list(enumerate(slices)))}
    return tuple(reversed(kept.values())), len(slices) - len(kept)


def _decode(one: Header) -> np.ndarray:
    """One slice, slope and intercept applied: (column, row).

    SimpleITK decodes compressed CT and rescales it itself; MR and unknown classes it does not rescale. Of a picture
    without compression that is cut short it returns the rest as whatever lay in memory, where pydicom raises.
    """
    if one.compressed and one.sop_class == CT_IMAGE:
        try:
            reader = SimpleITK.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(one.found.path))
            return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute())[0].T)
        except RuntimeError:  # a syntax or a damage that GDCM cannot read: pydicom's decoders may
            pass
    return _decode_with_pydicom(one)


def _decode_with_pydicom(one: Header) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = pydicom.dcmread(one.found.path).pixel_array.T
    except MemoryError as error:
        raise RefusedError("pixels", "A slice asks for more memory than there is.") from error
    # Decoders raise nearly anything on damaged data; their texts may hold the path, so only the class is told.
    except Exception as error:
        raise RefusedError("pixels", f"The pixels of a slice cannot be decoded: {type(error).__name__}.") from error
    if one.slope == 1 and one.intercept == int(one.intercept):
        return np.asarray(raw.astype(np.int32) + int(one.intercept))
    return np.asarray(raw * np.float32(one.slope) + np.float32(one.intercept))


def _padding_to_air(array: np.ndarray, slices: tuple[Header, ...]) -> tuple[np.ndarray, int]:
    """CT scanners fill the corners with a value below air's; and how many voxels they filled."""
    padded = 0
    for index, one in enumerate(slices):
        if one.modality == "CT" and one.padding is not None:
            value = one.padding * one.slope + one.intercept
            if value < AIR_HU:
                where = array[..., index] == value
                array[..., index][where] = AIR_HU
                padded += int(where.sum())
    return array, padded


def _origin(slices: tuple[Header, ...], identity: str, *, axial: bool) -> Origin:
    first = slices[0]
    upward = slices[-1].position_mm[2] >= first.position_mm[2] if first.position_mm and slices[-1].position_mm else True
    sops = tuple(one.sop for one in (slices if upward else reversed(slices)))
    names = (*first.found.names[1:], first.study, first.accession)
    return Origin(
        names=tuple(filter(None, dict.fromkeys(names))),
        source_format="dicom",
        identity=identity,
        patient=first.patient,
        study=first.study,
        series=first.series,
        sops=sops if axial and all(sops) else (),
        sex=first.sex,
        age_years=first.age_years,
        scanner=first.scanner,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
