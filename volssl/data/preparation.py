"""From folders of scans to a store: discover, read, check, write; what fails is listed, never dropped in silence."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from volssl.data import checks
from volssl.data.crew import CrashError, Crew, crew, quiet_libraries
from volssl.data.dicom import grouped
from volssl.data.dicom_headers import Header, read_headers
from volssl.data.discovery import Discovery, Found, discover
from volssl.data.keys import keyed_hash, settle_key
from volssl.data.ledger import Ledger, Rejection, writing
from volssl.data.manifest import PATIENT_UNKNOWN, Row, row_of
from volssl.data.patients import PatientTable, find_patients, join_patients, settle_splits
from volssl.data.splits import SPLITS
from volssl.data.store import FORMAT, is_full_disk, volume_path, write_volume, write_whole
from volssl.data.volume import RefusedError, Volume
from volssl.data.volumes import VolumeFile
from volssl.errors import UserError
from volssl.progress import say, track

STORE_RECORD = "store.json"
HEADERS_AT_ONCE = 64


class Source(Protocol):
    """What may become a volume: a file, or a stack of DICOM slices."""

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def source(self) -> str: ...
    @property
    def stamp(self) -> str: ...
    @property
    def says_modality(self) -> bool: ...
    def read(self) -> Volume: ...


@dataclass(frozen=True)
class Refused:
    """A file that its header already rules out."""

    found: Found
    reason: str
    sentence: str


@dataclass
class PrepareSummary:
    """What `prepare` did.

    Attributes:
        stored: volumes written by this run.
        known: volumes of these sources that an earlier run had written.
        rejected: sources of this run that became no volume, a count for each reason.
        passed_over: files not meant to be read, a count for each rule.
        volumes, patients, splits: what the whole store now holds.
    """

    store: Path
    stored: int = 0
    known: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    volumes: int = 0
    patients: int = 0
    splits: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejected.items()))
        splits = ", ".join(f"{self.splits[name]} {name}" for name in SPLITS if name in self.splits)
        return (
            f"{self.stored} volumes stored, {self.known} there before, {self.rejected.total()} rejected"
            + (f" ({refused})" if refused else "")
            + f"; the store holds {self.volumes} of {self.patients} patients ({splits})"
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

    def __call__(self, source: Source) -> Row | Rejection:
        """The source's manifest row, or its refusal."""
        name, stamp = self.name(source), self.stamp(source)
        try:
            volume = _checked(source, self.modality)
        except RefusedError as refusal:
            return Rejection(name, refusal.reason, refusal.sentence, stamp)
        row = row_of(volume, self.key, source=name, stamp=stamp, files=len(source.files))
        told_by_voxels = not volume.origin.identity
        if not (told_by_voxels and volume_path(self.store, row["id"]).exists()):
            write_volume(self.store, row["id"], volume.array)
        return row

    def name(self, source: Source) -> str:
        """The key of a source."""
        return keyed_hash(self.key, "source", source.source)

    def stamp(self, source: Source) -> str:
        """Changes when the source does, or what the user says of it."""
        said = "" if source.says_modality else self.modality
        return keyed_hash(self.key, "stamp", f"{source.stamp} {said}")


def prepare(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    modality: str | None = None,
    patients: str | Path | None = None,
    key: str | Path | None = None,
    workers: int | None = None,
) -> PrepareSummary:
    """Read every volume under the sources into the store; what an earlier run did is not done again.

    Args:
        sources: folders or files.
        modality: `CT` or `MR`, for files that do not say it; None tells it from the values.
        patients: a table of what files do not tell; None takes `patients.csv` in a source's root, where there is one.
        key: a file with the secret of the hashes; None takes the store's, a source's `volssl.key`, or makes one.
        workers: reading processes; 0 reads in this one, None takes one a core, at most eight.

    Raises:
        UserError: nothing can be read, the disk is full, another prepare holds the store, or a table is wrong.
    """
    if modality not in (None, "CT", "MR"):
        raise UserError(f"--modality {modality} is neither CT nor MR")
    store = Path(store)
    roots = [Path(source) for source in sources]
    discovery = discover(roots, exclude=store)
    _tell_passed_over(discovery)
    if not discovery.files:
        raise UserError(_nothing(roots, discovery, Counter()))
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    try:
        with writing(store) as ledger, crew(workers) as hands:
            quiet_libraries()
            _check_format(store)
            secret = settle_key(store, roots, Path(key) if key else None)
            table = find_patients(roots, Path(patients) if patients else None)
            summary = PrepareSummary(store, passed_over=discovery.passed_over)
            _take_in(gather(discovery.files, hands), Writer(store, secret, modality), ledger, hands, summary)
            _finish(ledger, table, secret, summary)
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise UserError(f"{store}: the disk is full; make room and repeat: what is stored stays") from error
    if not summary.stored and not summary.known:
        raise UserError(_nothing(roots, discovery, summary.rejected) + f"; {store / 'rejected.csv'} says why")
    return summary


