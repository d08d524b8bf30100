"""The manifest's columns, and the row a volume gets: hashes and geometry, nothing that names a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from volssl.data.checks import air_level, foreground, subsample
from volssl.data.duplicates import perceptual_hash
from volssl.data.keys import keyed_hash, study_alias
from volssl.data.volume import PATIENT_UNKNOWN, Volume

if TYPE_CHECKING:
    from volssl.views.base import Box

Row = dict[str, Any]

# docs/store.md says what each column holds.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("aliases", pa.list_(pa.string())),
        ("modality", pa.string()),
        ("split", pa.string()),
        ("fold", pa.int32()),
        ("group", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("spacing_mm", pa.list_(pa.float64())),
        ("affine", pa.list_(pa.float64())),
        ("foreground", pa.list_(pa.int32())),
        ("first_slice_z_mm", pa.float64()),
        ("slice_step_z_mm", pa.float64()),
        ("sop", pa.list_(pa.string())),
        ("dtype", pa.string()),
        ("air_share", pa.float64()),
        ("intensity_mean", pa.float64()),
        ("intensity_std", pa.float64()),
        ("intensity_low", pa.float64()),
        ("intensity_high", pa.float64()),
        ("perceptual_hash", pa.string()),
        ("sex", pa.string()),
        ("age_years", pa.int32()),
        ("age_band", pa.string()),
        ("scanner", pa.string()),
        ("site", pa.string()),
        ("source_format", pa.string()),
        ("files", pa.int32()),
        ("notes", pa.list_(pa.string())),
        ("checksum", pa.string()),
        ("source", pa.string()),
        ("stamp", pa.string()),
    ]
)
SAMPLED = 96  # voxels along an axis, at most, that the intensity figures look at


def row_of(volume: Volume, key: bytes, *, source: str, stamp: str) -> Row:
    """Describe a checked volume; split, fold, group, age band and files are settled later, in sight of the others.

    The id comes from the series' identity, or where the source has none, from the voxels and their place: it stays the
    same when the files move.
    """
    origin, modality = volume.origin, volume.modality or ""
    box = foreground(volume.array, modality)
    checksum = array_checksum(volume.array)
    place = " ".join(f"{value:.4f}" for value in volume.affine.ravel()).replace("-0.0000", "0.0000")
    volume_id = keyed_hash(key, "volume", origin.identity or f"{checksum} {place}")
    study = keyed_hash(key, "study", origin.study or origin.identity or checksum)
    notes = list(volume.notes) if origin.patient else [*volume.notes, PATIENT_UNKNOWN]
    return {
        "id": volume_id,
        "patient": keyed_hash(key, "patient", origin.patient) if origin.patient else study,
        "study": study,
        "aliases": sorted({study_alias(key, name) for name in origin.names}),
        "modality": volume.modality,
        "split": None,
        "fold": None,
        "group": None,
        "shape": list(volume.array.shape),
        "spacing_mm": [round(mm, 6) for mm in volume.spacing_mm],
        "affine": volume.affine.ravel().tolist(),
        "foreground": [edge for pair in box for edge in pair],
        "first_slice_z_mm": volume.first_slice_z_mm,
        "slice_step_z_mm": volume.slice_step_z_mm,
        "sop": [keyed_hash(key, "sop", sop) for sop in origin.sops],
        "dtype": str(volume.array.dtype),
        **intensities(volume.array, box, modality),
        "perceptual_hash": perceptual_hash(volume.array, volume.spacing_mm, box, modality),
        "sex": origin.sex,
        "age_years": origin.age_years,
        "age_band": None,
        "scanner": origin.scanner,
        "site": None,
        "source_format": origin.source_format,
        "files": 0,
        "notes": notes,
        "checksum": checksum,
        "source": source,
        "stamp": stamp,
    }


def intensities(array: np.ndarray, box: Box, modality: str) -> dict[str, float]:
    """Share of air in the volume, and the figures by which a method may normalise: of every n-th voxel in the box.

    Args:
        array: (R, A, S), HU for CT.
        box: the foreground.

    Returns:
        `air_share`; `intensity_mean` and `_std`; `intensity_low` and `_high`, the percentiles .5 and 99.5.
    """
    sample, _ = subsample(array, SAMPLED)
    inside, _ = subsample(array[tuple(slice(*edges) for edges in box)], SAMPLED)
    low, high = np.percentile(inside, (0.5, 99.5))
    return {
        "air_share": float((sample <= air_level(sample, modality)).mean()),
        "intensity_mean": float(inside.mean(dtype=np.float64)),
        "intensity_std": float(inside.std(dtype=np.float64)),
        "intensity_low": float(low),
        "intensity_high": float(high),
    }


def array_checksum(array: np.ndarray) -> str:
    """XXH3 of the voxels in C order with their shape and type: 128 bits, in hexadecimal digits.

    It finds damage and copies, and guards against nobody: SHA-256 takes ten times as long, a tenth of all that a
    volume's preparation costs.
    """
    digest = xxhash.xxh3_128(f"{array.shape} {array.dtype.str}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def age_band(age_years: int | None) -> str | None:
    """The band that tables group by; None where the age is unknown."""
    if age_years is None:
        return None
    for below, name in ((18, "0-17"), (40, "18-39"), (60, "40-59"), (80, "60-79")):
        if age_years < below:
            return name
    return "80+"


def table_of(rows: list[Row]) -> pa.Table:
    """The manifest of these rows, in the order of their ids."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), schema=SCHEMA)


def as_box(edges: list[int]) -> Box:
    """The six edges of a manifest's foreground as a box."""
    return (edges[0], edges[1]), (edges[2], edges[3]), (edges[4], edges[5])
