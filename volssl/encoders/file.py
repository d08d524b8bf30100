"""`encoder.pt`: an encoder's weights with the input contract, the patients it saw, and how to build it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import volssl.encoders as encoders
from volssl.contract import InputContract
from volssl.encoders.base import Encoder
from volssl.errors import UserError
from volssl.progress import say
from volssl.tensors import load_tensors, save_tensors

FORMAT = 1
LEAST_LOADED = 0.9  # share of an encoder's tensors that a file must fill


@dataclass(frozen=True)
class EncoderFile:
    """What `encoder.pt` holds."""

    name: str
    settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    contract: InputContract
    patients: frozenset[str]
    method: str


@dataclass(frozen=True)
class WeightReport:
    """Which tensors of a network a file filled."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[str]

    @property
    def share(self) -> float:
        """Share of the network's tensors that were loaded."""
        return len(self.loaded) / max(1, len(self.loaded) + len(self.missing) + len(self.wrong_shape))

    def __str__(self) -> str:
        lines = [f"weights: {len(self.loaded)} tensors loaded ({self.share:.0%})"]
        for title, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            lines += [f"  {len(keys)} {title}: {shown}"] if keys else []
        return "\n".join(lines)


def save_encoder(
    path: Path, encoder: Encoder, *, contract: InputContract, patients: Iterable[str], method: str
) -> None:
    """Write `encoder.pt` atomically; `patients` are the keyed hashes of all whose scans trained it."""
    save_tensors(
        path,
        {
            "format": FORMAT,
            "encoder": type(encoder).__name__,
            "settings": encoder.settings,
            "state_dict": {key: value.cpu() for key, value in encoder.state_dict().items()},
            "contract": contract.as_dict(),
            "patients": sorted(patients),
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
    """Read `encoder.pt`, or that of a run.

    Raises:
        UserError: where the file is missing or is not an encoder of volssl.
    """
    file = encoder_path(path)
    values = load_tensors(file)
    if not isinstance(values, dict) or values.get("format") != FORMAT or "encoder" not in values:
        raise UserError(f"{file}: not an encoder file of volssl; give a run of `volssl pretrain` or its encoder.pt")
    return EncoderFile(
        name=values["encoder"],
        settings=values["settings"],
        state_dict=values["state_dict"],
        contract=InputContract.from_dict(values["contract"]),
        patients=frozenset(values["patients"]),
        method=values["method"],
    )


def load_encoder(path: Path | str) -> tuple[Encoder, InputContract]:
    """The pretrained encoder of a run, ready to evaluate, and what it wants to be fed.

    Args:
        path: a run of `volssl pretrain`, or an `encoder.pt`.

    Raises:
        UserError: where the file is missing, is no encoder, or names an architecture this version does not have.
    """
    file = read_encoder_file(path)
    architecture = getattr(encoders, file.name, None)
    if file.name not in encoders.__all__ or not issubclass(architecture or nn.Module, Encoder):
        raise UserError(f"{encoder_path(path)}: unknown encoder {file.name}; this version has {known_encoders()}")
    encoder: Encoder = architecture(**file.settings)  # type: ignore[misc]
    load_weights(encoder, file.state_dict, source=str(path), least=1.0)
    return encoder.eval(), file.contract


def known_encoders() -> str:
    """The names of the encoders, for messages."""
    return ", ".join(name for name in encoders.__all__ if name not in ("Encoder", "load_encoder", "start_from"))


def load_weights(
    network: nn.Module, state_dict: dict[str, Tensor], *, source: str, least: float = LEAST_LOADED
) -> WeightReport:
    """Copy the tensors that fit into a network.

    Raises:
        UserError: where less than `least` of the network's tensors would be filled; the network is left as it was.
    """
    own = network.state_dict()
    shared = own.keys() & state_dict.keys()
    fitting = {key for key in shared if own[key].shape == state_dict[key].shape}
    report = WeightReport(
        loaded=sorted(fitting),
        missing=sorted(own.keys() - state_dict.keys()),
        unexpected=sorted(state_dict.keys() - own.keys()),
        wrong_shape=sorted(shared - fitting),
    )
    if report.share < least:
        raise UserError(
            f"{source}: fills {report.share:.0%} of the network's tensors and {least:.0%} are needed; it is of another "
            f"architecture (first that do not fit: {', '.join((report.missing + report.wrong_shape)[:3])})"
        )
    with torch.no_grad():
        network.load_state_dict({key: state_dict[key] for key in fitting}, strict=False)
    return report


def start_from(encoder: Encoder, path: Path | str | None, contract: InputContract) -> frozenset[str]:
    """Begin with the weights of an earlier run, where one is named, and say which keys were loaded.

    Args:
        encoder: filled in place.
        path: a run, an `encoder.pt`, or None or "" to begin with random weights.
        contract: what the encoder will be fed now.

    Returns:
        The keyed hashes of the patients that the earlier run saw.

    Raises:
        UserError: for an encoder of another architecture, or one that was fed something else.
    """
    if not path:
        return frozenset()
    file = read_encoder_file(path)
    if file.name != type(encoder).__name__:
        raise UserError(f"{path}: holds a {file.name}, this run builds a {type(encoder).__name__}; make them agree")
    file.contract.refuse_unlike(contract, what=f"encoder {path}")
    say(str(load_weights(encoder, file.state_dict, source=str(path))))
    return file.patients
