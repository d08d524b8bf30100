"""What enhances and is no vessel: metastases, solid or ring, with edema; and what looks like one and is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volssl.simulate.brain_mr_tissue import Scan
from volssl.simulate.compose import Grid
from volssl.simulate.lattice import START_MM, STEP_MM, Field, Fields
from volssl.simulate.patient import Patient

Points = npt.NDArray[np.floating[Any]]
DIAMETER_MM = (2.0, 25.0)
TYPICAL_MM = (7.8, 0.30, 0.50)  # median diameter, deviation of its logarithm among patients and among lesions of one
COUNTS = (((1, 1), 0.22), ((2, 3), 0.26), ((4, 9), 0.31), ((10, 24), 0.21))  # lesions of a patient: range, chance
PLACES = (("junction", 0.76), ("cerebellum", 0.16), ("deep", 0.06), ("stem", 0.02))
PARTS_MM = 1.0  # masses are laid into pieces of a voxel of this size at most, and averaged
MENINGIOMA_CHANCE = 0.07
FARTHEST_EDEMA = 1.6  # times its width: how far its fingers reach


@dataclass(frozen=True)
class Mass:
    """A lumpy ellipsoid in scanner mm.

    Attributes:
        center_mm: along R, A, S.
        diameter_mm: of the sphere of its size.
        to_ball: 3 x 3, brings offsets from the center to a ball's.
        waves: (3, waves) directions and counts of the lumps on it.
        phases: (waves,) of them.
        roughness: height of the lumps as a share of the radius.
        rim_mm: of what enhances; 0 where the whole does.
        signal: of what enhances, where white matter's is 1.
        core: signal of what does not, inside a rim.
        edema_mm: how far the dark swelling reaches, 0 for none.
        metastasis: False for what is none, and is in no label.
        anywhere: whether it may lie outside the brain, within the skull.
    """

    center_mm: Points
    diameter_mm: float
    to_ball: Points
    waves: Points
    phases: Points
    roughness: float
    rim_mm: float
    signal: float
    core: float
    edema_mm: float
    metastasis: bool = True
    anywhere: bool = False

    @property
    def kind(self) -> str:
        return "ring" if self.rim_mm else "solid"


def draw_metastases(rng: np.random.Generator, skull: Fields, brain: Fields, venous: float) -> list[Mass]:
    """A patient's metastases, mostly where grey and white matter meet; no two of them touch."""
    (low, high), _ = COUNTS[int(rng.choice(len(COUNTS), p=[chance for _, chance in COUNTS]))]
    typical = np.log(TYPICAL_MM[0]) + rng.normal(0, TYPICAL_MM[1])
    places = _places(skull, brain)
    found: list[Mass] = []
    for _ in range(int(rng.integers(low, high + 1))):
        diameter = 0.0
        while not DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]:
            diameter = float(np.exp(typical + rng.normal(0, TYPICAL_MM[2])))
        for _ in range(20):
            place = str(rng.choice([name for name, _ in PLACES], p=[chance for _, chance in PLACES]))
            center = _knot(rng, places[place])
            apart = (np.linalg.norm(center - m.center_mm) - (diameter + m.diameter_mm) / 2 for m in found)
            if all(gap > 2.5 for gap in apart):
                found.append(_metastasis(rng, center, diameter, venous))
                break
    return found


def draw_lookalikes(
    rng: np.random.Generator,
    patient: Patient,
    skull: Fields,
    rotation: Points,
    shift_mm: Points,
    venous: float,
) -> list[Mass]:
    """What enhances in healthy people: choroid plexus, pituitary and pineal gland; and by chance a meningioma."""
    wide = patient.vault_mm[0] / 68 * (0.94 + 0.16 * patient.atrophy)
    masses: list[Mass] = []

    def blob(place: tuple[float, float, float], spread_mm: float, diameter_mm: float, share: float) -> Mass:
        center = rotation @ rng.normal(place, spread_mm) + shift_mm
        signal = 1 + (venous - 1) * share
        mass = _mass(rng, center, diameter_mm * float(np.exp(rng.normal(0, 0.2))), signal, roughness=0.22)
        masses.append(mass)
        return mass

    size = float(np.exp(rng.normal(np.log(3.4), 0.3)))
    share = rng.uniform(0.45, 0.9)
    for side in (-1, 1):
        for t in np.linspace(0, 1, 7):  # along the body and the atrium of the lateral ventricle
            place = (side * wide * (11 + 11 * t), -8 - 34 * t, 19 - 9 * t)
            blob(place, 0.7, size * (0.7 + 0.6 * t), share)
        for _ in range(int(rng.integers(1, 4))):  # the glomus
            blob((23 * side * wide, -41, 6), 1.6, 1.7 * size, share)
        blob((5 * side, -40, -31), 0.8, 0.8 * size, share)  # in the fourth ventricle
        if rng.random() < 0.12:  # a xanthogranuloma: the plexus as a ring
            center = rotation @ rng.normal((23 * side * wide, -41, 7), 1.0) + shift_mm
            diameter = float(rng.uniform(5, 10))
            masses.append(_mass(rng, center, diameter, 1 + (venous - 1) * share, rim_mm=1.5, core=0.5, roughness=0.1))
    blob((0, 6, -31), 0.5, rng.uniform(7, 11), 0.8)  # the pituitary gland
    blob((0, 6, -25), 0.3, 2.6, 0.7)  # and its stalk
    blob((0, -30, 3), 0.6, rng.uniform(3, 7), rng.uniform(0.3, 0.9))  # the pineal gland
    if rng.random() < MENINGIOMA_CHANCE:
        masses.append(_meningioma(rng, skull, venous))
    return [Mass(**{**vars(m), "metastasis": False, "anywhere": True}) for m in masses]


