"""DICOM series: slices grouped into stacks, sorted along their normal, decoded and placed in space."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volssl.data.checks import THRESHOLDS
from volssl.data.dicom.geometry import (
    TILT_MIN_DEGREES,
    even_step,
    sorted_along_normal,
    stack_affine,
    tilt_degrees,
    upright,
)
from volssl.data.dicom.headers import Header
from volssl.data.dicom.kinds import is_derived, refusal
from volssl.data.dicom.lines import SLICES_MIN, without_copies
from volssl.data.dicom.monochrome import stacked_as_shown
from volssl.data.dicom.packed import Piles, pack, unpack
from volssl.data.dicom.pixels import check_decodable, decoded
from volssl.data.dicom.stacks import bucket, has_place, stacks_of
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import Origin, RefusedError, Volume, in_c_order, oriented, slices_are_axial


@dataclass(frozen=True)
class Series:
    """A source of one volume that is many slices: of one series, with one orientation, size and spacing.

    Attributes:
        packed: the headers of its slices; `slices` unpacks them.
        first: the header of the first slice.
        count: how many slices there are, copies included.
        file_count: how many files.
        path: the file, or the folder that holds all slices.
        stamp: changes when a file does, or joins or leaves.
        part: what tells it from other stacks of its series and plane; private.
        notes: the same for the reader.
        refused: why they are no volume, where grouping them showed it.
    """

    packed: bytes
    first: Header
    count: int
    file_count: int
    path: Path
    stamp: str
    part: str = ""
    notes: tuple[str, ...] = ()
    refused: RefusedError | None = None

    @classmethod
    def of(
        cls, slices: Sequence[Header], part: str = "", notes: tuple[str, ...] = (), refused: RefusedError | None = None
    ) -> Series:
        """A stack of slices."""
        files = {(one.found.folder, one.found.name): one for one in slices}
        stamps = " ".join(sorted(f"{one.found.name} {one.stamp}" for one in files.values()))
        stamp = hashlib.sha256(stamps.encode("utf-8", "surrogateescape")).hexdigest()
        path = slices[0].found.path if len(files) == 1 else _shared_folder({folder for folder, _ in files})
        return cls(pack(slices), slices[0], len(slices), len(files), path, stamp, part, notes, refused)

    @property
    def slices(self) -> tuple[Header, ...]:
        """The headers of all slices."""
        return unpack(self.packed)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file it is made of, copies included."""
        return tuple(sorted({one.found.path for one in self.slices}))

    @property
    def shares_files(self) -> bool:
        """Whether another source may be made of the same files."""
        return self.first.frames > 1

    @property
    def voxels(self) -> int:
        """Number of voxels by the headers; 0 where they already rule the slices out."""
        if self.refused or refusal(self.first) or self.count < SLICES_MIN:
            return 0
        return self.first.rows * self.first.columns * self.count

    @property
    def stored_bytes_per_voxel(self) -> int:
        """Bytes that a voxel takes in the store."""
        return 2 if self.first.modality == "CT" else 4

    @property
    def identity(self) -> str:
        """What stays the same when the files move: UIDs and geometry; without a UID, the slices themselves."""
        first = self.first
        name = first.series or " ".join(sorted({one.sop or _digest(one.found.path) for one in self.slices}))
        orientation = " ".join(f"{value:.3f}" for value in first.orientation or ()).replace("-0.000", "0.000")
        spacing = f"{first.row_spacing_mm or 0:.4f} {first.column_spacing_mm or 0:.4f}"
        kind = "" if self.refused else " ".join(bucket(first)[3:])
        return " ".join([name, first.study, first.patient, orientation, spacing, kind, self.part])

    @property
    def source(self) -> str:
        """What names this source among all others; private."""
        return f"{self.path} {self.identity}"

    @property
    def says_modality(self) -> bool:
        """Whether the source itself tells CT from MR."""
        return True

    def read(self) -> Volume:
        """Sort, decode and stack the slices to RAS.

        Raises:
            RefusedError: the slices are of another kind, are missing, doubled or uneven, or cannot be decoded.
        """
        slices, notes = self._settled()
        step_mm = even_step(slices)
        affine = stack_affine(slices[0], step_mm)
        tilt = tilt_degrees(slices[0], step_mm)
        array, counts, more = stacked_as_shown(slices)
        notes += _notes(slices, counts) + more
        origin = _origin(slices, self.identity, axial=slices_are_axial(affine))
        if tilt > TILT_MIN_DEGREES:
            array, affine = upright(array, slices[0], step_mm)
            notes.append(f"a gantry tilt of {tilt:.1f} degrees was taken out by resampling")
        volume = oriented(array, affine, modality=slices[0].modality, origin=origin, notes=tuple(notes))
        volume = replace(volume, array=in_c_order(volume.array, array.dtype))
        if not slices_are_axial(affine):
            return volume
        lowest_mm = min(one.position_mm[2] for one in slices if one.position_mm)
        return replace(volume, first_slice_z_mm=lowest_mm, slice_step_z_mm=abs(float(step_mm[2])))

    def _settled(self) -> tuple[tuple[Header, ...], list[str]]:
        """The slices in order, without copies; and what is to be noted of it."""
        if self.refused:
            raise self.refused
        if refused := refusal(self.first):
            raise refused
        given = self.slices
        if not all(has_place(one) for one in given):
            raise RefusedError(
                "geometry", "Orientation, position or pixel spacing is missing or impossible, so slices have no place."
            )
        slices, copies = without_copies(given)
        check_decodable(slices)
        _check_count(slices)
        slices, pairs = sorted_along_normal(slices)
        slices, repeated = _without_doubles(slices, pairs)
        _check_count(slices)
        _check_size(slices)
        notes = list(self.notes)
        notes += [f"{copies} copies of slices were passed over"] if copies else []
        notes += [f"{repeated} slices with the pixels of another at their place were passed over"] if repeated else []
        return slices, notes


