"""A simulated non-contrast head CT with known hemorrhages: a pure function of its seed and arguments."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volssl.simulate import compose
from volssl.simulate.brain import brain_fields
from volssl.simulate.lattice import Field, Fields, lattice_axes_mm
from volssl.simulate.lesions import CODES, TYPES, Lesion, draw_mass, draw_spill, draw_types, push_aside
from volssl.simulate.mimics import draw_spots
from volssl.simulate.patient import PREVALENCE, Patient, Scanner, Site, draw_patient, draw_pose, draw_scanner
from volssl.simulate.scanner import hardening, noise, reconstruct, table
from volssl.simulate.skull import skull_fields

FIELD_OF_VIEW_MM = (212.0, 248.0)
DRIFT_HU = 2.5  # deviation of a scanner's calibration
SUBSLICE_MM = 3.3  # slices thicker than this are averaged from thinner ones


@dataclass(frozen=True)
class Head:
    """One simulated study.

    Attributes:
        hu: (R, A, S) int16, Hounsfield units.
        mask: (R, A, S) uint8, 0 or the code of the hemorrhage there: 1 + its place in `TYPES`.
        cavity: (R, A, S) bool, the voxels wholly inside the skull.
        affine: voxel index to RAS mm, 4 x 4.
        spacing_mm: along R, A, S.
        types: the hemorrhages in it, in the order of `TYPES`; empty where there is none.
    """

    hu: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    cavity: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    sex: str
    age_years: int
    age_band: str
    scanner: str
    kernel: str
    site: str
    types: tuple[str, ...]

    @property
    def slices(self) -> list[int]:
        """Indices, from inferior, of the slices with blood in them."""
        return [int(i) for i in np.flatnonzero(self.mask.any(axis=(0, 1)))]


@dataclass(frozen=True)
class _Anatomy:
    """The lattice of one study, before a scanner samples it."""

    fields: Fields
    lesions: tuple[Lesion, ...]
    tissue: compose.Tissue


def simulate_head(
    seed: int,
    *,
    site: Site = "A",
    spacing_mm: float = 0.9,
    slice_mm: float | None = None,
    hemorrhage: bool | None = None,
    patient_seed: int | None = None,
) -> Head:
    """Simulate one head CT, the same for the same arguments on every machine and run.

    Args:
        seed: of the study: pose, protocol, hemorrhage, noise; and of the patient where `patient_seed` is not given.
        site: `B` has other scanners, thicker slices, more noise and older patients.
        spacing_mm: pixel size in plane; the anatomy does not depend on it.
        slice_mm: slice thickness; None takes one of the scanner's protocol.
        hemorrhage: whether there is any; None draws it with the site's prevalence.
        patient_seed: gives several studies one anatomy.

    Raises:
        ValueError: for a spacing that is not between 0.3 and 10 mm, or a site that is not known.
    """
    if site not in PREVALENCE:
        raise ValueError(f"site {site!r}: the simulated sites are {', '.join(PREVALENCE)}")
    if not (0.3 <= spacing_mm <= 10 and (slice_mm is None or 0.3 <= slice_mm <= 20)):
        raise ValueError(f"spacing {spacing_mm} mm, slices {slice_mm} mm: between 0.3 and 10 mm, 20 mm for slices")
    patient_seed = seed if patient_seed is None else patient_seed
    patient = draw_patient(_stream(patient_seed, f"patient {site}"), site)
    protocol = _stream(seed, f"scanner {site}")
    scanner = draw_scanner(protocol, site)
    usual_mm = float(protocol.choice(scanner.slices_mm))  # drawn in any case: what is drawn next must not depend on it
    thickness = usual_mm if slice_mm is None else slice_mm
    present = _stream(seed, "label").random() < PREVALENCE[site] if hemorrhage is None else hemorrhage
    types = draw_types(_stream(seed, "types")) if present else ()
    anatomy, rotation, shift = _anatomy(seed, patient_seed, patient, scanner, types)
    grid = _grid(protocol, spacing_mm, thickness, shift)
    spots = draw_spots(_stream(patient_seed, "spots"), patient, rotation, shift)
    clean, cavity, blood = compose.sample(anatomy.fields, anatomy.lesions, anatomy.tissue, spots, grid, SUBSLICE_MM)
    back = float(shift[1]) - patient.posterior_mm - patient.skull_mm - patient.scalp_mm
    clean = np.maximum(clean, -1000 + table(protocol, grid.r_mm, grid.a_mm, back)[None])
    image = reconstruct(clean, scanner, spacing_mm)
    dose, drift_hu = np.exp(protocol.normal(0, 0.2)), protocol.normal(0, DRIFT_HU)
    image += noise(_stream(seed, "noise"), image.shape, scanner, spacing_mm, thickness) * dose + drift_hu
    hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return Head(
        hu=np.ascontiguousarray(hu.transpose(2, 1, 0)),
        mask=np.ascontiguousarray(_mask(blood, anatomy.lesions).transpose(2, 1, 0)),
        cavity=np.ascontiguousarray(cavity.transpose(2, 1, 0) > 0.98),
        affine=grid.affine,
        spacing_mm=(spacing_mm, spacing_mm, thickness),
        sex=patient.sex,
        age_years=patient.age_years,
        age_band=patient.age_band,
        scanner=scanner.name,
        kernel=scanner.kernel,
        site=site,
        types=types,
    )


def _stream(seed: int, subject: str) -> np.random.Generator:
    """A generator of its own for each subject, so that a change to one draw leaves the others as they are."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(subject.encode())]))