def _meningioma(rng: np.random.Generator, skull: Fields, venous: float) -> Mass:
    near = (np.abs(skull["vault"] - 2) < 2) & (skull["base"] > 15)
    diameter = float(rng.uniform(7, 22))
    return _mass(rng, _knot(rng, near.astype(float)), diameter, 1 + (venous - 1) * rng.uniform(0.6, 1.0), roughness=0.1)


def _places(skull: Fields, brain: Fields) -> dict[str, Field]:
    """Weights of the lattice's knots (S, R, A) for each place of `PLACES`."""
    beyond = np.maximum(np.abs(brain["gyri"]) - 1, 0)
    deeper = np.maximum(brain["brain"] - brain["reach"], 0)
    pia = np.minimum(brain["brain"], np.sqrt(beyond**2 + deeper**2))  # depth below the pia
    above = np.maximum(brain["tent"], -brain["tent_edge"] - 4) > 3
    tissue = (brain["brain"] > 3) & (brain["ventricle"] < -3) & (brain["cistern"] < -2) & (brain["sinus"] < -1)
    tissue &= (np.abs(brain["middle"]) > 3) & (skull["base"] > 6)
    stem = brain["stem"] > 0
    junction = np.exp(-(((pia - 4) / 2.5) ** 2)) + 0.06
    return {
        "junction": junction * (tissue & above & ~stem & (brain["nuclei"] < -2)),
        "cerebellum": (tissue & ~above & ~stem).astype(float),
        "deep": ((brain["brain"] > 5) & (brain["nuclei"] > 0) & (brain["ventricle"] < -3)).astype(float),
        "stem": (brain["stem"] > 2).astype(float) * (skull["base"] > 6),
    }


def _knot(rng: np.random.Generator, weights: Field) -> Points:
    """A point in scanner mm, in a lattice cell (S, R, A) drawn by weight."""
    edges = np.cumsum(weights.ravel(), dtype=np.float64)
    spot = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    s, r, a = np.unravel_index(spot, weights.shape)
    start = np.array([START_MM["R"], START_MM["A"], START_MM["S"]])
    return np.asarray(start + STEP_MM * (np.array([r, a, s]) + rng.uniform(-0.4, 0.4, 3)))


def _metastasis(rng: np.random.Generator, center: Points, diameter_mm: float, venous: float) -> Mass:
    signal = 1 + (venous - 1) * float(rng.uniform(0.35, 1.0))
    ring = rng.random() < np.clip((diameter_mm - 4.5) / 10, 0, 0.6)
    edema = rng.random() < np.clip((diameter_mm - 3) / 8, 0, 0.75)
    rim_mm = float(rng.uniform(1.2, max(1.5, 0.22 * diameter_mm)))
    core, edema_mm = float(rng.uniform(0.35, 0.65)), float(rng.uniform(1.5, 4.0) + rng.uniform(0, 0.7) * diameter_mm)
    return _mass(
        rng,
        center,
        diameter_mm,
        signal,
        rim_mm=rim_mm if ring else 0.0,
        core=core,
        edema_mm=edema_mm if edema else 0.0,
        roughness=float(rng.uniform(0.03, 0.12)),
    )


def _mass(
    rng: np.random.Generator,
    center: Points,
    diameter_mm: float,
    signal: float,
    *,
    rim_mm: float = 0.0,
    core: float = 0.5,
    edema_mm: float = 0.0,
    roughness: float = 0.1,
) -> Mass:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    stretch = np.exp(rng.normal(0, 0.11, 3))
    stretch /= np.cbrt(stretch.prod())
    waves = rng.normal(0, 2.2, (3, 5))
    phases = rng.uniform(0, 2 * np.pi, 5)
    to_ball = (turn / stretch) @ turn.T
    return Mass(center, diameter_mm, to_ball, waves, phases, roughness, rim_mm, float(signal), core, edema_mm)