def grouped(headers: Iterable[Header]) -> list[Series]:
    """Part headers into stacks: by series UID, kind, size, plane; and by acquisition where slices interleave.

    Whatever headers say, this raises nothing: slices that cannot be grouped are a series that is refused.
    """
    piles, groups = Piles(), []
    for header in headers:
        try:
            piles.lay(bucket(header), header)
        except Exception as error:  # noqa: BLE001 - one archive's oddity does not stop the reading of all others
            refused = unforeseen(error, "Grouping the slices")
            groups.append(Series.of([header], f"{header.sop} {header.frame}", refused=refused))
    for members in piles.take():
        try:
            members.sort(key=_order)
            groups += [Series.of(stack.slices, stack.part, stack.notes, stack.refused) for stack in stacks_of(members)]
        except Exception as error:  # noqa: BLE001
            groups.append(Series.of(members, refused=unforeseen(error, "Grouping the slices")))
    return groups


def _shared_folder(folders: set[str]) -> Path:
    """The deepest folder that holds them all."""
    parents = [Path(folder) for folder in folders]
    shared = min(parents, key=lambda path: len(path.parts))
    while not all(parent.is_relative_to(shared) for parent in parents):
        shared = shared.parent
    return shared


def _order(one: Header) -> tuple[object, ...]:
    return one.position_mm or (), one.marks, one.found.folder, one.found.name, one.frame or 0


def _check_count(slices: tuple[Header, ...]) -> None:
    if len(slices) < SLICES_MIN:
        raise RefusedError("few_slices", f"{len(slices)} slices; {SLICES_MIN} are the least.")


def _check_size(slices: tuple[Header, ...]) -> None:
    shape = slices[0].columns, slices[0].rows, len(slices)
    if math.prod(shape) > THRESHOLDS.voxels_max:
        times = " x ".join(map(str, shape))
        raise RefusedError("too_large", f"The stack is {times}; {THRESHOLDS.voxels_max} voxels are the most.")


def _without_doubles(slices: tuple[Header, ...], pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[Header, ...], int]:
    """Drop slices that lie at the place of the one before and have the same pixels; and how many they were.

    Raises:
        RefusedError: the pixels differ.
    """
    for low, high in pairs:
        one, other = slices[low], slices[high]
        same_scale = (one.slope, one.intercept) == (other.slope, other.intercept)
        first, second = decoded([one, other])
        if not same_scale or not np.array_equal(first, second):
            raise RefusedError(
                "duplicate_slices",
                f"{len(pairs)} of {len(slices)} slices lie where another one with other pixels does, and no tag tells "
                "which belong together.",
            )
    dropped = {high for _, high in pairs}
    return tuple(one for index, one in enumerate(slices) if index not in dropped), len(dropped)


def _notes(slices: tuple[Header, ...], counts: Counter[str]) -> list[str]:
    """What the headers tell that a reader should know."""
    derived = sum(is_derived(one) for one in slices)
    padding, became = counts["padding"], "air" if slices[0].modality == "CT" else "the lowest value"
    unscaled = slices[0].modality == "CT" and not all(one.rescaled for one in slices)
    told = {
        f"{padding} padding voxels became {became}": padding,
        f"{derived} slices are derived or reformatted from others": derived,
        "the pixels were compressed with loss": any(one.lossy for one in slices),
        "no slope and intercept is told: the values were taken as they stand": unscaled,
    }
    return [note for note, holds in told.items() if holds]


def _origin(slices: tuple[Header, ...], identity: str, *, axial: bool) -> Origin:
    first = slices[0]
    upward = slices[-1].position_mm[2] >= first.position_mm[2] if first.position_mm and slices[-1].position_mm else True
    sops = tuple(one.slice_sop for one in (slices if upward else reversed(slices)))
    names = (*first.found.names[1:], first.study, first.accession)
    return Origin(
        names=tuple(filter(None, dict.fromkeys(names))),
        source_format="dicom",
        identity=identity,
        patient=first.patient,
        study=first.study,
        series=first.series,
        sops=sops if axial and all(sops) and len(set(sops)) == len(sops) else (),
        sex=first.sex,
        age_years=first.age_years,
        scanner=first.scanner,
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
