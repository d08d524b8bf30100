"""From folders of scans to a store: discover, read, check, write; what fails is listed, never dropped in silence."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from volssl.data import checks
from volssl.data.crew import CrashError, Crew, crew, quiet_libraries
from volssl.data.discovery import Discovery, discover
from volssl.data.duplicates import settle_groups
from volssl.data.estimate import estimate
from volssl.data.keys import KEY_FILE, key_check, keyed_hash, settle_key
from volssl.data.ledger import LOCK, REJECTED, Ledger, Rejection, writing
from volssl.data.manifest import Row, row_of
from volssl.data.patients import PatientTable, find_patients, join_patients, settle_splits
from volssl.data.source_paths import PATHS
from volssl.data.sources import Refused, Source, gather
from volssl.data.splits import SPLITS, read_split_plan
from volssl.data.store import FORMAT, JOURNAL, MANIFEST, STORE_RECORD, check_format
from volssl.data.stored_volume import VOLUMES, volume_path, write_volume
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import PATIENT_UNKNOWN, RefusedError, Volume
from volssl.errors import UsageError, UserError
from volssl.files import is_full_disk, write_text
from volssl.progress import counted, say, track

OWN = {STORE_RECORD, MANIFEST, JOURNAL, VOLUMES, KEY_FILE, PATHS, REJECTED, LOCK}


@dataclass
class PrepareSummary:
    """What `prepare` did.

    Attributes:
        stored: volumes written by this run.
        known: volumes of these sources that an earlier run had written.
        rejected: sources of this run that became no volume, a count for each reason.
        passed_over: files not meant to be read, a count for each rule.
        volumes, patients, splits: what the whole store now holds.
        near_duplicates: volumes of it that show an acquisition which another one stands for.
    """

    store: Path
    stored: int = 0
    known: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    volumes: int = 0
    patients: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    near_duplicates: int = 0

    def __str__(self) -> str:
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        splits = ", ".join(f"{self.splits[name]} {name}" for name in SPLITS if name in self.splits)
        marked = f", {self.near_duplicates} marked as near-duplicates" if self.near_duplicates else ""
        return (
            f"{counted(self.stored, 'volume')} stored, {self.known:,} there before, {self.rejected.total():,} rejected"
            + (f" ({refused})" if refused else "")
            + f"; the store holds {self.volumes:,} of {counted(self.patients, 'patient')} ({splits}){marked}"
        )

    def as_dict(self) -> dict[str, object]:
        """The same for machines: plain values alone."""
        counts = {"rejected": dict(self.rejected), "passed_over": dict(self.passed_over)}  # asdict breaks a Counter
        return asdict(self) | counts | {"store": str(self.store)}


@dataclass(frozen=True)
class Writer:
    """Reads a source, checks it and writes it to the store; sent to worker processes."""

    store: Path
    key: bytes
    modality: str | None
    oblique: str

    def __call__(self, source: Source) -> Row | Rejection:
        """The source's manifest row, or its refusal."""
        name, stamp = self.name(source), self.stamp(source)
        try:
            volume = _checked(source, self.modality, self.oblique)
            row = row_of(volume, self.key, source=name, stamp=stamp)
        except RefusedError as refusal:
            return Rejection(name, refusal.reason, refusal.sentence, stamp)
        told_by_voxels = not volume.origin.identity
        if not (told_by_voxels and volume_path(self.store, row["id"]).exists()):
            write_volume(self.store, row["id"], volume.array, affine=volume.affine, modality=volume.modality or "")
        return row

    def name(self, source: Source) -> str:
        """The key of a source."""
        return keyed_hash(self.key, "source", source.source)

    def stamp(self, source: Source) -> str:
        """Changes when the source does, or what the user says of it."""
        said = "" if source.says_modality else self.modality
        return keyed_hash(self.key, "stamp", f"{source.stamp} {said} {self.oblique}")