def lay_masses(scan: Scan, masses: list[Mass], grid: Grid) -> list[tuple[tuple[slice, slice, slice], Field]]:
    """Lay the masses into the scan's signal in place; of each the box of voxels it may lie in and its share there.

    Edema comes first, so that it darkens no mass beside it.
    """
    boxes = [_box(mass, grid) for mass in masses]
    shares: list[tuple[tuple[slice, slice, slice], Field]] = []
    drawn = [_shares(mass, box, grid) if box else None for mass, box in zip(masses, boxes, strict=True)]
    for mass, box, held in zip(masses, boxes, drawn, strict=True):
        if box and held and mass.edema_mm:
            scan.signal[box] -= 0.30 * held[2] * scan.white[box]
    for mass, box, held in zip(masses, boxes, drawn, strict=True):
        if not box or not held:
            shares.append(((slice(0, 0),) * 3, np.zeros((0, 0, 0), np.float32)))
            continue
        room = scan.cavity[box] if mass.anywhere else scan.brain[box]
        whole, inner, _ = (share * room for share in held)
        scan.signal[box] += (whole - inner) * (mass.signal - scan.signal[box])
        scan.signal[box] += inner * (mass.core - scan.signal[box])
        shares.append((box, whole))
    return shares


def _box(mass: Mass, grid: Grid) -> tuple[slice, slice, slice] | None:
    """The voxels that a mass and its edema may reach, (S, A, R); None where the scan does not hold them."""
    reach = 0.75 * mass.diameter_mm + FARTHEST_EDEMA * mass.edema_mm + 1
    sides = []
    for axis_mm, size_mm, middle in (
        (grid.s_mm, grid.slice_mm, mass.center_mm[2]),
        (grid.a_mm, float(grid.a_mm[1] - grid.a_mm[0]), mass.center_mm[1]),
        (grid.r_mm, float(grid.r_mm[1] - grid.r_mm[0]), mass.center_mm[0]),
    ):
        low = int(np.searchsorted(axis_mm, middle - reach - size_mm / 2))
        high = int(np.searchsorted(axis_mm, middle + reach + size_mm / 2, side="right"))
        if high <= low:
            return None
        sides.append(slice(low, high))
    return sides[0], sides[1], sides[2]


def _shares(mass: Mass, box: tuple[slice, slice, slice], grid: Grid) -> tuple[Field, Field, Field]:
    """Shares of the box's voxels inside the mass, inside its core, and in its edema (fading outwards), (S, A, R)."""
    pixel = float(grid.r_mm[1] - grid.r_mm[0])
    axes, counts = [], []
    for axis_mm, size_mm, side, middle in (
        (grid.s_mm, grid.slice_mm, box[0], mass.center_mm[2]),
        (grid.a_mm, pixel, box[1], mass.center_mm[1]),
        (grid.r_mm, pixel, box[2], mass.center_mm[0]),
    ):
        count = max(1, int(np.ceil(size_mm / PARTS_MM - 1e-6)))
        offsets = ((np.arange(count) + 0.5) / count - 0.5) * size_mm
        axes.append(((axis_mm[side] - middle)[:, None] + offsets).ravel().astype(np.float32))
        counts.append(count)
    s, a, r = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    m = mass.to_ball.astype(np.float32)
    ball = [m[k, 0] * r + m[k, 1] * a + m[k, 2] * s for k in range(3)]
    away = np.sqrt(ball[0] ** 2 + ball[1] ** 2 + ball[2] ** 2) + np.float32(1e-3)
    lumps = np.zeros_like(away)
    for wave, phase in zip(mass.waves.T, mass.phases, strict=True):
        w = wave.astype(np.float32)
        lumps += np.sin((w[0] * ball[0] + w[1] * ball[1] + w[2] * ball[2]) / away + np.float32(phase))
    lumps /= np.float32(np.sqrt(mass.waves.shape[1] / 2))  # their deviation is 1 now
    radius = np.float32(mass.diameter_mm / 2)
    depth = radius * (1 + np.float32(mass.roughness) * lumps) - away
    width = np.float32(np.cbrt(np.prod([step[1] - step[0] if len(step) > 1 else PARTS_MM for step in axes])))
    whole = np.clip(depth / width + 0.5, 0, 1)
    inner = np.clip((depth - np.float32(mass.rim_mm)) / width + 0.5, 0, 1) if mass.rim_mm else np.zeros_like(whole)
    if not mass.edema_mm:
        return _pooled(whole, counts), _pooled(inner, counts), np.zeros_like(_pooled(whole, counts))
    reach = np.float32(mass.edema_mm) * np.clip(1 + np.float32(0.35) * lumps, 0.3, FARTHEST_EDEMA)
    edema = np.sqrt(np.clip(1 + depth / reach, 0, 1))
    return _pooled(whole, counts), _pooled(inner, counts), _pooled(edema, counts)


def _pooled(values: Field, counts: list[int]) -> Field:
    s, a, r = (size // count for size, count in zip(values.shape, counts, strict=True))
    return np.asarray(values.reshape(s, counts[0], a, counts[1], r, counts[2]).mean(axis=(1, 3, 5)), np.float32)
