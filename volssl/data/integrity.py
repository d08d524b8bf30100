"""Whether a store holds what its manifest says: every volume is read, compared with its row, and damage is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volssl.data.crew import CrashError, crew
from volssl.data.manifest import Row, array_checksum
from volssl.data.store import JOURNAL, Store
from volssl.data.stored_volume import VOLUMES, open_volume, packed, volume_path
from volssl.progress import say, track

CHECKED = ("id", "shape", "dtype", "checksum", "affine", "modality")
AT_ONCE = 1024  # rows of the manifest that are turned into Python's objects together
REPAIR = "Delete the file and repeat `volssl prepare`, which reads again what is missing."
MISSING = "The file is missing. Repeat `volssl prepare`, which reads again what is missing."
OTHER_BYTES = f"Every voxel is right, but the file holds other bytes than were written. {REPAIR}"


@dataclass(frozen=True)
class Damage:
    """A file of a store that is not as it was written.

    Attributes:
        id: the volume that the file belongs to by its name.
        path: the file.
        sentence: what is wrong, and what to do.
    """

    id: str
    path: Path
    sentence: str

    def as_dict(self) -> dict[str, str]:
        """The same for machines."""
        return {"id": self.id, "path": str(self.path), "sentence": self.sentence}


class DamageError(Exception):
    """A file that cannot be read as its row says; the text is a sentence."""


@dataclass(frozen=True)
class Examiner:
    """Says what is wrong with the file of a manifest's row; sent to worker processes, which hold one volume each."""

    store: Path

    def __call__(self, row: Row) -> str | None:
        """One sentence, or None for a file that is as it was written."""
        path = volume_path(self.store, row["id"])
        if not path.is_file():
            return MISSING
        try:
            voxels = _voxels(path, row)
        except DamageError as damage:
            return f"{damage} {REPAIR}"
        if array_checksum(voxels) != row["checksum"]:
            return f"Its voxels are others than were written: the checksum differs. {REPAIR}"
        # Writing it anew tells of the rest: geometry, header, index and what blosc2 does not look at.
        again = packed(voxels, affine=np.array(row["affine"]).reshape(4, 4), modality=row["modality"])
        return None if path.read_bytes() == again else OTHER_BYTES


def damaged(store: Path, *, workers: int = 2) -> list[Damage]:
    """Compare every volume's file with the manifest: there, readable, of its shape and type, voxels and bytes right.

    Files that no row names are told as well. A file that kills or holds up its reader is named, and the rest checked.

    Args:
        store: the folder that `volssl prepare` wrote.
        workers: reading processes, each of which holds a volume and its compressed bytes; with 0, a file that kills its
            reader kills the caller.

    Raises:
        UserError: the folder holds no store.
    """
    opened = Store.open(store)
    found, whole = [], 0
    with crew(workers) as hands:
        sentences = hands.map(Examiner(opened.path), _rows(opened))
        for volume_id, sentence in zip(
            opened.columns("id")["id"], track(sentences, "Checking volumes", len(opened)), strict=True
        ):
            if sentence is None:
                whole += 1
                continue
            if isinstance(sentence, CrashError):
                sentence = f"It cannot be read ({sentence}). {REPAIR}"
            key = volume_id.as_py()
            found.append(Damage(key, volume_path(opened.path, key), sentence))
    return [*_as_written(found, whole), *_strangers(opened)]


def _voxels(path: Path, row: Row) -> np.ndarray:
    """The whole volume (R, A, S), its shape and type compared before anything large is decoded."""
    try:
        stored = open_volume(path)
        found, said = f"{_times(stored.shape)} {stored.dtype}", f"{_times(row['shape'])} {row['dtype']}"
        if found != said:
            raise DamageError(f"It holds {found}, where the manifest says {said}.")
        if any(chunk > n for chunk, n in zip(stored.chunks, stored.shape, strict=True)):
            raise DamageError("It cannot be read: its header is damaged.")
        voxels: np.ndarray = stored[...]
    except DamageError:
        raise
    except Exception as error:  # blosc2 raises whatever it meets in a damaged header, a SyntaxError for one
        raise DamageError("It cannot be read: it is cut short, or its header is damaged.") from error
    return voxels


def _as_written(found: list[Damage], whole: int) -> list[Damage]:
    """Without the files whose bytes alone differ, where this library writes no file of the store as it is."""
    others = [damage for damage in found if damage.sentence == OTHER_BYTES]
    if whole or len(others) < 2:
        return found
    say(f"{len(others)} volumes were written by another version of blosc2: their voxels are right")
    return [damage for damage in found if damage.sentence != OTHER_BYTES]


def _strangers(store: Store) -> Iterator[Damage]:
    """Files among the volumes that no row names; while a prepare is unfinished there may be some."""
    if (store.path / JOURNAL).exists():
        say("a prepare of this store runs or was cut short: files that the manifest does not name are not told")
        return
    named = {f"{volume_id}.b2nd" for volume_id in store.columns("id")["id"].to_pylist()}
    for path in sorted((store.path / VOLUMES).iterdir()):
        if path.name.endswith(".tmp"):
            sentence = "Left behind by a prepare that was stopped. Delete it; the next `volssl prepare` does as well."
        elif path.name not in named:
            sentence = "No row of the manifest names it. Delete it; the next `volssl prepare` does as well."
        else:
            continue
        yield Damage(path.name.removesuffix(".b2nd"), path, sentence)


def _rows(store: Store) -> Iterator[dict[str, Any]]:
    for batch in store.columns(*CHECKED).to_batches(max_chunksize=AT_ONCE):
        yield from batch.to_pylist()


def _times(shape: tuple[int, ...] | list[int]) -> str:
    return "×".join(map(str, shape))
