"""What a store knows of its sources: volumes, refusals, paths; and the journal that outlives a kill.

Each outcome is appended to the journal before the next is taken, and its paths to the private list of paths; at the end
the journal is folded into the manifest, the list of refusals and that of paths, and removed. Folding twice gives the
same files, so a kill at any moment costs the volumes under way and no more. A power cut may also cost what was entered
in the last second: an entry whose volume or paths are not whole is dropped, and its source is read again.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from volssl.data.manifest import Row, table_of
from volssl.data.source_paths import COLUMNS, PATHS, PackedPaths, block, quoted, read_paths, write_paths
from volssl.data.store import JOURNAL, MANIFEST, Store
from volssl.data.stored_volume import VOLUMES, is_whole, volume_path
from volssl.data.volume import PATIENT_UNKNOWN
from volssl.errors import UserError
from volssl.files import PRIVATE, PUBLIC, sync_to_disk, write_bytes, write_text

REJECTED = "rejected.csv"
REJECTED_COLUMNS = ("key", "reason", "sentence", "stamp", "files")
LOCK = ".lock"
# What was told of a volume, or settled for it, and a later run must not forget.
SAID = ("group", "sex", "age_years", "age_band", "site", "scanner")
TOLD = ("patient", "split", "fold", *SAID)
OWN_FILE = re.compile(r"[0-9a-f]{24}\.b2nd|\.[0-9a-f]{24}\.b2nd\.\d+\.tmp")  # what `write_volume` makes
PASSING = ("crash", "failed")  # reasons that another run may not find again
SYNC_SECONDS = 1.0  # between two waits for the disk: one takes as long as reading a small volume


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
        self.paths: PackedPaths[str] = PackedPaths()
        self._by_source: dict[str, str] = {}
        self._by_checksum: dict[str, str] = {}
        self._unsynced: set[str] = set()
        self._entries = 0
        self._synced_s = 0.0
        self._load()
        self._journal, self._path_list = _appending(store / JOURNAL, PUBLIC), _appending(store / PATHS, PRIVATE)

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
                self._write(row["id"], files, row=row)
                return self.reject(duplicate(known, of=row), [Path(path) for path in first])
            return self.reject(duplicate(row, of=known), files)
        self._write(row["id"], files, row=row)
        return None

    def reject(self, rejection: Rejection, files: Sequence[Path]) -> Rejection:
        """Enter a refusal."""
        self._write(rejection.key, files, rejected=asdict(rejection))
        return rejection

    def forget(self, sources: set[str], files: Iterable[str]) -> None:
        """Drop rows and refusals of no current source, where all of their files are among these.

        Args:
            sources: keys of what the files are made into now.
            files: paths; looked at where such a row or refusal is.
        """
        kept = {row["source"]: volume_id for volume_id, row in self.rows.items()} | {key: key for key in self.rejected}
        stale = [source for source in kept if source not in sources]
        current = set(files) if stale else set()
        for source in stale:
            paths = self.paths.get(kept[source], ())
            if paths and current.issuperset(paths):
                self.rejected.pop(source, None)
                self._drop(self._by_source.get(source, ""))

    def fold(self) -> None:
        """Write manifest, refusals and paths, drop volumes that no row names, and end the journal."""
        self._sync_volumes()
        table = table_of(list(self.rows.values()))
        write_bytes(self.store / MANIFEST, _parquet(table))
        refused = [astuple(self.rejected[key]) for key in sorted(self.rejected)]
        write_text(self.store / REJECTED, quoted([REJECTED_COLUMNS, *refused]))
        for key in self.paths.keys() - self.rows.keys() - self.rejected.keys():
            del self.paths[key]
        write_paths(self.store / PATHS, self.paths, {})
        wanted = {volume_path(self.store, volume_id).name for volume_id in self.rows}
        for file in (self.store / VOLUMES).iterdir():
            if file.name not in wanted and OWN_FILE.fullmatch(file.name):
                file.unlink()
        self.close()
        (self.store / JOURNAL).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; one in which nothing was written leaves nothing behind."""
        for file, name in ((self._journal, JOURNAL), (self._path_list, PATHS)):
            file.close()
            path = self.store / name
            if path.exists() and not path.stat().st_size:
                path.unlink()

    def _sync_volumes(self) -> None:
        """Before the manifest names them, the new volumes are on the disk."""
        for volume_id in sorted(self._unsynced & self.rows.keys()):
            sync_to_disk(volume_path(self.store, volume_id))
        sync_to_disk(self.store / VOLUMES)

    def _write(self, key: str, files: Sequence[Path], **outcome: dict[str, Any]) -> None:
        """Enter an outcome: a `row`, or what was `rejected`. The paths go first, so that no entry lacks its own."""
        paths = tuple(str(path) for path in files)
        self._entries += 1
        heading = "" if self._path_list.tell() else quoted([COLUMNS])
        self._path_list.write(heading + block(self._entries, key, paths))
        self._path_list.flush()
        self._journal.write(json.dumps({"key": key, "paths": len(paths), **outcome}) + "\n")
        self._journal.flush()
        if time.monotonic() - self._synced_s > SYNC_SECONDS:
            os.fsync(self._path_list.fileno())
            os.fsync(self._journal.fileno())
            self._synced_s = time.monotonic()
        self._apply(key, paths, outcome)

    def _apply(self, key: str, paths: tuple[str, ...], outcome: dict[str, Any]) -> None:
        self.paths[key] = paths
        if "row" in outcome:
            self._enter(outcome["row"])
        else:
            rejection = Rejection(**outcome["rejected"])
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
            self.rejected[record["key"]] = Rejection(**(record | {"files": int(record["files"])}))
        self.paths, blocks = read_paths(self.store / PATHS)
        if (self.store / JOURNAL).exists():
            self._resume(blocks)

    def _resume(self, blocks: PackedPaths[int]) -> None:
        """Do again what the journal of a run that was cut short tells.

        An entry without its paths is passed over: a power cut took them, or the fold had come so far that they are
        settled, and then the manifest tells all.
        """
        write_paths(self.store / PATHS, self.paths, blocks)  # without a line that was cut off
        for number, entry in enumerate(_entries(self.store / JOURNAL), start=1):
            self._entries = number
            key, count = entry.pop("key"), entry.pop("paths")
            whose, *paths = blocks.get(number, ("",))
            if (whose, len(paths)) == (key, count):
                self._apply(key, tuple(paths), entry)
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


def _read_csv(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def _entries(journal: Path) -> list[dict[str, Any]]:
    """What a journal tells; its end, where a kill or a power cut left no whole entry, is cut off."""
    entries, size = [], 0
    for line in journal.read_bytes().splitlines(keepends=True):
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            entries.pop()
            break
        size += len(line)
    os.truncate(journal, size)
    return entries


def _appending(path: Path, mode: int) -> IO[str]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
    return os.fdopen(descriptor, "a", encoding="utf-8", errors="surrogateescape", newline="")
