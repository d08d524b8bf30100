"""One volume on its way into the store: its voxels in RAS, where it came from, and why it may be refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import nibabel as nib
import numpy as np
import numpy.typing as npt

PATIENT_UNKNOWN = "patient unknown: the study stands for it"  # a note


class RefusedError(Exception):
    """A source that cannot become a volume: a reason code, and a sentence that names neither path nor patient."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence


@dataclass(frozen=True)
class Origin:
    """What the source says of itself, unhashed: never written but into `paths.csv`.

    Attributes:
        names: everything a label table may call the study: file stem, folders, StudyInstanceUID, AccessionNumber.
        source_format: `dicom`, `nifti`, `nrrd` or `metaimage`.
        identity: what stays the same when the files move; empty where only the voxels can tell.
        patient: the archive's patient id; empty where unknown.
        study, series: their UIDs; empty where unknown.
        sops: SOPInstanceUIDs from inferior to superior, where the slices are axial; else empty.
        age_years: whole years, capped at 90.
        sidecar_modality: what a JSON file beside the volume says; empty where there is none.
        name_modality: `CT` or `MR` where the file's or a folder's name holds a token that says so; else empty.
    """

    names: tuple[str, ...]
    source_format: str
    identity: str = ""
    patient: str = ""
    study: str = ""
    series: str = ""
    sops: tuple[str, ...] = ()
    sex: str | None = None
    age_years: int | None = None
    scanner: str | None = None
    sidecar_modality: str = ""
    name_modality: str = ""


@dataclass(frozen=True)
class Volume:
    """One volume in RAS orientation.

    Attributes:
        array: (R, A, S); Hounsfield units for CT.
        affine: voxel index to RAS millimetres, 4 x 4.
        modality: `CT` or `MR`, or None where the source does not say.
        first_slice_z_mm: RAS z of the source's own first voxel (ImagePositionPatient in DICOM) in the slice S = 0:
            what a label means that names a slice by its position.
        slice_step_z_mm: from there to the next slice; `affine[2, 2]`, but for a tilt that was taken out.
        notes: sentences about what was unusual and was accepted.
    """

    array: np.ndarray
    affine: np.ndarray
    modality: str | None
    origin: Origin
    first_slice_z_mm: float
    slice_step_z_mm: float
    notes: tuple[str, ...] = field(default=())

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along R, A, S in mm."""
        r, a, s = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(r), float(a), float(s)

    def read(self, box: Sequence[Sequence[int]] | None = None) -> np.ndarray:
        """A box of whole voxels, (1, R, A, S), or all of it, as a stored scan gives it."""
        sides = (slice(None),) * 3 if box is None else tuple(slice(first, last) for first, last in box)
        return self.array[np.newaxis][(slice(None), *sides)]

    def noting(self, *notes: str) -> Volume:
        """The same volume with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def oriented(
    array: np.ndarray, affine: np.ndarray, *, modality: str | None, origin: Origin, notes: tuple[str, ...] = ()
) -> Volume:
    """Turn a source's array to the nearest RAS axes; voxels stay where they are in space, none is resampled.

    Args:
        array: three axes in any order.
        affine: index of `array` to RAS millimetres, 4 x 4; may be oblique.

    Raises:
        RefusedError: the affine has no inverse.
    """
    if not has_inverse(affine):
        raise RefusedError("geometry", "The affine has no inverse, so the volume has no place in space.")
    turn = nib.orientations.io_orientation(affine)
    if np.isnan(turn).any():
        raise RefusedError("geometry", "The affine does not tell which axis is which.")
    ras = nib.orientations.apply_orientation(array, turn)
    ras_affine = affine @ nib.orientations.inv_ornt_aff(turn, array.shape)
    slice_axis = int(np.flatnonzero(turn[:, 0] == 2)[0])
    first = np.zeros(4)
    first[3] = 1
    first[slice_axis] = 0 if turn[slice_axis, 1] > 0 else array.shape[slice_axis] - 1
    z_mm, step_mm = float((affine @ first)[2]), float(ras_affine[2, 2])
    return Volume(ras, ras_affine, modality, origin, z_mm, step_mm, notes)


def in_c_order(array: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """The same values (R, A, S), copied plane by plane: from another order that is far faster than NumPy's own copy."""
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    whole = np.empty(array.shape, dtype)
    for plane in planes(array):
        whole[plane] = array[plane]
    return whole


def planes(array: np.ndarray) -> Iterator[tuple[slice | int, ...]]:
    """Where the planes lie that hold the axis which is dense in the array's memory, and the one that is in C order."""
    apart = np.abs(array.strides)
    if apart[1] < apart[0]:
        yield from ((r,) for r in range(array.shape[0]))
    else:
        yield from ((slice(None), a) for a in range(array.shape[1]))


def has_inverse(affine: np.ndarray) -> bool:
    """Whether an affine gives each voxel a place of its own."""
    return bool(np.isfinite(affine).all()) and abs(float(np.linalg.det(affine[:3, :3]))) >= 1e-9


def slices_are_axial(affine: np.ndarray) -> bool:
    """Whether the third axis of a source runs nearer to superior than to anything else."""
    return int(nib.orientations.io_orientation(affine)[2, 0]) == 2