def prepare(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    modality: str | None = None,
    patients: str | Path | None = None,
    key: str | Path | None = None,
    workers: int | None = None,
    oblique: str = "keep",
) -> PrepareSummary:
    """Read every volume under the sources into the store; what an earlier run did is not done again.

    Args:
        sources: folders or files.
        modality: `CT` or `MR`, for files that do not say it; None tells it from the values.
        patients: a table of what files do not tell; None takes the `patients.csv` of the sources, where there are any.
        key: a file with the secret of the hashes; None takes the store's, a source's `volssl.key`, or makes one.
        workers: reading processes; 0 reads in this one, None takes one a core, at most eight.
        oblique: `keep` leaves a grid that lies aslant as it is, `resample` brings it to straight RAS axes.

    Raises:
        UserError: nothing can be read, the disk cannot hold it, another prepare holds the store, or a table is wrong.
    """
    modality = modality.upper() if modality else None
    if modality not in (None, "CT", "MR"):
        raise UsageError(f"--modality {modality} is neither CT nor MR")
    store = Path(store)
    _check_folder(store)
    roots = [Path(source) for source in sources]
    discovery = discover(roots, exclude=store)
    if not discovery.files:
        raise UserError(_nothing(roots, discovery, Counter()))
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    try:
        with writing(store) as ledger, crew(workers) as hands:
            quiet_libraries()
            check_format(store)
            secret = settle_key(store, roots, Path(key) if key else None, check=_record(store).get("key_check"))
            table = find_patients(roots, Path(patients) if patients else None)
            summary = PrepareSummary(store, passed_over=discovery.passed_over)
            writer = Writer(store, secret, modality, oblique)
            gathered = gather(discovery.files, hands)
            discovery.claim(file for source in gathered if not isinstance(source, Refused) for file in source.files)
            _tell_passed_over(discovery)
            due = _due(gathered, writer, ledger, summary)
            if due:
                say(f"{estimate([one for one, _ in due], store, workers)}.")
            _take_in(due, writer, ledger, hands, summary)
            _forget_stale(gathered, discovery, writer, ledger)
            _finish(ledger, table, secret, summary)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise UserError(f"{store}: the disk is full; make room and repeat: what is stored stays") from error
    if not summary.stored and not summary.known and not summary.rejected["duplicate"]:
        raise UserError(_nothing(roots, discovery, summary.rejected) + f"; {store / 'rejected.csv'} says why")
    return summary


def _checked(source: Source, modality: str | None, oblique: str) -> Volume:
    """Read and check; one scan that nobody foresaw does not stop an archive's reading, but is told."""
    try:
        return checks.check(source.read(), modality, oblique=oblique)
    except RefusedError:
        raise
    except Exception as error:
        raise unforeseen(error, "Reading it") from error


def _due(
    sources: Sequence[Source | Refused], writer: Writer, ledger: Ledger, summary: PrepareSummary
) -> list[tuple[Source, int]]:
    """The sources that are still to be read; the refused ones are entered, the settled ones counted.

    Each comes with the number of its files that are of no source before it: so a file with several volumes in it counts
    once.
    """
    due: list[tuple[Source, int]] = []
    counted: set[Path] = set()
    for source in sources:
        if isinstance(source, Refused):
            name = keyed_hash(writer.key, "source", str(source.found.path))
            rejection = Rejection(name, source.reason, source.sentence, "")
            summary.rejected[source.reason] += 1
            if ledger.refused(name) != rejection:
                ledger.reject(rejection, [source.found.path])
        elif not ledger.settled(writer.name(source), writer.stamp(source)):
            due.append((source, len(set(source.files) - counted) if source.shares_files else source.file_count))
        elif refused := ledger.refused(writer.name(source)):
            summary.rejected[refused.reason] += 1
        else:
            summary.known += 1
        if not isinstance(source, Refused) and source.shares_files:  # of millions of slices, no list is kept here
            counted.update(source.files)
    return due


