"""What metadata.json says beyond MONAI's schema: input contract, outputs, the weights' hash, the training ranges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from volssl.contract import InputContract
from volssl.errors import UserError

METADATA = Path("configs") / "metadata.json"
SECTION = "volssl"  # of metadata.json
FORMAT = 1
TOLERANCE = 0.05  # by which a range of the training data may be left
LARGEST_FILE_MB = 4

Range = tuple[float, float]


@dataclass(frozen=True)
class TrainingRanges:
    """Lowest and highest value over the training volumes, along R, A, S.

    Attributes:
        spacing_mm: voxel size.
        extent_mm: field of view.
        volumes: how many there were.
    """

    spacing_mm: tuple[Range, Range, Range]
    extent_mm: tuple[Range, Range, Range]
    volumes: int

    def left_by(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> list[str]:
        """A sentence for each range that a volume leaves by more than 5 %."""
        extent_mm = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
        sentences = []
        for what, values, ranges in (
            ("voxels measure", spacing_mm, self.spacing_mm),
            ("the field of view measures", extent_mm, self.extent_mm),
        ):
            for axis, value, (low, high) in zip("RAS", values, ranges, strict=True):
                if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                    known = written((low, high))
                    sentences.append(f"{what} {value:.4g} mm along {axis}, in the training data {known} mm")
        return sentences


@dataclass(frozen=True)
class BundleFacts:
    """What answers need to know of a bundle.

    Attributes:
        name, version: of the bundle.
        task: as on the command line.
        labels: names of the network's columns for the whole volume; what is asked first stands first.
        volume: how many of them are the answer for the volume; the others are of its types.
        slices: how many columns follow, one a slice of the grid from inferior to superior.
        contract: what the network is fed.
        box: where that is cut from a scan, `head` or `foreground`.
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
            "box": self.box,
            "input_contract": self.contract.as_dict(),
            "weights_sha256": self.weights_sha256,
            "simulated_training_data": self.simulated,
            "training_ranges": None if self.ranges is None else asdict(self.ranges),
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
        return BundleFacts(
            name=str(values["name"]),
            version=str(values["version"]),
            task=str(section["task"]),
            labels=tuple(str(label) for label in section["labels"]),
            volume=int(section["volume"]),
            slices=int(section["slices"]),
            box=str(section["box"]),
            contract=InputContract.from_dict(section["input_contract"]),
            weights_sha256=str(section["weights_sha256"]),
            simulated=section["simulated_training_data"],
            ranges=as_ranges(section["training_ranges"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{bundle / METADATA}: the section {SECTION} is damaged ({error!r}); export the bundle again"
        ) from error


def written(pair: Range) -> str:
    """`3 to 5`, or `3`."""
    low, high = (f"{value:.4g}" for value in pair)
    return low if low == high else f"{low} to {high}"


def as_ranges(values: Mapping[str, Any] | None) -> TrainingRanges | None:
    """The inverse of `asdict`."""
    if values is None:
        return None
    return TrainingRanges(
        spacing_mm=as_range(values["spacing_mm"]),
        extent_mm=as_range(values["extent_mm"]),
        volumes=int(values["volumes"]),
    )


def as_range(pairs: Any) -> tuple[Range, Range, Range]:
    """Three pairs of numbers."""
    first, second, third = ((float(low), float(high)) for low, high in pairs)
    return first, second, third
