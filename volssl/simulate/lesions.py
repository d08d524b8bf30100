"""Hemorrhages of five types, each drawn where that type lies, from faint and small to plain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volssl.simulate.lattice import Field, Fields, Point, ellipsoid, smooth_noise

TYPES = ("subarachnoid", "subdural", "epidural", "intraventricular", "intraparenchymal")
CODES = {kind: code for code, kind in enumerate(TYPES, start=1)}
FREQUENCY = (0.24, 0.20, 0.13, 0.19, 0.24)  # of the first type of a positive study, in the order of TYPES
COUNT_CHANCE = (0.62, 0.27, 0.11)  # one, two or three types at once
FAINT_CHANCE = 0.28
FAINT_HU, PLAIN_HU = (50.0, 58.0), (58.0, 80.0)
THICKNESS_MM = {"subdural": (4.0, 9.5), "epidural": (7.0, 15.0)}
RADIUS_MM = {"subarachnoid": (26.0, 48.0), "intraventricular": (11.0, 28.0), "intraparenchymal": (8.5, 19.0)}


@dataclass(frozen=True)
class Lesion:
    """One hemorrhage on the lattice.

    Attributes:
        kind: one of `TYPES`.
        depth: mm inside its shape, negative outside; the compartment it lies in cuts it further.
        hu: of the clot.
        share: of clot in the mixture with what was there, 1 for all clot.
        edema_mm: width of the dark rim around it.
    """

    kind: str
    depth: Field
    hu: float
    share: float = 1.0
    edema_mm: float = 0.0


def draw_types(rng: np.random.Generator) -> tuple[str, ...]:
    """The types of a positive study, in the order of `TYPES`."""
    count = 1 + int(rng.choice(len(COUNT_CHANCE), p=COUNT_CHANCE))
    drawn = set(rng.choice(len(TYPES), size=count, replace=False, p=FREQUENCY).tolist())
    return tuple(kind for number, kind in enumerate(TYPES) if number in drawn)


def draw_mass(rng: np.random.Generator, kind: str, x: Field, y: Field, z: Field, skull: Fields) -> Lesion:
    """A subdural, epidural or intraparenchymal hemorrhage: those that push the brain aside."""
    if kind == "intraparenchymal":
        return _intraparenchymal(rng, x, y, z, skull["inner"])
    vault = skull["vault"]  # not the floor, along which it would creep
    near = np.flatnonzero((np.abs(vault) < 3) & (skull["base"] > 12) & (z > -2) & (z < 58) & (np.abs(x) > 28))
    spot = int(rng.choice(near))
    center = np.array([x.flat[spot], y.flat[spot], z.flat[spot]])
    thickness = (_crescent if kind == "subdural" else _lens)(rng, x, y, z, center)
    depth = thickness - vault
    if kind == "subdural":  # it does not cross the falx
        depth = np.minimum(depth, np.sign(center[0]).astype(np.float32) * x - 1.5)
    return Lesion(kind, np.maximum(depth, -20.0).astype(np.float32), _clot_hu(rng))


def draw_spill(rng: np.random.Generator, kind: str, x: Field, y: Field, z: Field, a: Field, brain: Fields) -> Lesion:
    """A subarachnoid or intraventricular hemorrhage, within the fluid that is there; `a` is scanner anterior, mm."""
    if kind == "intraventricular":
        return _intraventricular(rng, x, a, y, z, brain)
    radius = _log_uniform(rng, RADIUS_MM[kind])
    place = rng.random()
    side = rng.choice((-1.0, 1.0))
    if place < 0.4:
        center = rng.normal((6 * side, 5, -16), (6, 5, 4))
    elif place < 0.65:
        center = rng.normal((40 * side, 6, 4), (4, 6, 4))
    else:
        near = np.flatnonzero((np.abs(brain["brain"] - 5) < 3) & (z > 0) & (z < 62))
        spot = int(rng.choice(near))
        center = np.array([x.flat[spot], y.flat[spot], z.flat[spot]])
    shape = radius * np.exp(rng.normal(0, 0.15, 3))
    depth = _blob(x, y, z, center, shape) + 0.2 * radius * smooth_noise(rng, 20.0)
    return Lesion(kind, depth, _clot_hu(rng), share=float(rng.uniform(0.75, 1.0)))


def push_aside(lesions: list[Lesion], x: Field, y: Field, z: Field) -> tuple[Field, Field, Field]:
    """Where in the undisturbed brain each point of the displaced brain came from: head coordinates, mm."""
    for lesion in lesions:
        bulk = np.clip(lesion.depth, 0, None)
        total = float(bulk.sum())
        if total == 0:
            continue
        center = [float((bulk * c).sum()) / total for c in (x, y, z)]
        volume_ml = float((lesion.depth > 0).sum()) * 0.064
        reach = 22.0 + 0.4 * volume_ml
        away = [c - m for c, m in zip((x, y, z), center, strict=True)]
        distance = np.sqrt(away[0] ** 2 + away[1] ** 2 + away[2] ** 2) + 1
        shift = min(9.0, 0.9 * volume_ml**0.6) * np.exp(-distance / reach) * np.clip(distance / 12, 0, 1) / distance
        x, y, z = x - shift * away[0], y - shift * away[1], z - shift * away[2]
    return x, y, z


def _clot_hu(rng: np.random.Generator) -> float:
    return float(rng.uniform(*(FAINT_HU if rng.random() < FAINT_CHANCE else PLAIN_HU)))


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _angles(x: Field, y: Field, z: Field, center: np.ndarray) -> tuple[Field, Field, Field]:
    """Cosines between the direction of each point and the center's, its level tangent and its upward tangent."""
    toward = center / np.linalg.norm(center)
    level = np.cross((0, 0, 1), toward)
    level /= np.linalg.norm(level)
    upward = np.cross(toward, level)
    length = np.sqrt(x * x + y * y + z * z) + 1e-3
    first, second, third = (
        (x * float(v[0]) + y * float(v[1]) + z * float(v[2])) / length for v in (toward, level, upward)
    )
    return first, second, third


