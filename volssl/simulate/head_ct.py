"""A simulated non-contrast head CT with known hemorrhages: a pure function of its seed and arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volssl.simulate import compose
from volssl.simulate.brain import brain_fields
from volssl.simulate.lattice import Field, Fields, head_axes_mm, lattice_axes_mm
from volssl.simulate.lesions import CODES, TYPES, Lesion, draw_mass, draw_spill, draw_types, push_aside
from volssl.simulate.mimics import draw_spots
from volssl.simulate.patient import PREVALENCE, Patient, Scanner, Site, draw_patient, draw_pose, draw_scanner
from volssl.simulate.scan import SimulatedScan, check_arguments, draw_grid, stream, to_ras
from volssl.simulate.scanner import hardening, noise, reconstruct, table
from volssl.simulate.skull import skull_fields

FIELD_OF_VIEW_MM = (212.0, 248.0)
DRIFT_HU = 2.5  # deviation of a scanner's calibration
SUBSLICE_MM = 3.3  # slices thicker than this are averaged from thinner ones


@dataclass(frozen=True, kw_only=True)
class Head(SimulatedScan):
    """One simulated study.

    Attributes:
        hu: (R, A, S) int16, Hounsfield units.
        mask: (R, A, S) uint8, 0 or the code of the hemorrhage there: 1 + its place in `TYPES`.
        types: the hemorrhages in it, in the order of `TYPES`; empty where there is none.
    """

    hu: npt.NDArray[np.int16]
    scanner: str
    kernel: str
    types: tuple[str, ...]


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
    check_arguments(site, spacing_mm, slice_mm)
    patient_seed = seed if patient_seed is None else patient_seed
    patient = draw_patient(stream(patient_seed, f"patient {site}"), site)
    protocol = stream(seed, f"scanner {site}")
    scanner = draw_scanner(protocol, site)
    usual_mm = float(protocol.choice(scanner.slices_mm))  # drawn in any case: what is drawn next must not depend on it
    thickness = usual_mm if slice_mm is None else slice_mm
    present = stream(seed, "label").random() < PREVALENCE[site] if hemorrhage is None else hemorrhage
    types = draw_types(stream(seed, "types")) if present else ()
    anatomy, rotation, shift = _anatomy(seed, patient_seed, patient, scanner, types)
    grid = draw_grid(
        protocol,
        shift,
        spacing_mm=spacing_mm,
        slice_mm=thickness,
        field_of_view_mm=FIELD_OF_VIEW_MM,
        down_mm=(62, 84),
        up_mm=(92, 100),
        away_mm=(8, 8, 150),
    )
    spots = draw_spots(stream(patient_seed, "spots"), patient, rotation, shift)
    clean, cavity, blood = compose.sample(anatomy.fields, anatomy.lesions, anatomy.tissue, spots, grid, SUBSLICE_MM)
    back = float(shift[1]) - patient.posterior_mm - patient.skull_mm - patient.scalp_mm
    clean = np.maximum(clean, -1000 + table(protocol, grid.r_mm, grid.a_mm, back)[None])
    image = reconstruct(clean, scanner, spacing_mm)
    dose, drift_hu = np.exp(protocol.normal(0, 0.2)), protocol.normal(0, DRIFT_HU)
    image += noise(stream(seed, "noise"), image.shape, scanner, spacing_mm, thickness) * dose + drift_hu
    hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return Head(
        hu=to_ras(hu),
        mask=to_ras(_mask(blood, anatomy.lesions)),
        cavity=to_ras(cavity > 0.98),
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


def _anatomy(
    seed: int, patient_seed: int, patient: Patient, scanner: Scanner, types: tuple[str, ...]
) -> tuple[_Anatomy, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All lattice fields of a study, and how the head lies."""
    rotation, shift = draw_pose(stream(seed, "pose"))
    x, y, z = head_axes_mm(rotation, shift)
    skull = skull_fields(stream(patient_seed, "skull"), patient, x, y, z)
    rng = stream(seed, "lesions")
    masses = [
        draw_mass(rng, kind, x, y, z, skull) for kind in types if kind in ("subdural", "epidural", "intraparenchymal")
    ]
    within = skull["inner"]
    for lesion in masses:
        if lesion.kind != "intraparenchymal":
            within = np.minimum(within, -lesion.depth)
    pushed = push_aside(masses, x, y, z)
    brain = brain_fields(stream(patient_seed, "brain"), patient, *pushed, within)
    spills = [
        draw_spill(rng, k, *pushed, lattice_axes_mm()[1], brain)
        for k in types
        if k in ("subarachnoid", "intraventricular")
    ]
    tissue = compose.draw_tissue(stream(patient_seed, "tissue"), patient)
    fields = (
        skull
        | brain
        | compose.vessels(stream(patient_seed, "vessels"), skull, brain, y, z)
        | {"harden": hardening(stream(seed, "beam"), scanner, skull, x, y, z)}
    )
    return _Anatomy(fields, tuple(masses + spills), tissue), rotation, shift


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
