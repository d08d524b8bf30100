"""Checkpoints that make a killed run and one never stopped end with the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from volssl.errors import UserError
from volssl.tensors import load_tensors, save_tensors

FORMAT = 2
LAST = Path("checkpoints") / "last.pt"


def fingerprint(ids: Iterable[str]) -> str:
    """A short hash of the volumes of a run, in order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def save_checkpoint(
    run: Path,
    *,
    step: int,
    settings: Mapping[str, Any],
    method: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    handlers: Mapping[str, Any],
) -> Path:
    """Write `checkpoints/last.pt`: all that the next step depends on. Either the old file stands or the new one.

    There is no random state in it: the trainer seeds every step anew.
    """
    path = run / LAST
    save_tensors(
        path,
        {
            "format": FORMAT,
            "step": step,
            "settings": dict(settings),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "handlers": dict(handlers),
        },
    )
    return path


def load_checkpoint(
    run: Path,
    *,
    settings: Mapping[str, Any],
    method: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[int, dict[str, Any]]:
    """Restore method, optimiser and scale of float16 from `checkpoints/last.pt`.

    Returns:
        The steps done, and the state of the handlers.

    Raises:
        UserError: where the file is damaged or of another version, or the run was begun with other settings, on other
            volumes, or with a method whose tensors are others.
    """
    path = run / LAST
    state = load_tensors(path)
    if state["format"] != FORMAT:
        raise UserError(
            f"{path}: written by another version of volssl, in format {state['format']}; begin the run anew"
        )
    for name, value in settings.items():
        begun = state["settings"].get(name)
        if begun != value:
            raise UserError(
                f"{path}: the run was begun with {name} {begun}, not {value}; a resumed run cannot change it"
            )
    try:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: the run was begun with another method, network or optimiser than this one") from error
    scaler.load_state_dict(state["scaler"])
    return int(state["step"]), dict(state["handlers"])
