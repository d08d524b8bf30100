"""DICOM series: slices grouped into volumes, sorted along their normal, decoded and placed in space."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK

from volssl.data.checks import AIR_HU
from volssl.data.dicom_headers import CT_IMAGE, SECONDARY_CAPTURE, Header
from volssl.data.volume import Origin, RefusedError, Volume, oriented, slices_are_axial
from volssl.data.volumes import LPS_TO_RAS, itk_affine

SLICES_MIN = 5
GAP_TOLERANCE = 0.05  # of the usual gap: beyond it the slices are not even
TILT_MIN_DEGREES = 0.1  # under it the shear moves a head's slices by less than a voxel


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
        slices, step_mm = _sorted_evenly(slices)
        notes = [*self.notes, *([f"{copies} copies of slices were passed over"] if copies else [])]
        array = np.stack([_decode(one) for one in slices], axis=-1)  # (column, row, slice)
        array, padded = _padding_to_air(array, slices)
        notes += [f"{padded} padding voxels became air"] if padded else []
        affine = _affine(slices[0], step_mm)
        tilt = _tilt_degrees(slices[0], step_mm)
        origin = _origin(slices, self.identity, axial=slices_are_axial(affine))
        if tilt > TILT_MIN_DEGREES:
            array, affine = _upright(array, slices[0], step_mm)
            notes.append(f"a gantry tilt of {tilt:.1f} degrees was taken out by resampling")
        return oriented(array, affine, modality=slices[0].modality, origin=origin, notes=tuple(notes))


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
    if any(one.orientation is None or one.position_mm is None or not one.row_spacing_mm for one in slices):
        raise RefusedError(
            "geometry", "Orientation, position or pixel spacing is missing, so the slices have no place."
        )
    if len(slices) < SLICES_MIN:
        raise RefusedError("few_slices", f"{len(slices)} slices; {SLICES_MIN} are the least.")


def _without_copies(slices: tuple[Header, ...]) -> tuple[tuple[Header, ...], int]:
    """Drop files that repeat a slice under the same SOPInstanceUID; and how many they were."""
    kept = {one.sop or str(index): one for index, one in reversed(list(enumerate(slices)))}
    return tuple(reversed(kept.values())), len(slices) - len(kept)


def _sorted_evenly(slices: tuple[Header, ...]) -> tuple[tuple[Header, ...], np.ndarray]:
    """Sort along the normal; and the step from slice to slice in LPS mm, which a tilt may turn off the normal."""
    normal = _directions(slices[0])[2]
    ordered = tuple(sorted(slices, key=lambda one: float(np.dot(normal, one.position_mm or ()))))
    positions = np.array([one.position_mm for one in ordered])  # (slice, 3)
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    doubled = int((gaps < 0.01 * max(usual, 0.1)).sum())
    if doubled:
        raise RefusedError("duplicate_slices", f"{doubled} of {len(ordered)} slices lie where another one does.")
    worst = float(gaps[np.abs(gaps - usual).argmax()])
    if abs(worst - usual) > GAP_TOLERANCE * usual:
        missing = round(worst / usual) - 1
        if missing > 0 and abs(worst - (missing + 1) * usual) <= GAP_TOLERANCE * worst:
            raise RefusedError(
                "missing_slices", f"A gap of {worst:.2f} mm where {usual:.2f} is the rule: slices are missing."
            )
        raise RefusedError("uneven_slices", f"A gap of {worst:.2f} mm where {usual:.2f} mm is the rule.")
    return ordered, (positions[-1] - positions[0]) / (len(ordered) - 1)


def _directions(one: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors in LPS: along a row, along a column, and normal to both."""
    values = np.array(one.orientation, dtype=np.float64)
    row, column = values[:3] / np.linalg.norm(values[:3]), values[3:] / np.linalg.norm(values[3:])
    return row, column, np.cross(row, column)


def _affine(first: Header, step_mm: np.ndarray) -> np.ndarray:
    """Index (column, row, slice) to RAS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    row, column, _ = _directions(first)
    affine = np.eye(4)
    affine[:3, 0] = row * (first.column_spacing_mm or 0)
    affine[:3, 1] = column * (first.row_spacing_mm or 0)
    affine[:3, 2] = step_mm
    affine[:3, 3] = np.array(first.position_mm)
    return LPS_TO_RAS @ affine


def _tilt_degrees(first: Header, step_mm: np.ndarray) -> float:
    cosine = float(np.dot(_directions(first)[2], step_mm) / np.linalg.norm(step_mm))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _upright(array: np.ndarray, first: Header, step_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample a sheared stack (column, row, slice) so that its slices lie straight above each other, all of each.

    ITK knows no sheared grid: it is told the straight one, and an affine transform that shifts each slice back.
    """
    row, column, normal = _directions(first)
    gap_mm = float(np.dot(step_mm, normal))
    spacing = np.array([first.column_spacing_mm, first.row_spacing_mm, gap_mm])
    directions = np.stack([row, column, normal], axis=1)
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(list(first.position_mm or ()))
    shear = step_mm - gap_mm * normal  # in plane, mm a slice
    shift = np.rint(directions.T @ shear * (array.shape[2] - 1) / spacing).astype(
        int
    )  # voxels, last slice against first
    size = [n + abs(int(move)) for n, move in zip(array.shape, shift, strict=True)]
    origin = np.array(first.position_mm) + directions @ (np.minimum(shift, 0) * spacing)
    back = SimpleITK.AffineTransform(3)
    back.SetMatrix((np.eye(3) - np.outer(shear, normal) / gap_mm).ravel().tolist())
    back.SetCenter(list(first.position_mm or ()))
    air = float(AIR_HU if first.modality == "CT" else array.min())
    straight = SimpleITK.Resample(
        image, size, back, SimpleITK.sitkLinear, origin.tolist(), spacing.tolist(), directions.ravel().tolist(), air
    )
    return SimpleITK.GetArrayFromImage(straight).transpose(2, 1, 0), itk_affine(straight)


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
