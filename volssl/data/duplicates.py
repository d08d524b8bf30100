"""Near-duplicates: one acquisition in two kernels, thicknesses or exports, found by a 3D perceptual hash and grouped.

The idea is that of perceptual hashes of pictures (Zauner, Implementation and Benchmarking of Perceptual Image Hash
Functions, 2010): the signs of some cosine coefficients survive what leaves a picture alike. Three things differ here.
Lengths are millimetres about the centre of mass, so that matrix, slice thickness, origin and padding do not matter.
The cosines stand under a Gaussian, so that what is cropped at the border weighs little. And the band is not the lowest
one: in long waves all heads are alike; waves of 20 to 30 mm in plane tell them apart and still do not notice a kernel.
Along S only long waves are taken, for cropping the first or last slices moves the centre of mass there.

The radius lies between the bits by which variants of one scan differ and those by which two patients do, nearer to the
former: a volume left out for a chance resemblance is lost, a duplicate kept costs little. benchmarks/duplicates.py
prints both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from volssl.data.volume import PATIENT_UNKNOWN

if TYPE_CHECKING:
    from volssl.views.base import Box

BITS = 448  # 112 hexadecimal digits
RADIUS = 40  # bits by which two hashes of one acquisition may differ
RADIUS_OTHER_PATIENT = 20  # where the sources name two patients, little but another export passes
EXTENT_MIN_MM = (50.0, 50.0, 30.0)  # in a smaller thing there are too few waves to tell it by

BOX_MM = (160.0, 160.0, 128.0)  # of the cosines, about the centre of mass
SIGMA_MM = (50.0, 50.0, 40.0)  # of the Gaussian over them
WAVE_MAX_MM = 30.0  # the longest wave in plane
WAVES_S = 4  # cosines along S, the shortest wave 85 mm
DEAD_SHARE = 0.25  # of a wave's usual strength must be passed for a 1: about 0, as in a symmetric scan, signs are noise
MASS_POWER = (3, 3, 8)  # see `_center`
SAMPLE_MM, SAMPLE_MASS_MM, SAMPLE_WINDOW_MM = 2.0, 4.0, 6.0  # voxels nearer to one another are left out
AIR_HU, BODY_HU, BONE_HU = -1000.0, -500.0, 1000.0

SCAN_MAX = 2_000_000_000  # pairs compared one by one; more go through the bands
ERRORS_A_BAND = 2
CHUNK = 1 << 22

Codes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def perceptual_hash(
    array: np.ndarray, spacing_mm: tuple[float, float, float], foreground: Box, modality: str
) -> str | None:
    """A hash that kernel, noise, slice thickness, matrix and padding hardly change: 112 hexadecimal digits.

    Args:
        array: (R, A, S), HU for CT.
        foreground: the box outside of which there is only air.
        modality: `CT` or `MR`; hashes are to be compared within one modality.

    Returns:
        None where the thing in the scan measures under 50 mm along R or A or 30 mm along S, or is all of one value.
    """
    extent = [(stop - start) * mm for (start, stop), mm in zip(foreground, spacing_mm, strict=True)]
    if any(mm < least for mm, least in zip(extent, EXTENT_MIN_MM, strict=True)):
        return None
    sample, place_mm = _every(array, spacing_mm, SAMPLE_MASS_MM)
    inside, _ = _every(array[tuple(slice(*edges) for edges in foreground)], spacing_mm, SAMPLE_WINDOW_MM)
    low, high, mass_low, mass_high = _window(inside, modality)
    if not low < high:
        return None
    center_mm = _center(sample, place_mm, mass_low, mass_high)
    sample, place_mm = _every(array, spacing_mm, SAMPLE_MM)
    waves_r, waves_a, waves_s = (_waves(axis, place_mm[axis], center_mm[axis]) for axis in range(3))
    planes = [waves_a.T @ (_clipped(plane, low, high) @ waves_s) for plane in sample]  # (A, S) each
    values = np.tensordot(waves_r, np.stack(planes), axes=(0, 0))
    waves = values[_band()]  # (in plane, S)
    strength = np.sqrt((waves**2).mean(axis=0))
    return np.packbits(waves > DEAD_SHARE * strength).tobytes().hex() if strength.all() else None


def settle_groups(rows: Sequence[dict[str, Any]]) -> int:
    """Fill `group` of every row with the id of the volume that stands for its group; alone, it is its own.

    A settled group keeps its representative while that is among the rows; else the member with the most voxels stands
    for it, of equals the one with the lowest id. A new volume (group None) joins the group of the nearest settled one
    within the radius. New ones that resemble no settled one gather about the largest of them: each is within the radius
    of its representative, so that a chain of chance resemblances cannot swallow an archive. The order of rows does not
    matter.

    Returns:
        How many volumes another one stands for.
    """
    rows = sorted(rows, key=lambda row: str(row["id"]))
    new = np.array([row["group"] is None for row in rows], bool)
    _appoint([row for row in rows if row["group"] is not None])
    for modality in sorted({str(row["modality"]) for row in rows}):
        where = [i for i, row in enumerate(rows) if str(row["modality"]) == modality and row["perceptual_hash"]]
        pairs = near_pairs(_codes([rows[i]["perceptual_hash"] for i in where]), new[where], RADIUS)
        _join([rows[i] for i in where], pairs)
    for row in rows:
        row["group"] = row["group"] or row["id"]
    return sum(row["group"] != row["id"] for row in rows)


def near_pairs(codes: Codes, wanted: npt.NDArray[np.bool_], radius: int, *, scan_max: int = SCAN_MAX) -> Pairs:
    """All pairs of hashes that differ in at most `radius` bits.

    Up to `scan_max` pairs are compared one by one; more through bands of bits (Norouzi, Punjani and Fleet, Fast Search
    in Hamming Space with Multi-Index Hashing, 2012), which finds the same pairs: of so many bands that the radius is
    under three a band, one at least differs in no more than two bits.

    Args:
        codes: (N, words).
        wanted: (N,); only pairs with such a one in them are looked for.

    Returns:
        (pairs, 3): two indices, the lower first, and the bits by which they differ; in order.
    """
    few = int(wanted.sum())
    found = _scanned(codes, wanted, radius) if few * len(codes) <= scan_max else _banded(codes, wanted, radius)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def _window(sample: np.ndarray, modality: str) -> tuple[float, float, float, float]:
    """The values between which the hash looks, and those between which a voxel's mass rises."""
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    if modality != "CT":
        return low, high, low, high
    if float(sample.min()) < BODY_HU:
        return AIR_HU, BONE_HU, BODY_HU, 0.0
    return low, BONE_HU, low + 5.0, low + 15.0  # no air: what was cut out of a head lies on a constant


