"""A simulated brain MR, T1-weighted after contrast, with known metastases: a pure function of its arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volssl.simulate import compose
from volssl.simulate.brain import brain_fields
from volssl.simulate.brain_mr_masses import Mass, draw_lookalikes, draw_metastases, lay_masses
from volssl.simulate.brain_mr_scanner import (
    UNITS,
    MRScanner,
    bias_field,
    draw_mr_scanner,
    receive,
)
from volssl.simulate.brain_mr_tissue import Scan, Signals, draw_signals, sample_scan
from volssl.simulate.brain_mr_vessels import Tubes, draw_vessels, lay_tubes
from volssl.simulate.lattice import Field, Fields, head_axes_mm
from volssl.simulate.patient import Patient, Site, draw_patient, draw_pose
from volssl.simulate.scan import SimulatedScan, check_arguments, draw_grid, stream, to_ras
from volssl.simulate.skull import skull_fields

FIELD_OF_VIEW_MM = (216.0, 248.0)
SUBSLICE_MM = 1.6  # anatomy in thicker slices is averaged from thinner ones
PREVALENCE: dict[Site, float] = {"A": 0.75, "B": 0.60}  # of studies with metastases
HELD = 0.4  # share of a voxel from which on it is the lesion's in the mask
FEWEST_VOXELS = 2  # that a lesion has in the mask


@dataclass(frozen=True)
class Lesion:
    """One metastasis: `number` in the mask, size, `solid` or `ring`, width of the edema, and the slices it is in."""

    number: int
    diameter_mm: float
    kind: str
    edema_mm: float
    slices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BrainMR(SimulatedScan):
    """One simulated study.

    Attributes:
        signal: (R, A, S) int16, in units of no meaning, none below 0; 0 outside the brain where it is stripped.
        mask: (R, A, S) uint8, 0 or the number of the metastasis there, its core with it and edema without.
        cavity: (R, A, S) bool, the voxels wholly inside the skull; of the brain as stripped where it is.
        lesions: the metastases that the scan holds.
    """

    signal: npt.NDArray[np.int16]
    scanner: MRScanner
    stripped: bool
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class _Study:
    """What lies in the scanner: the lattice, what is too small for it, and this study's signals."""

    fields: Fields
    widths: compose.Tissue
    signals: Signals
    vessels: Tubes
    masses: list[Mass]


def simulate_brain_mr(
    seed: int,
    *,
    site: Site = "A",
    spacing_mm: float = 1.0,
    slice_mm: float | None = None,
    stripped: bool = False,
    metastasis: bool | None = None,
    patient_seed: int | None = None,
) -> BrainMR:
    """Simulate one brain MR, the same for the same arguments on every machine and run.

    Args:
        seed: of the study: pose, protocol, metastases, noise; and of the patient where `patient_seed` is not given.
        site: `B` has 1.5 T, other sequences, less enhancement, more noise, thicker slices and older patients.
        spacing_mm: pixel size in plane; the anatomy does not depend on it.
        slice_mm: slice thickness; None takes one of the scanner's protocol.
        stripped: whether all outside the brain is set to 0, as skull stripping does.
        metastasis: whether there is any; None draws it with the site's prevalence.
        patient_seed: gives several studies one anatomy.

    Raises:
        ValueError: for a spacing that is not between 0.3 and 10 mm, or a site that is not known.
    """
    check_arguments(site, spacing_mm, slice_mm)
    patient_seed = seed if patient_seed is None else patient_seed
    patient = draw_patient(_stream(patient_seed, f"patient {site}"), site)
    protocol = _stream(seed, f"scanner {site}")
    scanner = draw_mr_scanner(protocol, site)
    usual_mm = float(protocol.choice(scanner.slices_mm))  # drawn in any case: what is drawn next must not depend on it
    rotation, shift = draw_pose(_stream(seed, "pose"))
    grid = draw_grid(
        protocol,
        shift,
        spacing_mm=spacing_mm,
        slice_mm=usual_mm if slice_mm is None else slice_mm,
        field_of_view_mm=FIELD_OF_VIEW_MM,
        down_mm=(70, 86),
        up_mm=(90, 98),
        away_mm=(8, 8, 20),
    )
    present = _stream(seed, "label").random() < PREVALENCE[site] if metastasis is None else metastasis
    study = _study(seed, patient_seed, patient, scanner, present, rotation, shift)
    scan = sample_scan(study.fields, study.widths, study.signals, grid, SUBSLICE_MM)
    share, weighted = lay_tubes(study.vessels, grid)
    scan.signal[...] += scan.cavity * (weighted - share * scan.signal)
    held = lay_masses(scan, study.masses, grid)
    mask, lesions = _mask(study.masses, held, scan, stripped)
    units = float(np.exp(protocol.uniform(*np.log(UNITS))))
    dose = float(np.exp(protocol.normal(0, 0.2)))
    seen = scan.signal * bias_field(_stream(seed, "bias"), scanner, grid)
    image = receive(_stream(seed, "noise"), seen, scanner, grid, dose) * np.float32(units)
    inside = scan.cavity > 0.98
    if stripped:
        inside = scan.kept > 0.5
        image *= inside
    return BrainMR(
        signal=to_ras(np.clip(np.rint(image), 0, 32767).astype(np.int16)),
        mask=to_ras(mask),
        cavity=to_ras(inside),
        affine=grid.affine,
        spacing_mm=(spacing_mm, spacing_mm, grid.slice_mm),
        sex=patient.sex,
        age_years=patient.age_years,
        age_band=patient.age_band,
        scanner=scanner,
        site=site,
        stripped=stripped,
        lesions=lesions,
    )


