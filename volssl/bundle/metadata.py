"""What metadata.json says beyond MONAI's schema: input contract, outputs, the weights' hash, the training ranges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volssl.bundle.ranges import TrainingRanges
from volssl.contract import InputContract
from volssl.errors import UserError

METADATA = Path("configs") / "metadata.json"
SECTION = "volssl"  # of metadata.json
FORMAT = 1
LARGEST_FILE_MB = 4


@dataclass(frozen=True)
class BundleFacts:
    """What answers need to know of a bundle.

    Attributes:
        name, version: of the bundle.
        task: as on the command line.
        labels: names of the network's columns for the whole volume; what is asked first stands first.
        volume: how many of them are the answer for the volume; the others are of its types.
        slices: how many columns follow, one a slice of the grid from inferior to superior.
        dim: length of the feature that is the answer of a bundle that embeds; 0 for one that has labels.
        contract: what the network is fed.
        box: where that is cut from a scan: `head`, `foreground`, or `middle` for an embedding.
        weights_sha256: of models/model.pt.
        simulated: whether the training data were simulated; None where nobody knows.
        ranges: of the training volumes; None where they were not at hand when the bundle was written.
    """

    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    volume: int
    slices: int
    dim: int
    contract: InputContract
    box: str
    weights_sha256: str
    simulated: bool | None
    ranges: TrainingRanges | None

    def section(self) -> dict[str, Any]:
        """The part of metadata.json that is volssl's own."""
        return {
            "format": FORMAT,
            "task": self.task,
            "labels": list(self.labels),
            "volume": self.volume,
            "slices": self.slices,
            "dim": self.dim,
            "box": self.box,
            "input_contract": self.contract.as_dict(),
            "weights_sha256": self.weights_sha256,
            "simulated_training_data": self.simulated,
            "training_ranges": None if self.ranges is None else self.ranges.as_dict(),
        }


def read_metadata(bundle: Path) -> dict[str, Any]:
    """metadata.json as plain values.

    Raises:
        UserError: where it is missing or is no JSON object.
    """
    path = bundle / METADATA
    try:
        if path.stat().st_size > LARGEST_FILE_MB * 2**20:
            raise UserError(f"{path}: over {LARGEST_FILE_MB} MB, no metadata are so large")
        values = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not a readable JSON file ({type(error).__name__}); is {bundle} a MONAI bundle?"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a bundle's metadata are a JSON object, this file is none")
    return values


def read_facts(bundle: Path) -> BundleFacts:
    """The facts of a bundle that `volssl export` wrote.

    Raises:
        UserError: where it is none, or is of another version.
    """
    values = read_metadata(bundle)
    section = values.get(SECTION)
    if not isinstance(section, dict) or section.get("format") != FORMAT or "weights_sha256" not in section:
        raise UserError(
            f"{bundle / METADATA}: not a bundle with weights of this version of volssl; write one with `volssl export`"
        )
    try:
        ranges = section["training_ranges"]
        refuse_unprintable([values["name"], values["version"], section["task"], *section["labels"]])
        return BundleFacts(
            name=str(values["name"]),
            version=str(values["version"]),
            task=str(section["task"]),
            labels=tuple(str(label) for label in section["labels"]),
            volume=int(section["volume"]),
            slices=int(section["slices"]),
            dim=int(section["dim"]),
            box=str(section["box"]),
            contract=InputContract.from_dict(section["input_contract"]),
            weights_sha256=str(section["weights_sha256"]),
            simulated=section["simulated_training_data"],
            ranges=None if ranges is None else TrainingRanges.from_dict(ranges),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{bundle / METADATA}: the section {SECTION} is damaged ({error!r}); export the bundle again"
        ) from error


def refuse_unprintable(texts: Sequence[Any]) -> None:
    """Raise a ValueError for a text that would move the cursor of a terminal, or break a line of a table."""
    for text in texts:
        if not str(text).isprintable():
            raise ValueError(f"{text!r} has signs that cannot be printed")
