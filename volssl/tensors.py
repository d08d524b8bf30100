"""Files of tensors and plain values, in torch's format: written whole, and read so that nothing in them can run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from volssl.errors import UserError
from volssl.files import write_atomically


def save_tensors(path: Path, values: dict[str, Any]) -> None:
    """Write tensors, lists, strings and numbers atomically.

    Raises:
        UserError: where the disk is full; the old file stays.
    """
    try:
        write_atomically(path, lambda file: torch.save(values, file))
    except RuntimeError as error:
        # torch reports a failed write of its archive as a RuntimeError
        if "file write failed" in str(error) or "PytorchStreamWriter" in str(error):
            raise UserError(f"{path}: could not be written, is the disk full? Free some space and go on") from error
        raise


def load_tensors(path: Path) -> Any:
    """Read what `save_tensors` wrote, on the CPU; nothing in the file can run.

    Raises:
        UserError: for a file that is damaged or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: not a readable weights file ({error.strerror or 'damaged'})") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a readable weights file (damaged, or it holds more than tensors)") from error
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path}: not a readable weights file (damaged)") from error