def _stream(seed: int, subject: str) -> np.random.Generator:
    """A generator of its own for each subject; none is a head CT's, so that no patient of one is in the other."""
    return stream(seed, f"brain mr {subject}")


def _study(
    seed: int,
    patient_seed: int,
    patient: Patient,
    scanner: MRScanner,
    present: bool,
    rotation: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
) -> _Study:
    """All of a study that does not depend on the grid it is sampled on."""
    x, y, z = head_axes_mm(rotation, shift)
    skull = skull_fields(_stream(patient_seed, "skull"), patient, x, y, z)
    brain = brain_fields(_stream(patient_seed, "brain"), patient, x, y, z, skull["inner"])
    brain |= compose.vessels(_stream(patient_seed, "sinuses"), skull, brain, y, z)
    signals = draw_signals(_stream(seed, "signals"), patient, scanner)
    vessels = draw_vessels(
        _stream(patient_seed, "vessels"),
        patient,
        skull,
        brain,
        rotation,
        shift,
        venous=signals.venous,
        arterial=signals.arterial,
    )
    masses = draw_lookalikes(_stream(patient_seed, "masses"), patient, skull, rotation, shift, signals.venous)
    if present:
        masses += draw_metastases(_stream(seed, "metastases"), skull, brain, signals.venous)
    widths = compose.draw_tissue(_stream(patient_seed, "tissue"), patient)
    return _Study(skull | brain, widths, signals, vessels, masses)


def _mask(
    masses: list[Mass], held: list[tuple[tuple[slice, slice, slice], Field]], scan: Scan, stripped: bool
) -> tuple[npt.NDArray[np.uint8], tuple[Lesion, ...]]:
    """Numbers (S, A, R) of the metastases, and what is told of each; one outside of the scan is left out."""
    mask = np.zeros(scan.signal.shape, np.uint8)
    lesions: list[Lesion] = []
    for mass, (box, share) in zip(masses, held, strict=True):
        if not mass.metastasis:
            continue
        seen = share * (scan.kept[box] > 0.5) if stripped else share
        if seen.size < FEWEST_VOXELS or seen.max() < 0.1:
            continue
        inside = seen >= HELD
        if inside.sum() < FEWEST_VOXELS:
            inside.flat[np.argpartition(seen.ravel(), -FEWEST_VOXELS)[-FEWEST_VOXELS:]] = True
        number = len(lesions) + 1
        mask[box][inside & (mask[box] == 0)] = number
        where = tuple(int(i) + box[0].start for i in np.flatnonzero(inside.any(axis=(1, 2))))
        lesions.append(Lesion(number, round(mass.diameter_mm, 1), mass.kind, round(mass.edema_mm, 1), where))
    return mask, tuple(lesions)


__all__ = ["PREVALENCE", "BrainMR", "Lesion", "simulate_brain_mr"]
