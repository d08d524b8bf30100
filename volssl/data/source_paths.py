"""`paths.csv`: the one file that names source paths, a line for each; only its owner may read it (mode 600).

While a prepare is under way it grows: the journal's entries hold keys alone, and the paths of each are appended here as
a block, which begins with the entry's number. At the end it is written anew in the order of the keys, without blocks.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from volssl.files import write_private

PATHS = "paths.csv"
COLUMNS = ("key", "path")
MARK = "#"  # before the number of a block, where else there is a key

Paths = tuple[str, ...]
Block = tuple[str, Paths]  # the key, and its paths


def read_paths(file: Path) -> tuple[dict[str, Paths], dict[int, Block]]:
    """The settled paths of each key, and the blocks that were appended since, by number.

    A last line that a kill cut off is passed over, so that its block has too few.
    """
    settled: dict[str, list[str]] = defaultdict(list)
    blocks: dict[int, list[tuple[str, str]]] = {}
    number = 0
    for key, path in _lines(file):
        if key.startswith(MARK):
            number = int(key.removeprefix(MARK))
            blocks[number] = []
        elif number:
            blocks[number].append((key, path))
        else:
            settled[key].append(path)
    return (
        {key: tuple(paths) for key, paths in settled.items()},
        {number: (lines[0][0], tuple(path for _, path in lines)) for number, lines in blocks.items() if lines},
    )


def write_paths(file: Path, settled: Mapping[str, Paths], blocks: Mapping[int, Block]) -> None:
    """Write the list, in the order of its keys; a file that holds the same already is not touched."""
    lines = [(key, path) for key in sorted(settled) for path in settled[key]]
    parts = [quoted([COLUMNS, *lines]), *(block(number, *blocks[number]) for number in sorted(blocks))]
    write_private(file, "".join(parts))


def block(number: int, key: str, paths: Sequence[str]) -> str:
    """The lines to append for an entry of the journal."""
    return quoted([(f"{MARK}{number}", ""), *((key, path) for path in paths)])


def quoted(rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table, all quoted: a carriage return in a path would else end its line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


def _lines(file: Path) -> Iterable[tuple[str, str]]:
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
