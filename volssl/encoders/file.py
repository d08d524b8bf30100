"""`encoder.pt`: an encoder's weights with the input contract, the patients it saw, and how to build it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from volssl.contract import InputContract
from volssl.encoders.base import Encoder
from volssl.encoders.stock import recognised, stock_weights
from volssl.encoders.weights import load_weights, match_channels
from volssl.errors import UserError
from volssl.progress import say
from volssl.seen import NOBODY, NOT_SAID, UNKNOWN, Seen
from volssl.tensors import load_tensors, save_tensors

FORMAT = 1


@dataclass(frozen=True)
class EncoderFile:
    """What `encoder.pt` holds, or weights of a stock MONAI network, which say neither contract nor patients.

    Attributes:
        name, settings: the encoder's class and arguments; of stock weights those that show in their shapes.
        contract: what the encoder was fed; None where the file does not say.
        seen: those whose scans trained it.
        labelled: keyed hashes of those whose labels trained it, as of the hybrid method or a fine-tuning.
        method: that trained it; empty where the file does not say.
    """

    name: str
    settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    contract: InputContract | None
    seen: Seen
    labelled: frozenset[str]
    method: str

    @property
    def patients(self) -> frozenset[str]:
        """Keyed hashes of those whose scans trained it."""
        return self.seen.patients


def save_encoder(
    path: Path,
    encoder: Encoder,
    *,
    contract: InputContract,
    patients: Iterable[str],
    keys: Iterable[str] = (NOT_SAID,),
    labelled: Iterable[str] = (),
    method: str,
) -> None:
    """Write `encoder.pt` atomically.

    Args:
        patients: keyed hashes of all whose scans trained it.
        keys: that made these hashes, as of `Seen`.
        labelled: of those whose labels did.
    """
    save_tensors(
        path,
        {
            "format": FORMAT,
            "encoder": type(encoder).__name__,
            "settings": encoder.settings,
            "state_dict": {key: value.cpu() for key, value in encoder.state_dict().items()},
            "contract": contract.as_dict(),
            "patients": sorted(patients),
            "keys": sorted(keys),
            "labelled": sorted(labelled),
            "method": method,
        },
    )


def encoder_path(path: Path | str) -> Path:
    """A run's folder or the file itself -> the file.

    Raises:
        UserError: where there is none.
    """
    path = Path(path)
    file = path / "encoder.pt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no encoder there; give a run of `volssl pretrain` or its encoder.pt")
    return file


def read_encoder_file(path: Path | str) -> EncoderFile:
    """Read `encoder.pt`, that of a run, or weights of a stock `SwinUNETR` or `DenseNet121`.

    Raises:
        UserError: where the file is missing or is none of these.
    """
    file = encoder_path(path)
    values = load_tensors(file)
    if isinstance(values, dict) and values.get("format") == FORMAT and "encoder" in values:
        return EncoderFile(
            name=values["encoder"],
            settings=values["settings"],
            state_dict=values["state_dict"],
            contract=InputContract.from_dict(values["contract"]),
            seen=Seen.from_facts(values),
            labelled=frozenset(values.get("labelled", ())),  # an older file does not say
            method=values["method"],
        )
    state = stock_weights(values)
    if state is None:
        raise UserError(
            f"{file}: not an encoder file of volssl, nor weights of MONAI's SwinUNETR or DenseNet121; give a run of "
            "`volssl pretrain` or its encoder.pt"
        )
    try:
        name, settings = recognised(state)
    except ValueError as error:
        raise UserError(f"{file}: {error}; give weights of MONAI's SwinUNETR or DenseNet121 in 3D") from error
    return EncoderFile(name, settings, state, contract=None, seen=UNKNOWN, labelled=frozenset(), method="")


def labelled_patients(path: Path | str | None, more: Iterable[str] = ()) -> frozenset[str]:
    """Keyed hashes of the patients whose labels trained an earlier run, where one is named, and of more."""
    return (read_encoder_file(path).labelled if path else frozenset()) | frozenset(more)


def start_from(encoder: Encoder, path: Path | str | None, contract: InputContract) -> Seen:
    """Begin with the weights of an earlier run, where one is named, and say which keys were loaded.

    Weights for one input channel are brought to several windows, or several to one (`match_channels`).

    Args:
        encoder: filled in place.
        path: a run, an `encoder.pt`, stock weights, or None or "" to begin with random weights.
        contract: what the encoder will be fed now.

    Returns:
        Whom the earlier run saw; nobody without one.

    Raises:
        UserError: for an encoder of another architecture, or one that was fed something else.
    """
    if not path:
        return NOBODY
    file = read_encoder_file(path)
    if file.name != type(encoder).__name__:
        raise UserError(f"{path}: holds a {file.name}, this run builds a {type(encoder).__name__}; make them agree")
    if file.contract is None:
        say(f"{path}: weights of a stock {file.name}; what they were fed and whose scans they saw is not known")
    else:
        file.contract.refuse_unlike(contract, what=f"encoder {path}", one_for_several=True)
    state, notes = match_channels(file.state_dict, encoder.first_layers, encoder.in_channels, source=str(path))
    notes += [
        f"built otherwise: {name} {encoder.settings[name]} here, {value} in the file"
        for name, value in file.settings.items()
        if name not in ("in_channels", "checkpointing") and encoder.settings.get(name) != value
    ]
    say(str(load_weights(encoder, state, source=str(path), notes=notes)))
    return file.seen
