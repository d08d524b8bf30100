"""What may become a volume: files and stacks of DICOM slices, gathered from their headers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol, TypeVar

from volssl.data.crew import CrashError, Crew
from volssl.data.dicom.headers import read_headers
from volssl.data.dicom.series import grouped
from volssl.data.discovery import RAW_PARTS, UNKNOWN, Found
from volssl.data.formats.volume_files import read_volume_headers
from volssl.data.volume import RefusedError, Volume
from volssl.progress import track

HEADERS_AT_ONCE = 64
OTHER_KIND = ("unknown_format", "Neither its name nor its first bytes are those of DICOM, NIfTI, NRRD or MetaImage.")
LONE_PART = ("missing_part", "It is the raw part of a header file that is not beside it.")
NOTHING = ("failed", "No reader made a volume of it.")
T = TypeVar("T")


class Source(Protocol):
    """One volume to be: a file, a part of one, or a stack of DICOM slices.

    Attributes:
        path: the file, or the folder that holds all slices.
        files: every file it is made of, copies of slices included.
        file_count: how many they are.
        shares_files: whether another source may be made of one of them, too.
        source: names it among all others; private.
        stamp: changes when a file does.
        says_modality: whether the source itself tells CT from MR.
        voxels: how many its headers promise.
        stored_bytes_per_voxel: how wide a voxel will be in the store, before compression.
    """

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def file_count(self) -> int: ...
    @property
    def shares_files(self) -> bool: ...
    @property
    def source(self) -> str: ...
    @property
    def stamp(self) -> str: ...
    @property
    def says_modality(self) -> bool: ...
    @property
    def voxels(self) -> int: ...
    @property
    def stored_bytes_per_voxel(self) -> int: ...
    def read(self) -> Volume: ...


@dataclass(frozen=True)
class Refused:
    """A file that its header already rules out."""

    found: Found
    reason: str
    sentence: str


def gather(files: Sequence[Found], hands: Crew) -> list[Source | Refused]:
    """Sources of one volume each, in a fixed order, and the files whose headers rule them out: none is left out.

    Volume files give one source, or one a part; DICOM slices and frames are grouped by their headers.
    """
    refused: list[Refused] = []
    volumes = [one for one in files if one.format not in ("dicom", UNKNOWN)]
    slices = [one for one in files if one.format == "dicom"]
    sources: list[Source] = []
    for parts in _headers(read_volume_headers, volumes, "Reading volume headers", hands, refused):
        sources += parts
    raw_parts = {path for source in sources for path in source.files}
    sources += grouped(chain.from_iterable(_headers(read_headers, slices, "Reading DICOM headers", hands, refused)))
    for one in files:
        if one.format == UNKNOWN and one.path not in raw_parts:
            refused.append(Refused(one, *(LONE_PART if one.name.lower().endswith(RAW_PARTS) else OTHER_KIND)))
    return [*sources, *refused]


def _headers(
    read: Callable[[Sequence[Found]], list[tuple[T, ...] | RefusedError]],
    files: Sequence[Found],
    description: str,
    hands: Crew,
    refused: list[Refused],
) -> Iterator[tuple[T, ...]]:
    """What `read` makes of each file; the refusals are added to `refused`."""
    answers = track(_in_portions(read, files, hands), description, len(files)) if files else ()
    for found, answer in zip(files, answers, strict=True):
        if isinstance(answer, RefusedError):
            refused.append(Refused(found, answer.reason, answer.sentence))
        elif answer:
            yield answer
        else:
            refused.append(Refused(found, *NOTHING))


def _in_portions(
    read: Callable[[Sequence[Found]], list[tuple[T, ...] | RefusedError]], files: Sequence[Found], hands: Crew
) -> Iterator[tuple[T, ...] | RefusedError]:
    portions = [files[start : start + HEADERS_AT_ONCE] for start in range(0, len(files), HEADERS_AT_ONCE)]
    for portion, answers in zip(portions, hands.map(read, portions), strict=True):
        if not isinstance(answers, CrashError):
            yield from answers
        elif len(portion) == 1:
            yield RefusedError("crash", f"Reading its header: {answers}.")
        else:  # one of them kills its reader: each alone, so that the others are read
            yield from _in_portions_of_one(read, portion, hands)


def _in_portions_of_one(
    read: Callable[[Sequence[Found]], list[tuple[T, ...] | RefusedError]], files: Sequence[Found], hands: Crew
) -> Iterator[tuple[T, ...] | RefusedError]:
    for answers in hands.map(read, [[one] for one in files]):
        if isinstance(answers, CrashError):
            yield RefusedError("crash", f"Reading its header: {answers}.")
        else:
            yield from answers
