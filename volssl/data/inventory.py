"""Where everything in a store came from: a line for each source file, for the terminal alone; it names paths."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from volssl.data.ledger import REJECTED
from volssl.data.source_paths import MARK, PATHS
from volssl.data.store import Store
from volssl.errors import UserError

STORED = "stored"


def inventory(store: Path) -> Iterator[tuple[str, str, str, str]]:
    """Tell what became of each source file, in the order of the keys.

    Args:
        store: the folder that `volssl prepare` wrote.

    Returns:
        (key, status, reason, path): status is `stored`, `duplicate` or `rejected`; reason is the code of the refusal,
        `duplicate` included, and empty for a volume; path is escaped, so that it fits a line and a terminal.

    Raises:
        UserError: there is no store, or its list of paths is missing.
    """
    opened = Store.open(store)
    if not (opened.path / PATHS).is_file():
        raise UserError(
            f"{opened.path / PATHS} is missing: it stays where the data may stay; ask there, or repeat `volssl prepare`"
        )
    reasons = dict.fromkeys(opened.columns("id")["id"].to_pylist(), "")
    reasons |= {record["key"]: record["reason"] for record in _records(opened.path / REJECTED)}
    return _lines(opened.path / PATHS, reasons)


def escaped(path: str) -> str:
    r"""A path on one line, whatever bytes it holds: control characters and bytes that are no UTF-8 as `\x1b`, `\udcff`.

    A backslash is doubled, so that two paths never look the same.
    """
    return "".join(
        "\\\\" if char == "\\" else char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in path
    )


def _lines(paths: Path, reasons: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for record in _records(paths):
        if record["key"].startswith(MARK):  # what follows is of a prepare that is not done
            return
        reason = reasons.get(record["key"], "unknown")
        status = STORED if not reason else reason if reason == "duplicate" else "rejected"
        yield record["key"], status, reason, escaped(record["path"])


def _records(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a table; a path may hold line breaks, and bytes that are no UTF-8."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file)
