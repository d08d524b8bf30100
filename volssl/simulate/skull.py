"""The skull, its base with the fossae, the scalp and the face, as distances on the lattice.

Head coordinates: x right, y anterior, z superior, in mm from the middle of the brain.
"""

from __future__ import annotations

import numpy as np

from volssl.simulate.lattice import Field, Fields, ellipsoid, plateau, sigmoid, smooth_noise, soft_min
from volssl.simulate.patient import Patient


def skull_fields(rng: np.random.Generator, patient: Patient, x: Field, y: Field, z: Field) -> Fields:
    """Distances in mm, positive inside, that the compartments of bone, scalp and face are cut from.

    `vault`: inside the smooth inner surface of the vault, continued below the base. `inner`: inside the cranial cavity.
    `base`: height above the floor of the cavity. `bone`: inside the outer surface of the bone. `skin`: inside the skin.
    `thick`: of the vault. `air`: inside sinuses and air cells. `fat`: inside the orbits. `globe`: inside the eyes.
    `patchy`: a texture.
    """
    vault = vault_depth(patient, x, y, z) + 0.6 * smooth_noise(rng, 90.0)
    floor = floor_height(x, y) + 1.5 * smooth_noise(rng, 40.0)
    base = 0.8 * (z - floor)
    inner = soft_min(vault, base, 5.0)
    thick = patient.skull_mm * np.exp(0.10 * smooth_noise(rng, 60.0) + 0.12 * (np.abs(y) / 80) ** 2)
    patchy = smooth_noise(rng, 16.0)
    below = 7.0 + 14.0 * petrous(x, y) + 3.0 * smooth_noise(rng, 18.0)
    bone = np.minimum(vault + thick, base + below)
    scalp = patient.scalp_mm * np.exp(0.12 * smooth_noise(rng, 50.0))
    skin = vault + thick + scalp
    skin = np.maximum(skin, ellipsoid(x, y, z, (0, 92, -52), (14, 22, 26)))
    orbit = _orbits(x, y, z)
    return {
        "vault": vault,
        "inner": inner,
        "base": base,
        "bone": np.maximum(np.minimum(bone, 3.0 - np.abs(orbit)), np.minimum(bone, -orbit)),
        "skin": skin,
        "thick": thick,
        "air": _air_spaces(rng, x, y, z) - 0.9 * np.abs(patchy),
        "fat": orbit,
        "globe": ellipsoid(np.abs(x), y, z, (31, 66, -26), (12, 12, 12)),
        "patchy": patchy,
    }


def vault_depth(patient: Patient, x: Field, y: Field, z: Field) -> Field:
    """Depth below the inner surface of the vault along the ray from the middle: an egg, wider behind."""
    right, front, up = patient.vault_mm
    u = x / right * (1 + 0.0011 * y)
    v = np.where(y > 0, y / front, y / patient.posterior_mm)
    w = np.where(z > 0, z, 0.5 * z) / up
    u2, v2, w2 = u * u, v * v, w * w
    round_ = np.sqrt(u2 + v2 + w2)
    square = np.sqrt(np.sqrt(u2 * u2 + v2 * v2 + w2 * w2))
    q = np.maximum(0.72 * round_ + 0.28 * square, 0.05)
    return np.asarray(np.sqrt(x * x + y * y + (w * up) ** 2) * (1 / q - 1))


def petrous(x: Field, y: Field) -> Field:
    """1 along the crest of the petrous bones, falling to 0 beside it: shape of x + y."""
    across = np.abs(x)
    return np.asarray(np.exp(-(((y + 8 + 0.55 * across) / 8.5) ** 2)) * sigmoid((across - 12) / 3))


def floor_height(x: Field, y: Field) -> Field:
    """Height in mm of the floor of the anterior, middle and posterior fossa, with the foramen magnum."""
    across = np.abs(x)
    front = sigmoid((y - 24 + 0.1 * across) / 3.5)
    back = sigmoid((-8 - 0.55 * across - y) / 4)
    anterior = -17 + 8 * np.exp(-(((across - 30) / 16) ** 2))
    middle = -37 + 15 * np.exp(-((across / 13) ** 2))
    clivus = 34 * np.exp(-((across / 18) ** 2)) * sigmoid((y + 24) / 5)
    posterior = -57 + clivus + 0.012 * (y + 40) ** 2 * (y < -40)
    floor = front * anterior + (1 - front) * ((1 - back) * middle + back * posterior)
    hole = plateau(np.sqrt(x * x + (y + 32) ** 2) / 13)
    return np.asarray(floor + 20 * petrous(x, y) * (1 - front) - 60 * hole, np.float32)


def _orbits(x: Field, y: Field, z: Field) -> Field:
    across = np.abs(x)
    return ellipsoid(across - 0.25 * (y - 58), y, z, (29, 58, -27), (18, 25, 17))


def _air_spaces(rng: np.random.Generator, x: Field, y: Field, z: Field) -> Field:
    """Frontal, ethmoid, sphenoid and maxillary sinuses, mastoid cells, ear canals and nasal cavity."""
    across = np.abs(x) * (1 + 0.1 * float(rng.normal()) * np.sign(x))
    frontal = float(rng.uniform(3, 9))
    parts = (
        ellipsoid(across, y, z, (9, 84, -10), (15, 4, frontal)),
        ellipsoid(across, y, z, (6, 54, -30), (7, 20, 11)),
        ellipsoid(across, y, z, (7, 16, -37), (9, 11, 8)),
        ellipsoid(across, y, z, (28, 56, -60), (13, 16, 14)),
        ellipsoid(across, y, z, (50, -34, -45), (11, 13, 14)),
        ellipsoid(across, y, z, (66, -20, -44), (22, 3.5, 3.5)),
        ellipsoid(across, y, z, (0, 60, -64), (7, 30, 22)),
        ellipsoid(across, y, z, (0, 10, -85), (10, 9, 32)),
    )
    return np.asarray(np.maximum.reduce(parts))
