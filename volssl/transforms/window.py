"""HU windowing: the display range of a radiologist, mapped to [0, 1]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

Windows = tuple[float, float] | Sequence[tuple[float, float]]
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


def channels(
    image: Tensor, *, modality: str, windows_hu: Windows | None, intensity: tuple[float, float], count: int = 1
) -> Tensor:
    """A scan's stored values -> what a network is fed: (1, R, A, S) -> (channels, R, A, S), float32 in [0, 1].

    CT has one channel for each window. MR has no unit: its percentiles become 0 and 1, and every channel is the same.

    Args:
        image: HU for CT.
        modality: `CT` or `MR`.
        windows_hu: (center, width), or one such pair for each channel; None where there is no CT.
        intensity: the scan's percentiles .5 and 99.5.
        count: channels of MR where no window tells.

    Raises:
        ValueError: for CT without a window.
    """
    pairs = window_pairs(windows_hu)
    if modality != "CT":
        low, high = intensity
        scaled = ((image.to(torch.float32) - low) / max(high - low, 1e-6)).clamp_(0.0, 1.0)
        return scaled.expand(len(pairs) or count, *scaled.shape[1:])
    if not pairs:
        raise ValueError("CT is looked at through a window, (center, width) in HU, and none is given")
    return torch.cat([window(image, *pair) for pair in pairs])


def window_pairs(windows_hu: Windows | None) -> list[tuple[float, float]]:
    """(center, width), or a list of such pairs -> a list of pairs; none for None."""
    if windows_hu is None:
        return []
    pairs: Any = windows_hu if isinstance(windows_hu[0], Sequence) else (windows_hu,)
    return [(float(center), float(width)) for center, width in pairs]


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
