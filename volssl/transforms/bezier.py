"""Non-linear intensities along a Bézier curve (Models Genesis; Zhou et al. 2021, 3.1)."""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from torch import Tensor

from volssl.transforms.replay import Drawn, Replayable, ReplayableMap, Size

Point = tuple[float, float]
LEVELS = 2**16  # of the table that an image is looked up in: finer than a Hounsfield unit in any window


def bezier_intensity(image: Tensor, points: tuple[Point, Point], reverse: bool = False) -> Tensor:
    """Map values in [0, 1] by the cubic Bézier curve from (0, 0) over two control points to (1, 1).

    With control points in the unit square both coordinates grow along the curve (as they do in the timing functions of
    CSS), so that the map is monotone, and 0 and 1 stay, or change places. Values are rounded to 1 / 65535.

    Args:
        image: any shape, floating point; it stays as it is.
        points: the two control points, (x, y) each, in the unit square.
        reverse: run through the curve's levels from 1 down to 0 while the values rise: bright becomes dark.

    Raises:
        ValueError: for a control point outside of the unit square.
    """
    x, y = curve(points)
    levels = np.interp(np.linspace(0, 1, LEVELS), x, y[::-1] if reverse else y)
    table = torch.from_numpy(levels).to(device=image.device, dtype=image.dtype)
    place = (image.clamp(0, 1).to(torch.float32) * (LEVELS - 1)).round_().to(torch.int32)
    return table.index_select(0, place.flatten()).reshape(image.shape)


def curve(points: tuple[Point, Point], steps: int = 2**13) -> tuple[np.ndarray, np.ndarray]:
    """`steps + 1` points of the curve: x and y, both growing from 0 to 1.

    Raises:
        ValueError: for a control point outside of the unit square.
    """
    control = np.array(points, dtype=np.float64)
    if control.shape != (2, 2) or (control < 0).any() or (control > 1).any():
        raise ValueError(f"two control points in the unit square are needed, not {points}")
    t = np.linspace(0, 1, steps + 1)
    weights = np.stack([3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)])
    x, y = (np.maximum.accumulate(axis @ weights + t**3) for axis in control.T)  # accumulate: rounding alone goes down
    return x, y


class RandBezierIntensity(Replayable):
    """A Bézier curve with two control points uniform in the unit square, turned about half the time.

    Args:
        reverse: share of the changed images whose intensities are turned about.
        prob: that an image is changed; .9 in Models Genesis.
    """

    function = staticmethod(bezier_intensity)

    def __init__(self, *, reverse: float = 0.5, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.reverse = reverse

    def arguments(self, rng: np.random.RandomState, size: Size) -> Drawn:  # noqa: ARG002 - any size alike
        (x1, y1), (x2, y2) = rng.uniform(size=(2, 2)).tolist()
        return {"points": ((x1, y1), (x2, y2)), "reverse": bool(rng.uniform() < self.reverse)}


class RandBezierIntensityd(ReplayableMap):
    """`RandBezierIntensity` on the entries of a dictionary, all alike."""

    def __init__(
        self, keys: KeysCollection, *, reverse: float = 0.5, prob: float = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, RandBezierIntensity(reverse=reverse, prob=prob), allow_missing_keys)