def _every(
    array: np.ndarray, spacing_mm: tuple[float, float, float], apart_mm: float
) -> tuple[np.ndarray, list[npt.NDArray[np.float64]]]:
    """Every n-th voxel, about `apart_mm` apart; and where they lie along each axis, in mm."""
    step = [max(1, round(apart_mm / mm)) for mm in spacing_mm]
    taken = [np.arange(n // 2, size, n) for n, size in zip(step, array.shape, strict=True)]
    sample = array[tuple(slice(n // 2, None, n) for n in step)]
    return sample, [(index + 0.5) * mm for index, mm in zip(taken, spacing_mm, strict=True)]


def _clipped(sample: np.ndarray, low: float, high: float) -> npt.NDArray[np.float32]:
    """Values between two, the lower one taken off; no step of it is wider than float32."""
    clipped = np.clip(sample, np.float32(low), np.float32(high))  # float64, where int32 is stored
    lowered: npt.NDArray[np.float32] = np.subtract(clipped, low, dtype=np.float32, casting="same_kind")
    return lowered


def _center(
    sample: np.ndarray, place_mm: list[npt.NDArray[np.float64]], low: float, high: float
) -> tuple[float, float, float]:
    """The centre of mass in mm; a voxel's mass rises from 0 to 1 between `low` and `high`.

    Slices, and then rows and columns, count by a power of their mass: the widest settle the centre, and a neck, an arm
    or a table that is cropped in one of two scans moves it little.
    """
    mass = _clipped(sample, low, high)
    slices = _powered(mass.sum(axis=(0, 1)), MASS_POWER[2] - 1)
    profiles = [mass.sum(axis=1) @ slices, mass.sum(axis=0) @ slices, mass.sum(axis=(0, 1))]
    weights = [_powered(profile, power) for profile, power in zip(profiles, MASS_POWER, strict=True)]
    r, a, s = (float(w @ place) / max(float(w.sum()), 1e-6) for w, place in zip(weights, place_mm, strict=True))
    return r, a, s


def _powered(profile: npt.NDArray[np.float32], power: int) -> npt.NDArray[np.float32]:
    """A power of the profile, the greatest value made 1."""
    shares: npt.NDArray[np.float32] = (profile / max(float(profile.max()), 1e-6)) ** power
    return shares


def _waves(axis: int, place_mm: npt.NDArray[np.float64], center_mm: float) -> npt.NDArray[np.float32]:
    """(voxels, waves): cosines under a Gaussian along one axis."""
    place = place_mm - center_mm
    wave = np.arange(WAVES_S if axis == 2 else _band()[0].max() + 1)
    cosine = np.cos(np.pi * wave * (place[:, None] / BOX_MM[axis] + 0.5))
    return (cosine * np.exp(-(place[:, None] ** 2) / (2 * SIGMA_MM[axis] ** 2))).astype(np.float32)


@cache
def _band() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The waves in plane that make the hash: the longest of those that are no longer than 30 mm."""
    r, a = np.indices((24, 24))
    frequency = np.hypot(r / (2 * BOX_MM[0]), a / (2 * BOX_MM[1]))
    order = np.lexsort((a.ravel(), r.ravel(), frequency.ravel().round(9)))
    chosen = order[frequency.ravel()[order] >= 1 / WAVE_MAX_MM][: BITS // WAVES_S]
    return r.ravel()[chosen], a.ravel()[chosen]


def _voxels(row: dict[str, Any]) -> int:
    return int(np.prod(row["shape"], dtype=np.int64))


def _rank(row: dict[str, Any]) -> tuple[int, str]:
    """Who stands for a group: the most voxels, then the lowest id."""
    return -_voxels(row), str(row["id"])


def _appoint(settled: list[dict[str, Any]]) -> None:
    """Give each settled group whose representative is gone another one."""
    ids = {row["id"] for row in settled}
    heirs: dict[str, dict[str, Any]] = {}
    for row in sorted(settled, key=_rank):
        if row["group"] not in ids:
            row["group"] = heirs.setdefault(row["group"], row)["id"]


def _join(rows: list[dict[str, Any]], pairs: Pairs) -> None:
    """Group the rows of one modality, in the order of their ids, by the pairs of them that are alike."""
    alike: dict[int, list[tuple[int, int]]] = {}
    for a, b, distance in pairs.tolist():
        if distance <= RADIUS_OTHER_PATIENT or not _two_patients(rows[a], rows[b]):
            alike.setdefault(a, []).append((distance, b))
            alike.setdefault(b, []).append((distance, a))
    new = [i for i in alike if rows[i]["group"] is None]
    settled = {i: [(d, j) for d, j in alike[i] if rows[j]["group"] is not None] for i in new}
    for i in new:
        if settled[i]:
            rows[i]["group"] = rows[min(settled[i])[1]]["group"]
    for i in sorted(new, key=lambda i: _rank(rows[i])):
        if rows[i]["group"] is None:
            for j in (i, *(j for _, j in alike[i])):
                rows[j]["group"] = rows[j]["group"] or rows[i]["id"]


def _two_patients(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether the sources themselves name two different patients."""
    return a["patient"] != b["patient"] and not any(PATIENT_UNKNOWN in (row["notes"] or ()) for row in (a, b))


def _codes(texts: list[str]) -> Codes:
    """(N, words) of hexadecimal texts."""
    joined = np.frombuffer(bytes.fromhex("".join(texts)), np.uint64)
    return joined.reshape(len(texts), BITS // 64)


def _distances(a: Codes, b: Codes) -> npt.NDArray[np.int64]:
    """Bits that differ, along the last axis."""
    distances: npt.NDArray[np.int64] = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)
    return distances


def _scanned(codes: Codes, wanted: npt.NDArray[np.bool_], radius: int) -> Pairs:
    """Every wanted hash against all, some rows at a time."""
    found = [np.empty((0, 3), np.int64)]
    columns = np.ascontiguousarray(codes.T)
    index = np.arange(len(codes))
    for i in np.flatnonzero(wanted).tolist():
        distance = np.zeros(len(codes), np.uint16)
        for word, column in zip(codes[i], columns, strict=True):
            distance += np.bitwise_count(column ^ word)
        near = np.flatnonzero((distance <= radius) & ~(wanted & (index <= i)) & (index != i))
        found.append(np.stack([np.minimum(near, i), np.maximum(near, i), distance[near]], axis=1).astype(np.int64))
    return np.concatenate(found)


def _banded(codes: Codes, wanted: npt.NDArray[np.bool_], radius: int) -> Pairs:
    """The pairs that agree in a band of bits but for two bits, and in all within the radius."""
    bands = max(radius // (ERRORS_A_BAND + 1) + 1, BITS // 32)  # a key has 32 bits at most
    bits = np.unpackbits(codes.view(np.uint8), axis=1)  # (N, BITS)
    found = [np.empty((0, 3), np.int64)]
    for band in range(bands):
        part = bits[:, band::bands]  # bits from all over, which depend on one another less than neighbours do
        keys = part @ (np.uint32(1) << np.arange(part.shape[1], dtype=np.uint32))
        for a, b in _colliding(keys, part.shape[1]):
            one = wanted[a] | wanted[b]
            a, b = a[one], b[one]
            distance = _distances(codes[a], codes[b])
            near = distance <= radius
            found.append(np.stack([np.minimum(a, b), np.maximum(a, b), distance], axis=1)[near])
    return np.unique(np.concatenate(found), axis=0)


def _colliding(keys: npt.NDArray[np.uint32], width: int) -> Iterator[tuple[npt.NDArray[np.int64], ...]]:
    """Pairs of indices whose keys differ in two bits at most: their sets of keys with one bit changed meet."""
    flips = np.concatenate([[np.uint64(0)], np.uint64(1) << np.arange(width, dtype=np.uint64)])
    index = np.arange(len(keys), dtype=np.uint64)
    entries = (((keys.astype(np.uint64)[:, None] ^ flips) << np.uint64(32)) | index[:, None]).ravel()
    entries.sort()
    key = (entries >> np.uint64(32)).astype(np.uint32)
    entries = entries.astype(np.uint32)
    places = np.flatnonzero(key[:-1] == key[1:])
    apart = 1
    while len(places):
        for start in range(0, len(places), CHUNK):
            some = places[start : start + CHUNK]
            yield entries[some].astype(np.int64), entries[some + apart].astype(np.int64)
        apart += 1
        places = places[places < len(entries) - apart]
        places = places[key[places] == key[places + apart]]
