"""What metadata.json says beyond MONAI's schema: input contract, outputs, the weights' hash, the training ranges."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volssl.bundle.ranges import TrainingRanges
from volssl.bundle.shipped import EMBEDDING, TASK_BUNDLES
from volssl.contract import InputContract
from volssl.errors import UserError
from volssl.tasks.series import JOINS

METADATA = Path("configs") / "metadata.json"
SECTION = "volssl"  # of metadata.json
FORMAT = 1
LARGEST_FILE_MB = 4
LONGEST = 100  # signs of a name
BEFORE = ("notice", "study", "answer")  # columns of the table of answers, before the labels
BEHIND = ("in_training_range", "warnings", "failure")
COLUMNS = (*BEFORE, *BEHIND)
FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes the start of a cell for
BOXES = ("head", "foreground", "middle")


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
        join: how features of an axial and a coronal series of a study are joined; empty looks at each alone.
        flips: whether the answer is the mean of the logits of a scan and its left-right mirror image.
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
    join: str = ""
    flips: bool = False

    @property
    def channels(self) -> int:
        """Of the network's input: those of the contract, for each of the series that are joined."""
        return self.contract.channels * (2 if self.join else 1)

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
            "join": self.join,
            "flips": self.flips,
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
        facts = BundleFacts(
            name=text(values, "name"),
            version=text(values, "version"),
            task=text(section, "task"),
            labels=tuple(text({"label": label}, "label") for label in typed(section, "labels", list)),
            volume=typed(section, "volume", int),
            slices=typed(section, "slices", int),
            dim=typed(section, "dim", int),
            box=text(section, "box"),
            contract=InputContract.from_dict(typed(section, "input_contract", dict)),
            weights_sha256=text(section, "weights_sha256"),
            simulated=typed(section, "simulated_training_data", bool, type(None)),
            ranges=None if ranges is None else TrainingRanges.from_dict(ranges),
            # neither is in bundles of before there was one
            join=typed({"join": "", **section}, "join", str),
            flips=typed({"flips": False, **section}, "flips", bool),
        )
        refuse_contradiction(facts)
        return facts
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{bundle / METADATA}: the section {SECTION} is damaged ({error!r}); export the bundle again"
        ) from error


def typed(values: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """A value of one of these types, which are taken exactly: true is no number.

    Raises:
        KeyError, TypeError: where it is missing, or of another.
    """
    value = values[name]
    if type(value) not in kinds:
        raise TypeError(f"{name} is a {type(value).__name__}")
    return value


def text(values: Mapping[str, Any], name: str) -> str:
    """A short text that moves no cursor of a terminal, and breaks no line of a table.

    Raises:
        KeyError, TypeError, ValueError: where it is missing, or something else.
    """
    value: str = typed(values, name, str)
    if not 0 < len(value) <= LONGEST:
        raise ValueError(f"{name} has {len(value)} signs")
    if not value.isprintable():
        raise ValueError(f"{name} {value!r} has signs that cannot be printed")
    return value


def refuse_contradiction(facts: BundleFacts) -> None:
    """Raise a ValueError for facts that cannot all be true, or that a table of answers cannot show."""
    for wrong, what in (
        (facts.task not in (*TASK_BUNDLES, EMBEDDING), f"there is no task {facts.task}"),
        (facts.box not in BOXES, f"there is no box {facts.box}"),
        (facts.join not in ("", *JOINS), f"series are not joined by {facts.join}"),
        (not re.fullmatch("[0-9a-f]{64}", facts.weights_sha256), "weights_sha256 is no SHA-256"),
        (len(set(facts.labels)) < len(facts.labels), "two labels are the same"),
        (set(facts.labels) & set(COLUMNS), f"a label is one of {', '.join(COLUMNS)}, as other columns are"),
        (any(label.startswith(FORMULA) for label in facts.labels), f"a label begins with one of {' '.join(FORMULA)}"),
        (min(facts.slices, facts.dim) < 0, "a number of slices or of a feature is below 0"),
        (facts.dim and (facts.labels or facts.slices), "a feature has neither labels nor slices"),
        (not facts.dim and not 0 < facts.volume <= len(facts.labels), f"{facts.volume} of {len(facts.labels)} labels"),
    ):
        if wrong:
            raise ValueError(what)
