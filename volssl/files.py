"""Files that are either whole or not there: written aside, synced to disk, then renamed."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from volssl.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a temporary file beside `path`, sync it, and rename it.

    Raises:
        UserError: where the disk is full; the old file stays.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; free some space and run the command again") from error
        raise
    except RuntimeError as error:
        # torch reports a failed write of its archive as a RuntimeError
        if "file write failed" in str(error) or "PytorchStreamWriter" in str(error):
            raise UserError(f"{path}: could not be written, is the disk full? Free some space and go on") from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def save_tensors(path: Path, values: dict[str, Any]) -> None:
    """Write tensors, lists, strings and numbers atomically, in torch's format."""
    write_atomically(path, lambda file: torch.save(values, file))


def load_tensors(path: Path) -> Any:
    """Read what `save_tensors` wrote, on the CPU; nothing in the file can run.

    Raises:
        UserError: for a file that is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = type(error).__name__
        raise UserError(f"{path}: not a readable weights file ({reason})") from error
