"""Files that are either whole or not there: written aside, synced to disk, then renamed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from volssl.errors import UserError

PRIVATE = 0o600
PUBLIC = 0o666  # less what the user's mask takes away


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], object], *, sync: bool = True, private: bool = False
) -> None:
    """Call `write` on a temporary file beside `path`, sync it, and rename it.

    Args:
        sync: False leaves it to the caller to sync the file: after a power cut it may be there and cut short.
        private: only its owner may read it (mode 600).

    Raises:
        UserError: where the disk is full; the old file stays.
    """
    mode = PRIVATE if private else PUBLIC
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        aside.replace(path)
        if sync:
            sync_to_disk(path.parent)
    except OSError as error:
        if is_full_disk(error):
            raise UserError(f"{path}: the disk is full; free some space and run the command again") from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, sync: bool = True, private: bool = False) -> None:
    """Write a file atomically; one that holds the same already is not touched."""
    if path.exists() and _is_as_wanted(path, data, private=private):
        return
    write_atomically(path, lambda file: file.write(data), sync=sync, private=private)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; one that holds the same already is not touched."""
    write_bytes(path, text.encode())


def write_private(path: Path, text: str) -> None:
    """Write a text that only its owner may read (mode 600); bytes of a path that are no UTF-8 stay what they were."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"), private=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full_disk(error: OSError) -> bool:
    """Whether writing failed for want of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_as_wanted(path: Path, data: bytes, *, private: bool) -> bool:
    found = path.stat()
    if found.st_size != len(data) or (private and stat.S_IMODE(found.st_mode) != PRIVATE):
        return False
    return path.read_bytes() == data