def _take_in(
    due: Sequence[tuple[Source, int]], writer: Writer, ledger: Ledger, hands: Crew, summary: PrepareSummary
) -> None:
    """Bring every source to its row or its refusal, each entered in the ledger before the next."""
    outcomes = hands.map(writer, [source for source, _ in due])
    for (source, files), outcome in zip(due, track(outcomes, "Reading volumes", len(due)), strict=True):
        if isinstance(outcome, CrashError):
            name, stamp = writer.name(source), writer.stamp(source)
            outcome = Rejection(name, "crash", f"Reading it: {outcome}.", stamp)
        outcome = replace(outcome, files=files) if isinstance(outcome, Rejection) else outcome | {"files": files}
        known = isinstance(outcome, dict) and outcome["id"] in ledger.rows
        refused = (
            ledger.reject(outcome, source.files)
            if isinstance(outcome, Rejection)
            else ledger.accept(outcome, source.files)
        )
        if refused:
            summary.rejected[refused.reason] += 1
        elif known:
            summary.known += 1
        else:
            summary.stored += 1


def _forget_stale(sources: Sequence[Source | Refused], discovery: Discovery, writer: Writer, ledger: Ledger) -> None:
    """Drop what an earlier run made of files that now, all of them, are of other sources."""
    current = {keyed_hash(writer.key, "source", str(one.found.path)) for one in sources if isinstance(one, Refused)}
    current |= {writer.name(one) for one in sources if not isinstance(one, Refused)}
    ledger.forget(current, (str(one.path) for one in discovery.files))


def _finish(ledger: Ledger, table: PatientTable | None, key: bytes, summary: PrepareSummary) -> None:
    rows = list(ledger.rows.values())
    if table is not None and rows:
        join_patients(rows, table, key)
    summary.near_duplicates = settle_groups(rows)
    plan = read_split_plan(ledger.store)
    settle_splits(rows, key, plan)
    record = _record(ledger.store) | {
        "format": FORMAT,
        "thresholds": asdict(checks.THRESHOLDS),
        "passed_over": dict(sorted(summary.passed_over.items())),
        "splits": plan.as_dict(),
        "key_check": key_check(key),
    }
    write_text(ledger.store / STORE_RECORD, json.dumps(record, indent=2) + "\n")
    ledger.fold()
    summary.volumes = len(rows)
    summary.patients = len({row["patient"] for row in rows})
    summary.splits = dict(Counter(row["split"] for row in rows))
    unknown = sum(PATIENT_UNKNOWN in row["notes"] for row in rows)
    if unknown:
        some = f"{unknown:,} of {counted(len(rows), 'volume')} {'names' if unknown == 1 else 'name'} no patient"
        say(f"{some}: each study counts as one; --patients CSV says more")


def _record(store: Path) -> dict[str, Any]:
    """What store.json holds; nothing where there is none yet."""
    record = store / STORE_RECORD
    return dict(json.loads(record.read_text())) if record.exists() else {}


def _check_folder(store: Path) -> None:
    """A store is a folder of its own: what it does not know it would not touch, but the user would not find again.

    Raises:
        UserError: the folder is a file, or holds other things and no store.
    """
    if store.exists() and not store.is_dir():
        raise UserError(f"{store} is a file: name a new folder for the store")
    inside = {path.name for path in store.iterdir()} if store.exists() else set()
    strange = {name for name in inside if name not in OWN and not name.endswith(".tmp")}
    if strange and not inside & {STORE_RECORD, MANIFEST, JOURNAL}:
        raise UserError(f"{store} holds {sorted(strange)[0]!r} and is no store: name a new folder for it")


def _tell_passed_over(discovery: Discovery) -> None:
    if discovery.passed_over:
        say(f"Passed over by rule: {discovery.passed_over_line()}.")


def _nothing(roots: Sequence[Path], discovery: Discovery, rejected: Counter[str]) -> str:
    where = ", ".join(map(str, roots))
    counts = [discovery.passed_over_line()] if discovery.passed_over else []
    counts += [f"rejected: {count} {reason}" for reason, count in sorted(rejected.items())]
    seen = f" ({'; '.join(counts)})" if counts else ""
    return f"no readable file in {where}{seen}: name a folder with DICOM, NIfTI, NRRD or MetaImage volumes"
