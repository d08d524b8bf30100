"""The part of a scan that a task looks at: a fixed extent in mm about the foreground's middle, or the head box."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from volssl.transforms.crops import covering
from volssl.transforms.head_box import BoxInfo, Millimetres, Size, head_box, ras_spacing_mm
from volssl.transforms.resample import FloatBox, resample_box
from volssl.transforms.window import Windows, channels, window_pairs

PLACES = ("foreground", "head")
Edges = Sequence[Sequence[int]]  # first voxel, and the one after the last, along R, A, S


def scan_box(
    read: Callable[[Any], np.ndarray],
    *,
    shape: Size,
    spacing_mm: Millimetres,
    foreground: Edges,
    intensity: tuple[float, float],
    modality: str,
    place: str = "foreground",
    grid: Size,
    extent_mm: Millimetres,
    window_hu: Windows | None = None,
) -> tuple[Tensor, BoxInfo]:
    """Place the box, read what it needs of the scan, bring the values to [0, 1] and the box to the grid.

    Args:
        read: gives a box of the scan as (1, R, A, S), or all of it for None.
        shape, spacing_mm: of the scan, along R, A, S.
        foreground: the box outside of which there is only air.
        intensity: percentiles .5 and 99.5 of the values in it, between which MR is scaled.
        modality: `CT` or `MR`.
        place: `foreground` puts the box's middle on the foreground's; `head` hangs it from the vertex of a head CT.
        grid: voxels of the result.
        extent_mm: of the box.
        window_hu: (center, width) for CT, or one such pair for each channel.

    Returns:
        (channels, *grid) float32 in [0, 1], 0 outside of the scan; and where it was cut.

    Raises:
        ValueError: for another place, or the head box of a scan that is no CT.
    """
    if place not in PLACES:
        raise ValueError(f"a box is placed by {' or '.join(PLACES)}, not {place}")
    if place == "head":
        if modality != "CT" or window_hu is None:
            raise ValueError(f"the head box is found in HU, this scan is {modality}")
        return head_box(read(None), spacing_mm, grid=grid, extent_mm=extent_mm, window_hu=window_hu)
    box = box_about(foreground, spacing_mm, extent_mm)
    reach = [max((stop - start) / size, 1.0) for (start, stop), size in zip(box, grid, strict=True)]  # of the filter
    near = covering(box, shape, (reach[0], reach[1], reach[2]))
    part = torch.from_numpy(np.ascontiguousarray(read(near)))
    image = channels(part, modality=modality, windows_hu=window_hu, intensity=intensity)
    local = [(start - first, stop - first) for (start, stop), (first, _) in zip(box, near, strict=True)]
    return resample_box(image, (local[0], local[1], local[2]), grid), BoxInfo(box, grid, shape, spacing_mm)


def box_about(foreground: Edges, spacing_mm: Millimetres, extent_mm: Millimetres) -> FloatBox:
    """A box of this extent about the middle of the foreground, in voxels; it may leave the scan."""
    edges = [
        ((first + last) / 2 - extent / mm / 2, (first + last) / 2 + extent / mm / 2)
        for (first, last), mm, extent in zip(foreground, spacing_mm, extent_mm, strict=True)
    ]
    return edges[0], edges[1], edges[2]


class ScanBoxd(MapTransform):  # type: ignore[misc]
    """`scan_box` on the entries of a dictionary; what it cut stands beside it under `<key>_box`, in plain numbers.

    An entry is a (1, R, A, S) MetaTensor whose affine has RAS axes, HU for CT. The dictionary holds its `foreground`
    and `intensity` too, as `volssl.data.studies.Studies` gives them.

    Args:
        keys: entries to transform.
        modality: `CT` or `MR`.
        place: `foreground` or `head`.
        grid: voxels along R, A, S.
        extent_mm: of the box along R, A, S.
        window_hu: (center, width) in HU, or one such pair for each channel; empty for MR.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str,
        place: str,
        grid: Size,
        extent_mm: Millimetres,
        window_hu: Windows = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modality, self.place = modality, place
        self.grid: Size = (int(grid[0]), int(grid[1]), int(grid[2]))
        self.extent_mm: Millimetres = (float(extent_mm[0]), float(extent_mm[1]), float(extent_mm[2]))
        self.window_hu = window_pairs(window_hu) if window_hu else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            values = np.asarray(result[key])
            image, info = scan_box(
                partial(cut, values),
                shape=(values.shape[1], values.shape[2], values.shape[3]),
                spacing_mm=ras_spacing_mm(getattr(result[key], "affine", None), key),
                foreground=result["foreground"],
                intensity=result["intensity"],
                modality=self.modality,
                place=self.place,
                grid=self.grid,
                extent_mm=self.extent_mm,
                window_hu=self.window_hu,
            )
            result[key], result[f"{key}_box"] = image, info.as_dict()
        return result


def cut(values: np.ndarray, box: Edges | None) -> np.ndarray:
    """A box of (C, R, A, S), or all of it for None."""
    return values if box is None else values[(slice(None), *(slice(first, last) for first, last in box))]
