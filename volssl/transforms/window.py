"""HU windowing: the display range of a radiologist, mapped to [0, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

Image = TypeVar("Image", Tensor, np.ndarray)


def window(image_hu: Image, center: float, width: float) -> Image:
    """Map `center ± width / 2` Hounsfield units to [0, 1]; what lies outside is clamped.

    Args:
        image_hu: any shape, any number type.
        center: middle of the window in HU; 55 for blood in the head (Ghesu et al. 2022, section 4.5).
        width: of the window in HU, above 0.

    Raises:
        ValueError: where the width is not positive.
    """
    if width <= 0:
        raise ValueError(f"a window is wider than 0 HU, this one is {width}")
    low = center - width / 2
    if isinstance(image_hu, np.ndarray):
        mapped: np.ndarray = np.clip((image_hu.astype(np.float32) - low) / width, 0.0, 1.0)
        return mapped
    return ((image_hu.to(torch.float32) - low) / width).clamp_(0.0, 1.0)


class WindowHUd(MapTransform):  # type: ignore[misc]
    """`window` on the entries of a dictionary.

    Args:
        keys: entries to transform.
        window_hu: (center, width) in HU.
    """

    def __init__(self, keys: KeysCollection, window_hu: tuple[float, float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.window_hu = (float(window_hu[0]), float(window_hu[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = window(result[key], *self.window_hu)
        return result
