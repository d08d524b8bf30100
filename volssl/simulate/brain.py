"""The brain inside the skull, on the lattice: gyri, fissures, ventricles, deep grey matter, cisterns and membranes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from volssl.simulate.lattice import (
    SHAPE,
    STEP_MM,
    Field,
    Fields,
    Point,
    band_noise,
    ellipsoid,
    plateau,
    sigmoid,
    smooth_noise,
)
from volssl.simulate.patient import Patient

FAR_MM = 12.0  # distances are cut here, where nothing depends on them


def brain_fields(rng: np.random.Generator, patient: Patient, x: Field, y: Field, z: Field, inner: Field) -> Fields:
    """Distances in mm that the brain's compartments are cut from; x, y, z are head coordinates, `inner` the cavity.

    `brain`: below the outer surface of the brain. `middle`: from the midline plane, positive to the right. `gyri`: from
    the nearest sulcus. `reach`: how deep that sulcus goes. `fissure`: inside the outline of the fissure between the
    hemispheres. `ventricle`, `nuclei`, `cistern`, `stem`: inside those. `tent`: above the tentorium. `tent_edge`:
    inside its extent. `third`: inside that of the third ventricle. `falx`: inside the outline of the falx.
    """
    gap = 0.9 + 2.2 * patient.atrophy * (1 + 0.4 * sigmoid((y - 20) / 10)) + 0.5 * smooth_noise(rng, 40.0)
    middle = x + 0.9 * smooth_noise(rng, 60.0)
    tent, edge = _tentorium(rng, x, y, z)
    stem = _stem(x, y, z)
    callosum = -ellipsoid(0 * x, y, z, (0, -4, 6), (1e3, 44, 30)) - np.maximum(0, 12 - z - np.abs(y - 25) * 0.6) * (
        y < 25
    )
    fissure = np.minimum(callosum, np.maximum(tent, 3 - np.abs(y - 40)))
    reach = 17 + 5 * smooth_noise(rng, 30.0)
    gyri, reach = _gyri(rng, x, y, z, reach)
    below = np.minimum(-tent, edge + 6)
    return {
        "brain": inner - np.maximum(gap, 0.5),
        "middle": middle,
        "gyri": gyri,
        "reach": np.where(below > 0, 1.0, np.maximum(reach, 3.0)),
        "fissure": np.clip(fissure, -FAR_MM, FAR_MM),
        "ventricle": _ventricles(rng, patient, x, y, z),
        "third": ellipsoid(0 * x, y, z, (0, -5, -3), (1e3, 17, 12)),
        "nuclei": _nuclei(x, y, z),
        "cistern": np.minimum(_cisterns(patient, x, y, z), -stem),
        "stem": stem,
        "tent": np.clip(tent, -FAR_MM, FAR_MM),
        "tent_edge": np.clip(edge, -FAR_MM, FAR_MM),
        "falx": np.minimum(sigmoid(-y / 25) * 26 + 24 - inner, np.minimum(z + 16, fissure)),
    }


def _gyri(rng: np.random.Generator, x: Field, y: Field, z: Field, reach: Field) -> tuple[Field, Field]:
    """Signed distance to the nearest sulcus, and the depth sulci go to; the Sylvian fissure is one of them."""
    swing = band_noise(rng, 21.0)
    slopes = np.gradient(swing, STEP_MM)
    steep = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + slopes[2] ** 2)
    gyri = np.clip(swing / np.maximum(steep, 0.08), -FAR_MM, FAR_MM)
    across = np.abs(x)
    lateral = 0.94 * (z - 4 + 0.35 * y)
    on_side = sigmoid((across - 39) / 2) * plateau((y - 4) / 27, lateral / 9)
    insula = across - 40
    on_insula = plateau(insula / 7, (y - 6) / 20, (z - 5) / 13)
    gyri = gyri * (1 - on_side) + lateral * on_side
    gyri = gyri * (1 - on_insula) + insula * on_insula
    deep = np.maximum(on_side, on_insula)
    return gyri, reach * (1 - deep) + 42 * deep


def _tentorium(rng: np.random.Generator, x: Field, y: Field, z: Field) -> tuple[Field, Field]:
    across = np.abs(x)
    height = 6 - 0.48 * np.maximum(0, -38 - y) - 0.34 * across + 1.5 * smooth_noise(rng, 50.0)
    ahead = -14 - 0.42 * across - y  # behind the petrous crest
    notch = -ellipsoid(x, y, 0 * z, (0, -20, 0), (19, 24, 1e3))
    return 0.85 * (z - height), np.minimum(ahead, notch)


def _stem(x: Field, y: Field, z: Field) -> Field:
    midbrain = ellipsoid(x, y, z, (0, -17, -6), (16, 12, 15))
    pons = ellipsoid(x, y, z, (0, -13, -27), (17, 13, 15))
    medulla = capsule(x, y, z, (0, -15, -10), (0, -30, -95), 9.0, 7.0)
    return np.asarray(np.maximum.reduce((midbrain, pons, medulla)))


def _cisterns(patient: Patient, x: Field, y: Field, z: Field) -> Field:
    grow = 0.6 + 2.0 * patient.atrophy
    across = np.abs(x)
    parts = (
        ellipsoid(x, y, z, (0, 7, -19), (15, 12, 9)),
        ellipsoid(x, y, z, (0, 2, -34), (12, 8, 17)),
        ellipsoid(x, y, z, (0, -19, -7), (20, 16, 8)),
        ellipsoid(x, y, z, (0, -34, -1), (11, 6, 8)),
        ellipsoid(x, y, z, (0, -64, -53), (13, 10, 9)),
        ellipsoid(x, y, z, (0, -32, -68), (13, 13, 26)),
        capsule(across, y, z, (13, 8, -17), (36, 12, -8), 3.0, 4.0),
        capsule(across, y, z, (12, -14, -38), (26, -20, -38), 5.0, 2.5),
    )
    return np.asarray(np.maximum.reduce(parts) + grow - 1.2)


def _nuclei(x: Field, y: Field, z: Field) -> Field:
    across = np.abs(x)
    parts = (
        ellipsoid(across, y, z, (15, 20, 9), (6, 11, 11)),
        ellipsoid(across - 0.25 * (y - 4), y, z, (25, 4, 3), (7.5, 18, 12)),
        ellipsoid(across, y, z, (11, -13, 6), (9, 15, 10)),
    )
    return np.asarray(np.maximum.reduce(parts))


def _ventricles(rng: np.random.Generator, patient: Patient, x: Field, y: Field, z: Field) -> Field:
    """Lateral and fourth ventricles, wider with atrophy and a little different on the two sides."""
    near = tuple(slice(int(n * 0.14), int(n * 0.86)) for n in x.shape)
    x, y, z = x[near], y[near], z[near]
    grow = 0.75 + 1.25 * patient.atrophy + 0.12 * rng.normal()
    lean = 1 + 0.10 * rng.normal() * np.sign(x)
    across = np.abs(x) / (0.94 + 0.16 * patient.atrophy)
    horn = float(rng.uniform(0.5, 1.1))
    chain: tuple[tuple[Point, float], ...] = (
        ((11.0, 31.0, 6.0), 2.6),
        ((10.0, 14.0, 15.0), 4.8),
        ((13.0, -20.0, 20.0), 4.6),
        ((22.0, -40.0, 10.0), 6.4),
        ((25.0, -40.0 - 26 * horn, 5.0), 2.0),
    )
    tail: tuple[tuple[Point, float], ...] = (
        ((22.0, -40.0, 10.0), 5.4),
        ((34.0, -22.0, -11.0), 1.8),
        ((29.0, -4.0, -17.0), 1.6),
    )
    inside = np.full(x.shape, -FAR_MM, np.float32)
    for part in (chain, tail):
        for (p, p_mm), (q, q_mm) in pairwise(part):
            inside = np.maximum(inside, capsule(across, y, z, p, q, p_mm * grow, q_mm * grow))
    inside = np.minimum(inside * lean, np.abs(x) - 0.8)
    fourth = ellipsoid(x, y, z, (0, -36, -29), (5 + 2 * grow, 4 + 1.5 * grow, 9))
    whole = np.full(SHAPE, -FAR_MM, np.float32)
    whole[near] = np.maximum(np.maximum(inside, fourth), -FAR_MM)
    return whole


def capsule(x: Field, y: Field, z: Field, p: Point, q: Point, p_mm: float, q_mm: float) -> Field:
    """Depth inside the rounded cone from `p` (radius `p_mm`) to `q` (radius `q_mm`), in mm, negative outside."""
    along = np.subtract(q, p)
    share = ((x - p[0]) * along[0] + (y - p[1]) * along[1] + (z - p[2]) * along[2]) / float(along @ along)
    share = np.clip(share, 0, 1).astype(np.float32)
    u, v, w = x - p[0] - share * along[0], y - p[1] - share * along[1], z - p[2] - share * along[2]
    return np.asarray(p_mm + share * (q_mm - p_mm) - np.sqrt(u * u + v * v + w * w), np.float32)
