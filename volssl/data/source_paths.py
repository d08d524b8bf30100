"""`paths.csv`: the one file that names source paths, a line for each; only its owner may read it (mode 600).

While a prepare is under way it grows: the journal's entries hold keys alone, and the paths of each are appended here as
a block, which begins with the entry's number. At the end it is written anew in the order of the keys, without blocks.
"""

from __future__ import annotations

import csv
import io
import stat
import zlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from volssl.files import PRIVATE, write_atomically

PATHS = "paths.csv"
COLUMNS = ("key", "path")
MARK = "#"  # before the number of a block, where else there is a key

Paths = tuple[str, ...]
K = TypeVar("K", bound=Hashable)


class PackedPaths(MutableMapping[K, Paths]):
    """Paths by key, each key's compressed: a million slices differ in a few signs, and take ten MB instead of 170."""

    def __init__(self) -> None:
        self._packed: dict[K, bytes] = {}

    def __getitem__(self, key: K) -> Paths:
        joined = zlib.decompress(self._packed[key])
        return tuple(joined.decode("utf-8", "surrogateescape").split("\0")) if joined else ()

    def __setitem__(self, key: K, paths: Sequence[str]) -> None:
        # no path holds a zero byte, and none is empty
        self._packed[key] = zlib.compress("\0".join(paths).encode("utf-8", "surrogateescape"), 1)

    def __delitem__(self, key: K) -> None:
        del self._packed[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def read_paths(file: Path) -> tuple[PackedPaths[str], PackedPaths[int]]:
    """The settled paths of each key; and of each block that was appended since, by number, its key and the paths.

    A last line that a kill cut off is passed over, so that its block has too few.
    """
    settled: PackedPaths[str] = PackedPaths()
    blocks: PackedPaths[int] = PackedPaths()
    number = 0
    for key, lines in groupby(_lines(file), itemgetter(0)):
        if key.startswith(MARK):
            number = int(key.removeprefix(MARK))
        elif number:
            blocks[number] = (key, *(path for _, path in lines))
        else:
            settled[key] = tuple(path for _, path in lines)
    return settled, blocks


def write_paths(file: Path, settled: Mapping[str, Paths], blocks: Mapping[int, Paths]) -> None:
    """Write the list, in the order of its keys; a file that holds the same already is not touched."""

    def parts() -> Iterator[bytes]:
        texts = chain(
            [quoted([COLUMNS])],
            (quoted((key, path) for path in settled[key]) for key in sorted(settled)),
            (block(number, *_key_and_paths(blocks[number])) for number in sorted(blocks)),
        )
        return (text.encode("utf-8", "surrogateescape") for text in texts)

    if not _holds(file, parts()):
        write_atomically(file, lambda out: out.writelines(parts()), private=True)


def block(number: int, key: str, paths: Sequence[str]) -> str:
    """The lines to append for an entry of the journal."""
    return quoted([(f"{MARK}{number}", ""), *((key, path) for path in paths)])


def quoted(rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table, all quoted: a carriage return in a path would else end its line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


def _key_and_paths(held: Paths) -> tuple[str, Paths]:
    return held[0], held[1:]


def _holds(file: Path, parts: Iterable[bytes]) -> bool:
    """Whether a private file holds these bytes and no others."""
    if not file.exists() or stat.S_IMODE(file.stat().st_mode) != PRIVATE:
        return False
    with file.open("rb") as there:
        return all(there.read(len(part)) == part for part in parts) and not there.read(1)


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Key and path of each line that is whole; a path may hold line breaks, and bytes that are no UTF-8."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        rows = csv.reader(text, strict=True)
        try:
            next(rows, None)
            yield from ((row[0], row[1]) for row in rows if len(row) == len(COLUMNS))
        except csv.Error:  # the file ends within a line
            return
