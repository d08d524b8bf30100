"""Worked examples: which studies to show, their slices as radiologists expect them, and where the network looked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from volssl.evaluation.metrics import Floats
from volssl.evaluation.overlay import LEAST_SHOWN, overlay_picture
from volssl.evaluation.page import Picture, grey_picture, number
from volssl.evaluation.predictions import entries_of

ImageOf = Callable[[str], npt.NDArray[Any]]
MOST_SLICES, MOST_OVERLAYS = 24, 6


@dataclass(frozen=True)
class Looked:
    """Where a network looked.

    Attributes:
        values: (R, A, S) from 0 to 1, the largest; all 0 where nothing spoke for the answer.
        method: by which it was found, in words.
    """

    values: npt.NDArray[Any]
    method: str


LookedOf = Callable[[str], Looked]


@dataclass(frozen=True)
class Slice:
    """One axial slice: its number from inferior (1 is the lowest), picture, score and label (None unknown)."""

    number: int
    picture: Picture
    score: float | None
    positive: bool | None


@dataclass(frozen=True)
class Example:
    """A study to look at: why it is shown, short id, score, call, what else was said of it, its slices upwards.

    Attributes:
        overlays: slices with what spoke for the score laid over them; none where it was not asked for, or nothing did.
        method: by which that was found; empty where it was not asked for.
    """

    kind: str
    study: str
    score: float
    called: bool | None
    positive: bool
    others: list[tuple[str, float | None, bool | None]]
    slices: list[Slice]
    slices_of: int
    overlays: list[Slice]
    method: str


def worked_examples(
    predictions: pd.DataFrame,
    outputs: Sequence[str],
    *,
    names: Mapping[str, str],
    threshold: float | None,
    image_of: ImageOf,
    looked_of: LookedOf | None = None,
    of_each: int = 2,
) -> list[Example]:
    """Choose the highest true, the highest false and the lowest true studies by the first output, none of them twice.

    Args:
        predictions: the table of predictions; outputs other than `slices` hold one number a study.
        outputs, names: the outputs, the one to choose by first, and what people call them.
        threshold: the operating point of the first output, if it has one.
        image_of: the image (R, A, S) of a study id, values in [0, 1].
        looked_of: what in the image of a study id spoke for the first output.
        of_each: how many of each kind.
    """
    label, score = predictions[f"y_{outputs[0]}"], predictions[f"p_{outputs[0]}"]
    by_score = predictions.assign(_score=score).sort_values("_score", kind="stable")
    positive, negative = by_score[label.loc[by_score.index] == 1], by_score[label.loc[by_score.index] == 0]
    chosen: dict[str, tuple[str, Any]] = {}
    for kind, table in (("Highest true", positive[::-1]), ("Highest false", negative[::-1]), ("Lowest true", positive)):
        for _, row in table.head(of_each).iterrows():
            chosen.setdefault(str(row["id"]), (kind, row))
    return [
        _example(
            kind,
            row,
            outputs,
            names=names,
            threshold=threshold,
            image=image_of(row["id"]),
            looked=None if looked_of is None else looked_of(row["id"]),
        )
        for kind, row in chosen.values()
    ]


def radiological(axial: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An axial slice (R, A) as a picture (rows, columns): the patient's right at the left, anterior up."""
    return axial[::-1, ::-1].T


def _example(
    kind: str,
    row: Any,
    outputs: Sequence[str],
    *,
    names: Mapping[str, str],
    threshold: float | None,
    image: npt.NDArray[Any],
    looked: Looked | None,
) -> Example:
    study, score = str(row["id"]), float(row[f"p_{outputs[0]}"])
    others = [output for output in outputs[1:] if output != "slices"]
    has_slices = "slices" in outputs
    depth = image.shape[2]
    labels, scores = entries_of(row, "slices") if has_slices else (np.full(depth, np.nan), np.full(depth, np.nan))
    if len(scores) != depth:
        raise ValueError(f"study {study}: {len(scores)} slice scores for an image of {depth} slices")
    return Example(
        kind=kind,
        study=study[:8],
        score=score,
        called=None if threshold is None else score >= threshold,
        positive=bool(row[f"y_{outputs[0]}"] == 1),
        others=[(names[output], _known(row[f"p_{output}"]), _truth(row[f"y_{output}"])) for output in others],
        slices=[_slice(image, index, scores, labels) for index in slices_to_show(scores)],
        slices_of=depth,
        overlays=[] if looked is None else _overlays(image, looked, scores, labels),
        method="" if looked is None else looked.method,
    )


def slices_to_show(scores: Floats, most: int = MOST_SLICES) -> list[int]:
    """All slices where they are few; else evenly spaced ones, the nearest giving way to the one of highest score."""
    if len(scores) <= most:
        return list(range(len(scores)))
    shown = np.round(np.linspace(0, len(scores) - 1, most)).astype(int)
    if not np.isnan(scores).all():
        highest = int(np.nanargmax(scores))
        shown[np.abs(shown - highest).argmin()] = highest
    return [int(index) for index in shown]


def _slice(image: npt.NDArray[Any], index: int, scores: Floats, labels: Floats) -> Slice:
    score, positive = _known(scores[index]), _truth(labels[index])
    said = {True: "labelled positive", False: "labelled negative", None: "no label"}[positive]
    alt = f"Axial slice {index + 1} from below, score {number(score, 2)}, {said}"
    return Slice(index + 1, grey_picture(radiological(image[:, :, index]), alt=alt), score, positive)


def _overlays(image: npt.NDArray[Any], looked: Looked, scores: Floats, labels: Floats) -> list[Slice]:
    """Those slices, upwards, in which most spoke for the score, and so much that it is seen."""
    if looked.values.shape != image.shape:
        raise ValueError(f"what was looked at is of {looked.values.shape} voxels, the image of {image.shape}")
    strongest = looked.values.max(axis=(0, 1))
    chosen = np.sort(np.argsort(-strongest, kind="stable")[:MOST_OVERLAYS])
    return [_overlay(image, looked, int(index), scores, labels) for index in chosen if strongest[index] > LEAST_SHOWN]


def _overlay(image: npt.NDArray[Any], looked: Looked, index: int, scores: Floats, labels: Floats) -> Slice:
    over = looked.values[:, :, index]
    alt = f"Axial slice {index + 1} from below with what spoke for the score, at most {number(over.max(), 2)}"
    picture = overlay_picture(radiological(image[:, :, index]), radiological(over), alt=alt)
    return Slice(index + 1, picture, _known(scores[index]), _truth(labels[index]))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _truth(value: float) -> bool | None:
    return None if np.isnan(value) else bool(value == 1)
