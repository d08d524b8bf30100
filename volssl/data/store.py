"""The store: one compressed file a volume, of which only the blocks asked for are decoded, and a manifest."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import blosc2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from volssl.data.keys import KEY_FILE, read_key
from volssl.data.manifest import as_box
from volssl.errors import UserError

if TYPE_CHECKING:
    from volssl.views.base import Box

FORMAT = 1  # of the store; another one is refused
MANIFEST = "manifest.parquet"
VOLUMES = "volumes"
JOURNAL = "journal.jsonl"  # there while a prepare is unfinished
CHUNK_VOXELS = (64, 64, 32)  # what one read from disk holds
BLOCK_VOXELS = (32, 32, 16)  # what one decompression yields: a crop touches few of them


@dataclass(frozen=True)
class StoredScan:
    """A volume in a store: a `Scan` that opens its file anew for each read, so it can be sent to a worker."""

    path: Path
    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    modality: str
    foreground: Box

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read a box, or all of it: (C, R, A, S), int16 HU for CT, float32 for MR.

        Raises:
            ValueError: the box is empty or leaves the volume.
            UserError: the file is missing.
        """
        where = box_slices(box, self.shape)
        if not self.path.exists():
            raise UserError(f"{self.path} is missing from its store: run `volssl prepare` again")
        stored = blosc2.open(str(self.path), mode="r", dparams={"nthreads": 1})
        return np.asarray(stored[where])[np.newaxis]


class Store:
    """A folder that `volssl prepare` wrote; open it with `Store.open`.

    Attributes:
        path: the folder.
        rows: the manifest, one row a volume, in the order of the ids (docs/store.md names the columns).
    """

    def __init__(self, path: Path, rows: pa.Table) -> None:
        self.path = path
        self.rows = rows

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            UserError: the folder holds none, or one whose preparation was cut short.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            if (path / JOURNAL).is_file():
                raise UserError(f"{path}: its preparation was cut short; repeat the `volssl prepare` that made it")
            raise UserError(f"{path} holds no store: run `volssl prepare SOURCE --store {path}` first")
        return cls(path, pq.read_table(path / MANIFEST, memory_map=True))

    @cached_property
    def key(self) -> bytes:
        """The secret of the store's hashes."""
        return read_key(self.path / KEY_FILE)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {volume_id: index for index, volume_id in enumerate(self.rows["id"].to_pylist())}

    @cached_property
    def _geometry(self) -> pa.Table:
        return self.rows.select(["shape", "spacing_mm", "affine", "modality", "foreground"])

    def scan(self, volume_id: str) -> StoredScan:
        """The volume of this id, read when asked.

        Raises:
            KeyError: the store has none.
        """
        row = self._geometry.slice(self._index[volume_id], 1).to_pylist()[0]
        return StoredScan(
            path=volume_path(self.path, volume_id),
            id=volume_id,
            shape=tuple(row["shape"]),
            spacing_mm=tuple(row["spacing_mm"]),
            affine=np.array(row["affine"]).reshape(4, 4),
            modality=row["modality"],
            foreground=as_box(row["foreground"]),
        )

    def read(self, volume_id: str, box: Box | None = None) -> np.ndarray:
        """Read a volume's box, or all of it: (C, R, A, S)."""
        return self.scan(volume_id).read(box)


def volume_path(store: Path, volume_id: str) -> Path:
    """Where a volume lies in its store."""
    return store / VOLUMES / f"{volume_id}.b2nd"


def write_volume(store: Path, volume_id: str, array: np.ndarray) -> None:
    """Compress (R, A, S) into the store: a file that is there is whole.

    Raises:
        OSError: the disk is full, or the like; nothing is left behind.
    """
    chunks = fitted(array.shape, CHUNK_VOXELS)
    cparams = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1}  # one thread: the same bytes each time
    packed = blosc2.asarray(
        np.ascontiguousarray(array), chunks=chunks, blocks=fitted(chunks, BLOCK_VOXELS), cparams=cparams
    )
    write_whole(volume_path(store, volume_id), packed.to_cframe())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file aside, sync it, rename it: never half there, and untouched where it is the same already."""
    if path.exists() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_full_disk(error: OSError) -> bool:
    """Whether writing failed for want of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def box_slices(box: Box | None, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of a box inside an array.

    Raises:
        ValueError: the box is empty or leaves the volume.
    """
    if box is None:
        return tuple(slice(0, n) for n in shape)
    for axis, (low, high), n in zip("RAS", box, shape, strict=True):
        if not 0 <= low < high <= n:
            raise ValueError(f"the box {low}:{high} along {axis} does not lie in 0:{n}")
    return tuple(slice(low, high) for low, high in box)


def fitted(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    """Parts of nearly the target's size that divide each axis evenly, so that no thin rest is left."""
    return tuple(-(-n // max(1, round(n / size))) for n, size in zip(shape, target, strict=True))
