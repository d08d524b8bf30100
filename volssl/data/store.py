"""The store: one compressed file a volume, of which only the blocks asked for are decoded, and a manifest."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from volssl.data.keys import KEY_FILE, read_key
from volssl.data.manifest import as_box
from volssl.data.stored_volume import DAMAGE, VOLUMES, open_volume, unreadable, volume_path
from volssl.errors import UserError

if TYPE_CHECKING:
    from volssl.views.base import Box

FORMAT = 3  # of the store; another one is refused
STORE_RECORD = "store.json"
MANIFEST = "manifest.parquet"
JOURNAL = "journal.jsonl"  # there while a prepare is unfinished


@dataclass(frozen=True)
class StoredScan:
    """A volume in a store: a `Scan` that finds its file when it reads, so it can be sent to a worker."""

    path: Path
    id: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    modality: str
    foreground: Box
    intensity: tuple[float, float]

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read a box, or all of it: (C, R, A, S), int16 HU for CT (int32 where they need it), float32 for MR.

        Raises:
            ValueError: the box is empty or leaves the volume.
            UserError: the file is missing or damaged.
        """
        where = box_slices(box, self.shape)
        try:
            stored = open_volume(self.path)
            if stored.shape != self.shape:
                raise ValueError(f"{stored.shape} instead of {self.shape}")
            voxels: np.ndarray = stored[where]
        except DAMAGE as error:
            raise unreadable(self.path, error) from error
        return voxels[np.newaxis]


class Store:
    """A folder that `volssl prepare` wrote; open it with `Store.open`.

    The manifest is read when it is asked for, and a pickled store carries its path alone: a million volumes cost a
    worker what it looks up.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            UserError: the folder holds none, one whose preparation was cut short, a damaged one, or one of another
                version.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            if (path / JOURNAL).is_file():
                raise UserError(f"{path}: its preparation was cut short; repeat the `volssl prepare` that made it")
            raise UserError(f"{path} holds no store: run `volssl prepare SOURCE --store {path}` first")
        check_format(path)
        missing = [name for name in (STORE_RECORD, VOLUMES) if not (path / name).exists()]
        if missing:
            raise UserError(f"{path}: {' and '.join(missing)} missing; copy the whole store again, or prepare it anew")
        return cls(path)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    @cached_property
    def rows(self) -> pa.Table:
        """The manifest, one row a volume, in the order of the ids (docs/store.md names the columns)."""
        return self._table(None)

    def columns(self, *names: str) -> pa.Table:
        """Some columns of the manifest: the others are not read."""
        return self.rows.select(list(names)) if "rows" in self.__dict__ else self._table(list(names))

    @cached_property
    def key(self) -> bytes:
        """The secret of the store's hashes."""
        return read_key(self.path / KEY_FILE)

    @cached_property
    def key_check(self) -> str:
        """What tells this store's key from another's, and leads back to neither; "" where the store does not say."""
        return str(json.loads((self.path / STORE_RECORD).read_text()).get("key_check", ""))

    def __len__(self) -> int:
        return len(self._ids)

    def scan(self, volume_id: str) -> StoredScan:
        """The volume of this id, read when asked.

        Raises:
            KeyError: the store has none.
        """
        index = bisect_left(range(len(self)), volume_id, key=lambda i: self._ids[i].as_py())
        if index == len(self) or self._ids[index].as_py() != volume_id:
            raise KeyError(volume_id)
        shape, spacing_mm, affine, foreground, intensity = (values[index] for values in self._geometry)
        return StoredScan(
            path=volume_path(self.path, volume_id),
            id=volume_id,
            shape=tuple(shape.tolist()),
            spacing_mm=tuple(spacing_mm.tolist()),
            affine=affine.reshape(4, 4).copy(),
            modality=self._modality[index].as_py(),
            foreground=as_box(foreground.tolist()),
            intensity=tuple(intensity.tolist()),
        )

    def read(self, volume_id: str, box: Box | None = None) -> np.ndarray:
        """Read a volume's box, or all of it: (C, R, A, S)."""
        return self.scan(volume_id).read(box)

    def to_datalist(self, *, split: str | None = None, modality: str | None = None) -> list[dict[str, Any]]:
        """The volumes as MONAI's datasets take them: `LoadImaged(keys="image", reader=StoreReader)` reads them.

        Args:
            split: only `train`, `validation` or `test`.
            modality: only `CT` or `MR`.

        Returns:
            A dict a volume: `image`, the path of its file, and of `id`, `patient`, `study`, `modality`, `split`,
            `fold`, `group`, `shape`, `spacing_mm` what is known of every volume: MONAI's loaders take no None.
        """
        names = ("id", "patient", "study", "modality", "split", "fold", "group", "shape", "spacing_mm")
        table = self.columns(*names)
        for name, value in (("split", split), ("modality", modality)):
            table = table if value is None else table.filter(pc.equal(table[name], value))
        table = table.select([name for name in names if not table[name].null_count])
        return [{"image": str(volume_path(self.path, row["id"])), **row} for row in table.to_pylist()]

    @cached_property
    def _ids(self) -> pa.Array:
        return self.columns("id")["id"].combine_chunks()

    @cached_property
    def _modality(self) -> pa.Array:
        return self.columns("modality")["modality"].combine_chunks()

    @cached_property
    def _geometry(self) -> tuple[np.ndarray, ...]:
        """Shape, spacing, affine, foreground and intensity of every volume: (volumes, 3), (volumes, 3), …"""
        widths = {"shape": 3, "spacing_mm": 3, "affine": 16, "foreground": 6}
        table = self.columns(*widths, "intensity_low", "intensity_high")
        arrays = [
            table[name].combine_chunks().flatten().to_numpy().reshape(-1, width) for name, width in widths.items()
        ]
        return (*arrays, np.stack([table["intensity_low"].to_numpy(), table["intensity_high"].to_numpy()], axis=1))

    def _table(self, columns: list[str] | None) -> pa.Table:
        try:
            with pq.ParquetFile(self.path / MANIFEST, memory_map=True) as manifest:
                return manifest.read(columns=columns)
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise UserError(
                f"{self.path / MANIFEST} is damaged; restore it from a copy, or prepare a new store"
            ) from error


def check_format(store: Path) -> None:
    """Refuse the folder of another version of volssl; one without a record is none yet.

    Raises:
        UserError: it was written in another format, or its record is damaged.
    """
    record = store / STORE_RECORD
    if not record.exists():
        return
    try:
        found = json.loads(record.read_text())["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} is damaged; restore it from a copy, or prepare a new store") from error
    if found != FORMAT:
        raise UserError(
            f"{store} was written by another version of volssl (format {found}, not {FORMAT}): prepare a new store"
        )


def box_slices(box: Box | None, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of a box inside an array.

    Raises:
        ValueError: the box is empty or leaves the volume.
    """
    if box is None:
        return tuple(slice(0, n) for n in shape)
    if [len(side) for side in box] != [2, 2, 2] or not all(isinstance(edge, Integral) for side in box for edge in side):
        raise ValueError(f"a box is ((r0, r1), (a0, a1), (s0, s1)) in whole voxels, not {box}")
    for axis, (low, high), n in zip("RAS", box, shape, strict=True):
        if not 0 <= low < high <= n:
            raise ValueError(f"the box {low}:{high} along {axis} does not lie in 0:{n}")
    return tuple(slice(low, high) for low, high in box)
