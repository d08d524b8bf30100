"""Stores that are a manifest alone, for what looks at rows and reads no voxel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.data.sources import KEY
from volssl.data.keys import key_check, keyed_hash, study_alias
from volssl.data.manifest import SCHEMA, Row, table_of
from volssl.data.store import FORMAT
from volssl.data.volume import PATIENT_UNKNOWN

SECRET = bytes.fromhex(KEY)


def hashed(patient: str) -> str:
    return keyed_hash(SECRET, "patient", patient)


def row(study: str, patient: str | None = None, **values: Any) -> Row:
    """The row of a study `study`, of a patient who is unknown where none is named."""
    volume_id = keyed_hash(SECRET, "volume", study)
    made: Row = dict.fromkeys(SCHEMA.names) | {
        "id": volume_id,
        "group": volume_id,
        "study": keyed_hash(SECRET, "study", study),
        "patient": hashed(patient) if patient else keyed_hash(SECRET, "study", study),
        "notes": [] if patient else [PATIENT_UNKNOWN],
        "aliases": [study_alias(SECRET, study)],
        "modality": "CT",
        "shape": [24, 20, 12],
        "spacing_mm": [2.0, 2.0, 3.0],
        "affine": [2.0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1],
        "foreground": [0, 24, 0, 20, 0, 12],
        "first_slice_z_mm": 0.0,
        "slice_step_z_mm": 3.0,
        "sop": [],
        "checksum": volume_id,
        "source": volume_id,
        "stamp": "",
    }
    return made | values


def write_store(folder: Path, rows: Sequence[Row]) -> Path:
    """Write these rows as a store without volumes."""
    (folder / "volumes").mkdir(parents=True)
    pq.write_table(table_of(list(rows)), folder / "manifest.parquet")
    (folder / "store.json").write_text(json.dumps({"format": FORMAT, "key_check": key_check(SECRET)}))
    (folder / "private.key").write_text(KEY)
    return folder
