"""What a store knows of its sources: volumes, refusals, paths; and the journal that outlives a kill.

Each outcome is appended to the journal before the next is taken; at the end the journal is folded into the manifest,
the list of refusals and the private list of paths, and removed. Folding twice gives the same files, so a kill at any
moment costs the volumes under way and no more.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from volssl.data.manifest import Row, table_of
from volssl.data.store import JOURNAL, MANIFEST, Store
from volssl.data.stored_volume import VOLUMES, is_whole, volume_path
from volssl.data.volume import PATIENT_UNKNOWN
from volssl.errors import UserError
from volssl.files import sync_to_disk, write_bytes, write_private

REJECTED = "rejected.csv"
PATHS = "paths.csv"
LOCK = ".lock"
# What was told of a volume, or settled for it, and a later run must not forget.
SAID = ("group", "sex", "age_years", "age_band", "site", "scanner")
TOLD = ("patient", "split", "fold", *SAID)
OWN_FILE = re.compile(r"[0-9a-f]{24}\.b2nd|\.[0-9a-f]{24}\.b2nd\.\d+\.tmp")  # what `write_volume` makes
PASSING = ("crash", "failed")  # reasons that another run may not find again
REJECTED_COLUMNS = ("key", "reason", "sentence", "stamp", "files")


@dataclass(frozen=True)
class Rejection:
    """A source that became no volume: its key, why, what it looked like when it was refused, and of how many files."""

    key: str
    reason: str
    sentence: str
    stamp: str
    files: int = 1


class Ledger:
    """The rows, refusals and paths of a store that is being written."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.rows: dict[str, Row] = {}
        self.rejected: dict[str, Rejection] = {}
        self.paths: dict[str, tuple[str, ...]] = {}
        self._by_source: dict[str, str] = {}
        self._by_checksum: dict[str, str] = {}
        self._unsynced: set[str] = set()
        self._load()
        # It names paths as well: private.
        journal = os.open(store / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._journal = os.fdopen(journal, "a", encoding="utf-8")

    def settled(self, source: str, stamp: str) -> bool:
        """Whether this source was dealt with and has not changed since."""
        row = self.rows.get(self._by_source.get(source, ""))
        if row is not None:
            return bool(row["stamp"] == stamp) and volume_path(self.store, row["id"]).exists()
        refused = self.rejected.get(source)
        return refused is not None and refused.stamp == stamp and refused.reason not in PASSING

    def refused(self, source: str) -> Rejection | None:
        """Why this source became no volume; None where it did, or is not known."""
        return self.rejected.get(source)

    def accept(self, row: Row, files: Sequence[Path]) -> Rejection | None:
        """Enter a volume; of two sources of the same voxels one is refused, as long as the first is there.

        The first one stays, but for one that names no patient, where the second does: whose scan it is decides on which
        side of the split it lies.
        """
        for known in (self.rows.get(row["id"]), self.rows.get(self._by_checksum.get(row["checksum"], ""))):
            if known is None or known["source"] == row["source"]:
                continue
            first = self.paths.get(known["id"], ())
            if not first or not Path(first[0]).exists():
                continue
            if names_nobody(known) and not names_nobody(row):
                row = row | {"aliases": sorted({*row["aliases"], *known["aliases"]})}
                self._write({"paths": [row["id"], [str(path) for path in files]], "row": row})
                return self.reject(duplicate(known, of=row), [Path(path) for path in first])
            return self.reject(duplicate(row, of=known), files)
        self._write({"paths": [row["id"], [str(path) for path in files]], "row": row})
        return None

    def reject(self, rejection: Rejection, files: Sequence[Path]) -> Rejection:
        """Enter a refusal."""
        self._write({"paths": [rejection.key, [str(path) for path in files]], "rejected": asdict(rejection)})
        return rejection

    def forget(self, sources: set[str], files: set[str]) -> None:
        """Drop rows and refusals of no current source, where all of their files are among these.

        Args:
            sources: keys of what the files are made into now.
            files: paths.
        """
        kept = {row["source"]: volume_id for volume_id, row in self.rows.items()} | {key: key for key in self.rejected}
        for source in [source for source in kept if source not in sources]:
            paths = self.paths.get(kept[source], ())
            if paths and files.issuperset(paths):
                self.rejected.pop(source, None)
                self._drop(self._by_source.get(source, ""))

    def fold(self) -> None:
        """Write manifest, refusals and paths, drop volumes that no row names, and end the journal."""
        self._sync_volumes()
        table = table_of(list(self.rows.values()))
        write_bytes(self.store / MANIFEST, _parquet(table))
        refused = [asdict(self.rejected[key]) for key in sorted(self.rejected)]
        write_bytes(self.store / REJECTED, _csv(REJECTED_COLUMNS, refused).encode())
        kept = sorted({*self.rows, *self.rejected} & self.paths.keys())
        paths = _csv(("key", "path"), [{"key": key, "path": path} for key in kept for path in self.paths[key]])
        if not (self.store / PATHS).exists() or _text(self.store / PATHS) != paths:
            write_private(self.store / PATHS, paths)
        wanted = {volume_path(self.store, volume_id).name for volume_id in self.rows}
        for file in (self.store / VOLUMES).iterdir():
            if file.name not in wanted and OWN_FILE.fullmatch(file.name):
                file.unlink()
        self.close()
        (self.store / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the journal; one in which nothing was written leaves nothing behind."""
        self._journal.close()
        journal = self.store / JOURNAL
        if journal.exists() and not journal.stat().st_size:
            journal.unlink()

    def _sync_volumes(self) -> None:
        """Before the manifest names them, the new volumes are on the disk."""
        for volume_id in sorted(self._unsynced & self.rows.keys()):
            sync_to_disk(volume_path(self.store, volume_id))
        sync_to_disk(self.store / VOLUMES)

    def _write(self, entry: dict[str, Any]) -> None:
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        key, paths = entry["paths"]
        self.paths[key] = tuple(paths)
        if "row" in entry:
            self._enter(entry["row"])
        else:
            rejection = Rejection(**entry["rejected"])
            self._drop(self._by_source.get(rejection.key, ""))
            self.rejected[rejection.key] = rejection

    def _enter(self, row: Row) -> None:
        """Put a row in the place of the one that has its source, its id or its voxels, with what was told of that."""
        earlier = (self._by_source.get(row["source"]), row["id"], self._by_checksum.get(row["checksum"]))
        for replaced in [self._drop(volume_id) for volume_id in dict.fromkeys(filter(None, earlier))]:
            if replaced is not None:
                told = TOLD if names_nobody(row) or not names_nobody(replaced) else SAID
                row = row | {name: replaced[name] for name in told if replaced[name] is not None}
                if replaced["checksum"] != row["checksum"]:
                    row["group"] = None
        self.rejected.pop(row["source"], None)
        self._unsynced.add(row["id"])
        self._index(row)

    def _drop(self, volume_id: str) -> Row | None:
        row = self.rows.pop(volume_id, None)
        if row is not None:
            self._by_source.pop(row["source"], None)
            self._by_checksum.pop(row["checksum"], None)
        return row

    def _index(self, row: Row) -> None:
        self.rows[row["id"]] = row
        self._by_source[row["source"]] = self._by_checksum[row["checksum"]] = row["id"]

    def _load(self) -> None:
        if (self.store / MANIFEST).exists():
            for row in Store(self.store).rows.to_pylist():
                self._index(row)
        for record in _read_csv(self.store / REJECTED):
            told = {name: record[name] for name in REJECTED_COLUMNS[:-1]}
            self.rejected[record["key"]] = Rejection(**told, files=int(record["files"]))
        for key, records in groupby(_read_csv(self.store / PATHS), key=lambda record: record["key"]):
            self.paths[key] = tuple(record["path"] for record in records)
        journal = self.store / JOURNAL
        if not journal.exists():
            return
        lines = journal.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]  # a kill may have cut the last one
        os.truncate(journal, sum(map(len, whole)))
        for line in whole:
            self._apply(json.loads(line))
        for volume_id in [one for one in self._unsynced if not is_whole(volume_path(self.store, one))]:
            volume_path(self.store, volume_id).unlink(missing_ok=True)
            self._drop(volume_id)  # a power cut came before it was on the disk: it is read again


def names_nobody(row: Row) -> bool:
    """Whether the study stands for a patient whom its source does not name."""
    return PATIENT_UNKNOWN in row["notes"]


def duplicate(row: Row, *, of: Row) -> Rejection:
    """The refusal of a volume whose voxels are stored already."""
    return Rejection(
        row["source"], "duplicate", f"The same voxels as {of['id']}, stored once.", row["stamp"], row["files"]
    )


@contextmanager
def writing(store: Path) -> Iterator[Ledger]:
    """Hold a store alone for writing, and its ledger.

    Raises:
        UserError: another process is writing to it.
    """
    (store / VOLUMES).mkdir(parents=True, exist_ok=True)
    # A record lock belongs to this process alone: workers that outlive a kill do not keep it.
    with (store / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{store}: another prepare is writing to it; wait for its end, or take another store"
            ) from error
        ledger = Ledger(store)
        try:
            yield ledger
        finally:
            ledger.close()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(columns: tuple[str, ...], records: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    # all quoted: a carriage return in a path would else end its line
    writer = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    return list(csv.DictReader(io.StringIO(_text(path), newline="")))


def _text(path: Path) -> str:
    """A text as it stands; a path may hold bytes that are no UTF-8."""
    return path.read_bytes().decode("utf-8", "surrogateescape")