def _anatomy(
    seed: int, patient_seed: int, patient: Patient, scanner: Scanner, types: tuple[str, ...]
) -> tuple[_Anatomy, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All lattice fields of a study, and how the head lies."""
    rotation, shift = draw_pose(_stream(seed, "pose"))
    r, a, s = lattice_axes_mm()
    turn, move = rotation.astype(np.float32), shift.astype(np.float32)
    x, y, z = (turn[0, i] * (r - move[0]) + turn[1, i] * (a - move[1]) + turn[2, i] * (s - move[2]) for i in range(3))
    skull = skull_fields(_stream(patient_seed, "skull"), patient, x, y, z)
    rng = _stream(seed, "lesions")
    masses = [
        draw_mass(rng, kind, x, y, z, skull) for kind in types if kind in ("subdural", "epidural", "intraparenchymal")
    ]
    within = skull["inner"]
    for lesion in masses:
        if lesion.kind != "intraparenchymal":
            within = np.minimum(within, -lesion.depth)
    pushed = push_aside(masses, x, y, z)
    brain = brain_fields(_stream(patient_seed, "brain"), patient, *pushed, within)
    spills = [draw_spill(rng, k, *pushed, a, brain) for k in types if k in ("subarachnoid", "intraventricular")]
    tissue = compose.draw_tissue(_stream(patient_seed, "tissue"), patient)
    fields = (
        skull
        | brain
        | compose.vessels(_stream(patient_seed, "vessels"), skull, brain, y, z)
        | {"harden": hardening(_stream(seed, "beam"), scanner, skull, x, y, z)}
    )
    return _Anatomy(fields, tuple(masses + spills), tissue), rotation, shift


def _grid(rng: np.random.Generator, spacing_mm: float, slice_mm: float, shift: npt.NDArray[np.float64]) -> compose.Grid:
    """Where the voxels of the scan lie; how far down it reaches varies."""
    columns, rows = (int(np.ceil(extent / spacing_mm)) for extent in FIELD_OF_VIEW_MM)
    low, high = float(shift[2]) - rng.uniform(62, 84), float(shift[2]) + rng.uniform(92, 100)
    count = int(np.ceil((high - low) / slice_mm))
    r_mm = (np.arange(columns) - (columns - 1) / 2) * spacing_mm
    a_mm = (np.arange(rows) - (rows - 1) / 2) * spacing_mm
    s_mm = low + slice_mm * (np.arange(count) + 0.5)
    affine = np.diag([spacing_mm, spacing_mm, slice_mm, 1.0])
    affine[:3, 3] = np.round(np.array([r_mm[0], a_mm[0], s_mm[0]]) + rng.uniform([-8, -8, -150], [8, 8, 150]), 3)
    return compose.Grid(r_mm, a_mm, s_mm, slice_mm, affine)


def _mask(blood: Field, lesions: tuple[Lesion, ...]) -> npt.NDArray[np.uint8]:
    """Codes (S, A, R) from the lesions' shares (lesions, S, A, R); each lesion keeps four voxels at least."""
    mask = np.zeros(blood.shape[1:], np.uint8)
    if not lesions:
        return mask
    codes = np.array([CODES[lesion.kind] for lesion in lesions], np.uint8)
    mask[...] = np.where(blood.max(axis=0) >= 0.45, codes[blood.argmax(axis=0)], 0)
    for share, code in zip(blood, codes, strict=True):
        if (mask == code).sum() < 4:
            mask.flat[np.argpartition(share.ravel(), -4)[-4:]] = code
    return mask


__all__ = ["TYPES", "Head", "simulate_head"]