def gather(files: Sequence[Found], hands: Crew) -> list[Source | Refused]:
    """Sources of one volume each, in a fixed order: files as they are, DICOM slices grouped by their headers."""
    sources: list[Source | Refused] = [VolumeFile(one) for one in files if one.format != "dicom"]
    slices = [one for one in files if one.format == "dicom"]
    headers = []
    for found, header in zip(slices, track(_headers(slices, hands), "Reading headers", len(slices)), strict=True):
        if isinstance(header, Header):
            headers.append(header)
        else:
            sources.append(Refused(found, header.reason, header.sentence))
    return [*sources, *grouped(headers)]


def _checked(source: Source, modality: str | None) -> Volume:
    """Read and check; one scan that nobody foresaw does not stop an archive's reading, but is told."""
    try:
        return checks.check(source.read(), modality)
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError("failed", f"Reading it failed with {type(error).__name__}.") from error


def _headers(files: Sequence[Found], hands: Crew) -> Iterator[Header | RefusedError]:
    portions = [files[start : start + HEADERS_AT_ONCE] for start in range(0, len(files), HEADERS_AT_ONCE)]
    for portion, headers in zip(portions, hands.map(read_headers, portions), strict=True):
        if isinstance(headers, CrashError):
            yield from (RefusedError("crash", f"Reading its header: {headers}.") for _ in portion)
        else:
            yield from headers


def _take_in(
    sources: Sequence[Source | Refused], writer: Writer, ledger: Ledger, hands: Crew, summary: PrepareSummary
) -> None:
    """Bring every source to its row or its refusal, each entered in the ledger before the next."""
    due: list[Source] = []
    for source in sources:
        if isinstance(source, Refused):
            rejection = Rejection(
                keyed_hash(writer.key, "source", str(source.found.path)), source.reason, source.sentence, ""
            )
            summary.rejected[source.reason] += 1
            if ledger.refused(rejection.key) != rejection:
                ledger.reject(rejection, source.found.path)
        elif not ledger.settled(writer.name(source), writer.stamp(source)):
            due.append(source)
        elif refused := ledger.refused(writer.name(source)):
            summary.rejected[refused.reason] += 1
        else:
            summary.known += 1
    for source, outcome in zip(due, track(hands.map(writer, due), "Reading volumes", len(due)), strict=True):
        if isinstance(outcome, CrashError):
            outcome = Rejection(writer.name(source), "crash", f"Reading it: {outcome}.", writer.stamp(source))
        known = isinstance(outcome, dict) and outcome["id"] in ledger.rows
        refused = (
            ledger.reject(outcome, source.path)
            if isinstance(outcome, Rejection)
            else ledger.accept(outcome, source.path)
        )
        if refused:
            summary.rejected[refused.reason] += 1
        elif known:
            summary.known += 1
        else:
            summary.stored += 1


def _finish(ledger: Ledger, table: PatientTable | None, key: bytes, summary: PrepareSummary) -> None:
    rows = list(ledger.rows.values())
    if table is not None and rows:
        join_patients(rows, table, key)
    settle_splits(rows, key)
    for row in rows:
        row["group"] = row["group"] or row["id"]
    record = {
        "format": FORMAT,
        "thresholds": asdict(checks.THRESHOLDS),
        "passed_over": dict(sorted(summary.passed_over.items())),
    }
    write_whole(ledger.store / STORE_RECORD, (json.dumps(record, indent=2) + "\n").encode())
    ledger.fold()
    summary.volumes = len(rows)
    summary.patients = len({row["patient"] for row in rows})
    summary.splits = dict(Counter(row["split"] for row in rows))
    unknown = sum(PATIENT_UNKNOWN in row["notes"] for row in rows)
    if unknown:
        say(f"{unknown} volumes name no patient: each study counts as a patient of its own; --patients CSV says more")


def _check_format(store: Path) -> None:
    record = store / STORE_RECORD
    if record.exists() and json.loads(record.read_text())["format"] != FORMAT:
        raise UserError(f"{store} was written by another version of volssl: prepare a new store")


def _tell_passed_over(discovery: Discovery) -> None:
    if discovery.passed_over:
        say(f"Passed over by rule: {discovery.passed_over_line()}.")


def _nothing(roots: Sequence[Path], discovery: Discovery, rejected: Counter[str]) -> str:
    where = ", ".join(map(str, roots))
    counts = [discovery.passed_over_line()] if discovery.passed_over else []
    counts += [f"rejected: {count} {reason}" for reason, count in sorted(rejected.items())]
    seen = f" ({'; '.join(counts)})" if counts else ""
    return f"no readable file in {where}{seen}: name a folder with DICOM, NIfTI, NRRD or MetaImage volumes"