def _crescent(rng: np.random.Generator, x: Field, y: Field, z: Field, center: np.ndarray) -> Field:
    """Thickness in mm of a subdural clot: wide, tapering along the inner table."""
    facing, level, upward = _angles(x, y, z, center)
    wide, high = rng.uniform(0.45, 0.95), rng.uniform(0.35, 0.7)
    swell = np.clip(1 - (level / wide) ** 2 - (upward / high) ** 2 + 0.15 * smooth_noise(rng, 45.0), 0, 1) ** 0.7
    return np.where(facing > 0.1, _log_uniform(rng, THICKNESS_MM["subdural"]) * swell, 0) - 0.2


def _lens(rng: np.random.Generator, x: Field, y: Field, z: Field, center: np.ndarray) -> Field:
    """Thickness in mm of an epidural clot: a lens with a sharp edge, bulging into the cavity."""
    facing, level, upward = _angles(x, y, z, center)
    thick = _log_uniform(rng, THICKNESS_MM["epidural"])
    wide = float(np.clip(thick * rng.uniform(1.5, 2.4), 15, 38)) / float(np.linalg.norm(center))
    stretch = rng.uniform(0.8, 1.2)
    swell = 1 - (level / (wide * stretch)) ** 2 - (upward * stretch / wide) ** 2
    return np.where(facing > 0.1, thick * np.clip(swell, -1, 1), -thick)


def _blob(x: Field, y: Field, z: Field, center: np.ndarray, radii: np.ndarray) -> Field:
    middle: Point = (float(center[0]), float(center[1]), float(center[2]))
    return ellipsoid(x, y, z, middle, (float(radii[0]), float(radii[1]), float(radii[2])))


def _intraparenchymal(rng: np.random.Generator, x: Field, y: Field, z: Field, inner: Field) -> Lesion:
    radius = _log_uniform(rng, RADIUS_MM["intraparenchymal"])
    side = rng.choice((-1.0, 1.0))
    place = rng.random()
    if place < 0.3:
        center = rng.normal((26 * side, 2, 4), (2, 5, 3))
    elif place < 0.42:
        center = rng.normal((12 * side, -13, 6), (2, 3, 2))
    elif place < 0.54:
        center = rng.normal((20 * side, -55, -36), (8, 6, 4))
    else:
        near = np.flatnonzero((inner > radius + 5) & (inner < 34) & (z > -14) & (np.abs(x) > 16))
        spot = int(rng.choice(near))
        center = np.array([x.flat[spot], y.flat[spot], z.flat[spot]])
    shape = radius * np.exp(rng.normal(0, 0.16, 3))
    depth = _blob(x, y, z, center, shape) + 0.13 * radius * smooth_noise(rng, 16.0)
    return Lesion("intraparenchymal", depth, _clot_hu(rng), edema_mm=float(rng.uniform(1.5, 7.0)))


def _intraventricular(rng: np.random.Generator, x: Field, a: Field, y: Field, z: Field, brain: Fields) -> Lesion:
    """Blood that has sunk to the back of a lateral ventricle, or a clot that fills a part of one."""
    ventricle = brain["ventricle"]
    size = _log_uniform(rng, RADIUS_MM["intraventricular"])
    a = np.broadcast_to(a, x.shape)
    if rng.random() < 0.6:
        both, side = rng.random() < 0.5, rng.choice((-1.0, 1.0))
        behind = (ventricle > 0.5) & (z > -10) & (both | (x * side > 0))
        depth = np.minimum(float(a[behind].min()) + size - a, z + 14)
        if not both:
            depth = np.minimum(depth, side * x + 1)
        return Lesion("intraventricular", depth.astype(np.float32), _clot_hu(rng))
    spot = int(rng.choice(np.flatnonzero(ventricle > 1.5)))
    center = np.array([x.flat[spot], y.flat[spot], z.flat[spot]])
    return Lesion("intraventricular", _blob(x, y, z, center, np.full(3, size + 3)), _clot_hu(rng))
