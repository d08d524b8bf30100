"""A simulated brain MR, T1-weighted after contrast, with known metastases: a pure function of its arguments."""

from __future__ import annotations

import zlib
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
from volssl.simulate.lattice import Field, Fields, lattice_axes_mm
from volssl.simulate.patient import Patient, Site, draw_patient, draw_pose
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


@dataclass(frozen=True)
class BrainMR:
    """One simulated study.

    Attributes:
        signal: (R, A, S) int16, in units of no meaning, none below 0; 0 outside the brain where it is stripped.
        mask: (R, A, S) uint8, 0 or the number of the metastasis there, its core with it and edema without.
        cavity: (R, A, S) bool, the voxels wholly inside the skull; of the brain as stripped where it is.
        affine: voxel index to RAS mm, 4 x 4.
        spacing_mm: along R, A, S.
        lesions: the metastases that the scan holds.
    """

    signal: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    cavity: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    sex: str
    age_years: int
    age_band: str
    scanner: MRScanner
    site: str
    stripped: bool
    lesions: tuple[Lesion, ...]

    @property
    def slices(self) -> list[int]:
        """Indices, from inferior, of the slices with a metastasis in them."""
        return [int(i) for i in np.flatnonzero(self.mask.any(axis=(0, 1)))]


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
    if site not in PREVALENCE:
        raise ValueError(f"site {site!r}: the simulated sites are {', '.join(PREVALENCE)}")
    if not (0.3 <= spacing_mm <= 10 and (slice_mm is None or 0.3 <= slice_mm <= 20)):
        raise ValueError(f"spacing {spacing_mm} mm, slices {slice_mm} mm: between 0.3 and 10 mm, 20 mm for slices")
    patient_seed = seed if patient_seed is None else patient_seed
    patient = draw_patient(_stream(patient_seed, f"patient {site}"), site)
    protocol = _stream(seed, f"scanner {site}")
    scanner = draw_mr_scanner(protocol, site)
    usual_mm = float(protocol.choice(scanner.slices_mm))  # drawn in any case: what is drawn next must not depend on it
    rotation, shift = draw_pose(_stream(seed, "pose"))
    grid = _grid(protocol, spacing_mm, usual_mm if slice_mm is None else slice_mm, shift)
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
        signal=_ras(np.clip(np.rint(image), 0, 32767).astype(np.int16)),
        mask=_ras(mask),
        cavity=_ras(inside),
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


def _ras(volume: np.ndarray) -> np.ndarray:
    """(S, A, R) -> (R, A, S)."""
    return np.ascontiguousarray(volume.transpose(2, 1, 0))


def _stream(seed: int, subject: str) -> np.random.Generator:
    """A generator of its own for each subject; none is a head CT's, so that no patient of one is in the other."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(f"brain mr {subject}".encode())]))


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
    r, a, s = lattice_axes_mm()
    turn, move = rotation.astype(np.float32), shift.astype(np.float32)
    x, y, z = (turn[0, i] * (r - move[0]) + turn[1, i] * (a - move[1]) + turn[2, i] * (s - move[2]) for i in range(3))
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


def _grid(rng: np.random.Generator, spacing_mm: float, slice_mm: float, shift: npt.NDArray[np.float64]) -> compose.Grid:
    """Where the voxels of the scan lie; how far down it reaches varies."""
    columns, rows = (int(np.ceil(extent / spacing_mm)) for extent in FIELD_OF_VIEW_MM)
    low, high = float(shift[2]) - rng.uniform(70, 86), float(shift[2]) + rng.uniform(90, 98)
    count = int(np.ceil((high - low) / slice_mm))
    r_mm = (np.arange(columns) - (columns - 1) / 2) * spacing_mm
    a_mm = (np.arange(rows) - (rows - 1) / 2) * spacing_mm
    s_mm = low + slice_mm * (np.arange(count) + 0.5)
    affine = np.diag([spacing_mm, spacing_mm, slice_mm, 1.0])
    affine[:3, 3] = np.round(np.array([r_mm[0], a_mm[0], s_mm[0]]) + rng.uniform([-8, -8, -20], [8, 8, 20]), 3)
    return compose.Grid(r_mm, a_mm, s_mm, slice_mm, affine)


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
