"""A contact sheet: one axial slice of each volume, small, as radiologists hold it, and which volumes to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from volssl.evaluation.examples import radiological
from volssl.evaluation.page import Picture, grey_picture

CT_WINDOW_HU = (40.0, 400.0)  # center, width: soft tissue, with bone white and air black
TILE_PIXELS = 160
ODD_SHARE = 0.5  # of a sheet too small for all; the rest is drawn by hash, so that the usual is seen too


@dataclass(frozen=True)
class Tile:
    """A picture of the sheet.

    Attributes:
        id: key of the volume.
        picture: its slice; None where the file could not be read.
        lines: what stands under it.
        flags: what is odd about it, in words.
        copy_of: short id of the volume that it is a near-duplicate of; None where it stands for itself.
    """

    id: str
    picture: Picture | None
    lines: tuple[str, ...]
    flags: tuple[str, ...]
    copy_of: str | None


def chosen(scores: pd.DataFrame, most: int) -> list[str]:
    """The ids to show, the oddest first: all where they are few, else half of them odd, half drawn by hash.

    The odd half takes the oddest by each measure in turn, so that a hundred scans of one odd kind leave room for
    others.

    Args:
        scores: (volumes, measures), robust z-scores, indexed by id; ids are hashes, so their order is a lottery.
        most: how many tiles there may be.
    """
    worst = scores.abs().max(axis=1)
    order = worst.sort_values(ascending=False, kind="stable").index
    if len(order) <= most:
        return list(order)
    turn = scores.abs().idxmax(axis=1).loc[order].to_frame("measure").groupby("measure").cumcount()
    oddest = turn.sort_values(kind="stable").index[: round(most * ODD_SHARE)]
    drawn = scores.index.difference(oddest).sort_values()[: most - len(oddest)]
    return list(order[order.isin(oddest.union(drawn))])


def tile_picture(
    axial: npt.NDArray[Any], spacing_mm: tuple[float, float], *, low: float, high: float, alt: str
) -> Picture:
    """A slice (R, A) in its true proportions on a black square: the patient's right at the left, anterior up.

    Args:
        spacing_mm: voxel size along R and A.
        low, high: the values that become black and white.
    """
    rows = radiological((axial.astype(np.float32) - low) / max(high - low, 1e-6))
    extent = np.array([axial.shape[0] * spacing_mm[0], axial.shape[1] * spacing_mm[1]])
    width, height = np.maximum(1, np.round(TILE_PIXELS * extent / extent.max()).astype(int))
    image = Image.fromarray(np.ascontiguousarray(np.clip(rows, 0, 1)))
    smaller = width <= rows.shape[1] and height <= rows.shape[0]
    resized = image.resize((int(width), int(height)), Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR)
    square = np.zeros((TILE_PIXELS, TILE_PIXELS), np.float32)
    top, left = (TILE_PIXELS - height) // 2, (TILE_PIXELS - width) // 2
    square[top : top + height, left : left + width] = np.asarray(resized)
    return grey_picture(square, alt=alt)


def grey_levels(modality: str, low: float, high: float) -> tuple[float, float]:
    """The values that become black and white: the window for CT, the foreground's own percentiles for MR."""
    if modality == "CT":
        center, width = CT_WINDOW_HU
        return center - width / 2, center + width / 2
    return low, high
