"""Encoders by their names, as configs name them, or as a file of weights was built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volssl.contract import InputContract
from volssl.encoders.base import Encoder
from volssl.encoders.densenet import PaperDenseNet
from volssl.encoders.densenet121 import DenseNet121
from volssl.encoders.file import encoder_path, read_encoder_file
from volssl.encoders.swin import SwinUNETR
from volssl.encoders.weights import load_weights
from volssl.errors import UserError
from volssl.progress import say

ENCODERS: dict[str, type[Encoder]] = {kind.__name__: kind for kind in (PaperDenseNet, DenseNet121, SwinUNETR)}


def build_encoder(
    name: str | None = None,
    *,
    in_channels: int = 1,
    settings: Mapping[str, Any] | None = None,
    path: Path | str | None = None,
) -> Encoder:
    """An encoder with random weights.

    Args:
        name: of its class; None takes the one that `path` holds, or the paper's where no path is given.
        in_channels: channels of the volume, one for each window.
        settings: other arguments of the class; they go before those of the file.
        path: a run, an `encoder.pt` or stock weights, whose architecture is taken where no name is given.

    Raises:
        UserError: for an unknown name or setting (the nearest is suggested), or a value that the encoder refuses.
    """
    built = dict(settings or {})
    if not name and path:
        name, held = encoder_like(path)
        built = {key: value for key, value in held.items() if key != "in_channels"} | built
    name = name or PaperDenseNet.__name__
    if name not in ENCODERS:
        raise UserError(f"{name}: no such encoder{nearest(name, ENCODERS)}; there are {', '.join(ENCODERS)}")
    known = [key for key in inspect.signature(ENCODERS[name]).parameters if key != "in_channels"]
    for key in built:
        if key not in known:
            raise UserError(f"{name}: no setting {key}{nearest(key, known)}; there are {', '.join(known)}")
    try:
        return ENCODERS[name](**built, in_channels=in_channels)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {error}") from error


def encoder_like(path: Path | str) -> tuple[str, dict[str, Any]]:
    """Name and settings of the encoder that a run, an `encoder.pt` or a file of stock weights holds.

    Raises:
        UserError: where the file is missing or holds no encoder.
    """
    file = read_encoder_file(path)
    return file.name, file.settings


def load_encoder(path: Path | str) -> tuple[Encoder, InputContract]:
    """The pretrained encoder of a run, ready to evaluate, and what it wants to be fed; says what was loaded.

    Args:
        path: a run of `volssl pretrain`, or an `encoder.pt`.

    Raises:
        UserError: where the file is missing, is no encoder, names an architecture or setting this version does not
            have, or does not say what it wants to be fed.
    """
    file = read_encoder_file(path)
    if file.contract is None:
        raise UserError(
            f"{encoder_path(path)}: weights of a stock {file.name}, which do not say what they want to be fed; "
            "go on training from them with --encoder"
        )
    settings = {key: value for key, value in file.settings.items() if key != "in_channels"}
    try:
        encoder = build_encoder(file.name, in_channels=file.settings["in_channels"], settings=settings)
    except UserError as error:
        raise UserError(f"{encoder_path(path)}: {error}; it was written by another version of volssl") from error
    say(str(load_weights(encoder, file.state_dict, source=str(path), least=1.0)))
    return encoder.eval(), file.contract


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean X?` or nothing; small and capital letters are the same."""
    folded = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f", did you mean {folded[close[0]]}?" if close else ""
