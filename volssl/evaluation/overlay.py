"""What spoke for an answer, laid in colour over a slice in grey: the more, the less one sees through it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from volssl.evaluation.page import Picture

COLORS = "inferno"
LEAST_SHOWN = 0.15  # of the largest value: below it the scan is seen as it is
MOST_OPAQUE = 0.7


def opacity(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of each value in [0, 1], from 0 up to `MOST_OPAQUE`."""
    seen: npt.NDArray[Any] = np.clip((values - LEAST_SHOWN) / (1 - LEAST_SHOWN), 0, 1) ** 0.5 * MOST_OPAQUE
    return seen


def overlay_picture(rows: npt.NDArray[Any], over: npt.NDArray[Any], *, alt: str) -> Picture:
    """A slice (rows, columns) in [0, 1] as a PNG, and over it values of the same shape and range; NaN is black."""
    grey = np.clip(np.nan_to_num(np.asarray(rows, dtype=np.float64)), 0, 1)[..., None]
    seen = opacity(np.asarray(over, dtype=np.float64))[..., None]
    mixed = grey * (1 - seen) + colormaps[COLORS](over)[..., :3] * seen
    file = io.BytesIO()
    Image.fromarray(np.round(255 * mixed).astype(np.uint8)).save(file, format="PNG", optimize=True)
    return Picture(file.getvalue(), "image/png", alt)
