"""The head box: a fixed extent in millimetres, hung from the vertex, windowed and brought to a grid (Ghesu et al. 2022,
section 4.5, which places it by landmarks and gives its voxels alone: 40 x 224 x 192; the millimetres are ours).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from volssl.transforms.crops import covering
from volssl.transforms.head import HeadMask, find_head
from volssl.transforms.resample import FloatBox, resample_box
from volssl.transforms.window import Windows, window, window_pairs

Size = tuple[int, int, int]
Millimetres = tuple[float, float, float]

PAPER_GRID: Size = (192, 224, 40)
EXTENT_MM: Millimetres = (168.0, 196.0, 140.0)
BLOOD_WINDOW_HU = (55.0, 200.0)
SECOND = "second"  # entry of a sample: the series that is joined to it
MARGIN_MM = 2.0  # between the vertex (outer table of the skull) and the upper face of the box

LARGEST_HEAD_MM2, SMALLEST_HEAD_MM2 = 45_000.0, 8_000.0  # widest cross-section with the scalp: 20 × 24 cm is 38,000 mm²
LEAST_HEIGHT_MM = 90.0
MOST_CUT_MM2 = 1500.0
LEAST_BRAIN_LIKE = 0.7


@dataclass(frozen=True)
class BoxInfo:
    """Where the box lies in the scan.

    Attributes:
        box: first and last edge along R, A, S in voxels of the scan (voxel i covers [i, i + 1)); it may leave the scan.
        grid: voxels of the result.
        scan_shape: voxels of the scan.
        spacing_mm: of the scan.
        reasons: why the scan is unlike a whole head; empty for a head.
    """

    box: FloatBox
    grid: Size
    scan_shape: Size
    spacing_mm: Millimetres
    reasons: tuple[str, ...] = ()

    @property
    def plausible(self) -> bool:
        """Whether the scan looks like a whole head."""
        return not self.reasons

    @property
    def slice_edges(self) -> np.ndarray:
        """(grid S + 1,): edges of the grid's slices in source slices, inferior to superior."""
        edges: np.ndarray = np.linspace(*self.box[2], self.grid[2] + 1)
        return edges

    def slice_overlap(self) -> np.ndarray:
        """(grid S, source S): how much of a source slice each slice of the grid covers, in source slices."""
        edges, source = self.slice_edges, np.arange(self.scan_shape[2])
        low = np.maximum(edges[:-1, None], source[None, :])
        high = np.minimum(edges[1:, None], source[None, :] + 1)
        overlap: np.ndarray = np.maximum(high - low, 0)
        return overlap

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {
            "box": [float(edge) for pair in self.box for edge in pair],
            "grid": list(self.grid),
            "scan_shape": list(self.scan_shape),
            "spacing_mm": [float(mm) for mm in self.spacing_mm],
            "plausible": self.plausible,
            "reasons": "; ".join(self.reasons),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> BoxInfo:
        """The inverse of `as_dict`."""
        edges = [float(edge) for edge in values["box"]]
        return BoxInfo(
            box=((edges[0], edges[1]), (edges[2], edges[3]), (edges[4], edges[5])),
            grid=_three(values["grid"], int),
            scan_shape=_three(values["scan_shape"], int),
            spacing_mm=_three(values["spacing_mm"], float),
            reasons=tuple(values["reasons"].split("; ")) if values["reasons"] else (),
        )


def place_box(mask: HeadMask, spacing_mm: Millimetres, extent_mm: Millimetres) -> FloatBox:
    """Hang a box from the vertex, centered on the cranium in plane; in voxels. Without a head: on the scan's middle."""
    if mask.found:
        middle_mm = (*mask.center_mm, mask.top_mm + mask.missing_mm + MARGIN_MM - extent_mm[2] / 2)
    else:
        middle_mm = (mask.scan_mm[0] / 2, mask.scan_mm[1] / 2, mask.scan_mm[2] / 2)
    edges = [
        ((center - extent / 2) / mm, (center + extent / 2) / mm)
        for center, extent, mm in zip(middle_mm, extent_mm, spacing_mm, strict=True)
    ]
    return edges[0], edges[1], edges[2]


def unlike_a_head(mask: HeadMask) -> tuple[str, ...]:
    """Why the scan is not a whole head in HU; one short phrase a reason, none for a head."""
    if not mask.found:
        return ("no tissue found",)
    reasons = []
    height_mm = (mask.areas_mm2(mask.head) > 1000).sum() * mask.voxel_mm
    widest = mask.areas_mm2(mask.cranium)[mask.band].max()
    if widest > LARGEST_HEAD_MM2:
        reasons.append(f"a cross-section of {widest / 100:.0f} cm² is more than a head's")
    elif widest < SMALLEST_HEAD_MM2:
        reasons.append(f"a cross-section of {widest / 100:.0f} cm² is less than a head's")
    if not mask.has_skull:
        reasons.append("no closed skull")
    if height_mm < LEAST_HEIGHT_MM:
        reasons.append(f"only {height_mm:.0f} mm along the body are in the field of view")
    if mask.missing_mm > 10:
        reasons.append(f"the top of the head is outside of the field of view by about {mask.missing_mm:.0f} mm")
    if mask.cut_mm2 > MOST_CUT_MM2:
        reasons.append("the head is cut off at the side of the field of view")
    if mask.brain_like < LEAST_BRAIN_LIKE:
        reasons.append(f"only {mask.brain_like:.0%} of the inside has the HU of brain, blood or water")
    return tuple(reasons)


def head_box(
    scan_hu: np.ndarray | Tensor,
    spacing_mm: Millimetres,
    *,
    grid: Size = PAPER_GRID,
    extent_mm: Millimetres = EXTENT_MM,
    window_hu: Windows = BLOOD_WINDOW_HU,
) -> tuple[Tensor, BoxInfo]:
    """Find the head, cut its box, window it and bring it to the grid.

    Args:
        scan_hu: (1, R, A, S), Hounsfield units, axes right, anterior, superior.
        spacing_mm: along R, A, S.
        grid: voxels of the result.
        extent_mm: of the box.
        window_hu: (center, width), or one such pair for each channel, applied before resampling, so that a voxel half
            of bone does not turn bright.

    Returns:
        (channels, *grid) float32 in [0, 1], 0 outside of the scan; and where it was cut.

    Raises:
        ValueError: where the scan has more than one channel.
    """
    hu = scan_hu.numpy() if isinstance(scan_hu, Tensor) else scan_hu
    if hu.ndim != 4 or hu.shape[0] != 1:
        raise ValueError(f"a head CT is (1, R, A, S), this one is {tuple(hu.shape)}")
    mask = find_head(hu[0], spacing_mm)
    box = place_box(mask, spacing_mm, extent_mm)
    info = BoxInfo(box, grid, _three(hu.shape[1:], int), spacing_mm, unlike_a_head(mask))
    return cut_box(hu, box, grid, window_hu), info


def cut_box(hu: np.ndarray, box: FloatBox, grid: Size, window_hu: Windows) -> Tensor:
    """Window and resample a box of a scan (1, R, A, S), touching only the voxels that it needs: (channels, *grid)."""
    reach = [max((stop - start) / size, 1.0) for (start, stop), size in zip(box, grid, strict=True)]  # of the filter
    near = covering(box, _three(hu.shape[1:], int), (reach[0], reach[1], reach[2]))
    part = np.ascontiguousarray(hu[(slice(None), *(slice(first, last) for first, last in near))])
    local = [(start - first, stop - first) for (start, stop), (first, _) in zip(box, near, strict=True)]
    image = torch.cat([window(torch.from_numpy(part), *pair) for pair in window_pairs(window_hu)])
    return resample_box(image, (local[0], local[1], local[2]), grid, fill=0.0)


def box_in(
    info: BoxInfo, affine: np.ndarray, *, other_affine: np.ndarray, other_shape: Size, other_spacing_mm: Millimetres
) -> FloatBox | None:
    """The box of a scan, in voxels of another series: about the same point of the patient, of as many millimetres.

    Both are in RAS, so that a box stays a box; a small turn between them is passed over.

    Args:
        info: of the scan's box.
        affine: of the scan, voxel index to RAS millimetres, 4 x 4.

    Returns:
        None where the middle of the box lies outside of the other series: their millimetres are of different spaces.
    """
    first, last = np.array(info.box).T
    middle = (first + last) / 2 - 0.5  # voxel i covers [i, i + 1), and an affine places its center
    there = (np.linalg.inv(other_affine) @ affine @ np.append(middle, 1.0))[:3] + 0.5
    if (there < 0).any() or (there > np.array(other_shape)).any():
        return None
    half = (last - first) * np.array(info.spacing_mm) / np.array(other_spacing_mm) / 2
    r, a, s = ((float(low), float(high)) for low, high in zip(there - half, there + half, strict=True))
    return r, a, s


class HeadBoxd(MapTransform):  # type: ignore[misc]
    """`head_box` on the entries of a dictionary; what it cut stands beside it under `<key>_box`, in plain numbers.

    An entry is a (1, R, A, S) MetaTensor in HU whose affine has RAS axes (`Orientationd` before), and becomes a plain
    float32 tensor (channels, *grid) in [0, 1].

    A sample that has an entry `second` is of two series of a study, which the network joins: a MetaTensor as the others
    are, or None where there is one series alone. Its channels in the same box, or zeros, come behind those of each
    entry, and it is taken out; where it was cut stands beside the entry under `<key>_second_box`, None without it.

    Args:
        keys: entries to transform.
        grid: voxels along R, A, S.
        extent_mm: of the box along R, A, S.
        window_hu: (center, width) in HU, or one such pair for each channel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        grid: Size = PAPER_GRID,
        extent_mm: Millimetres = EXTENT_MM,
        window_hu: Windows = BLOOD_WINDOW_HU,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.grid = _three(grid, int)
        self.extent_mm = _three(extent_mm, float)
        self.window_hu = window_pairs(window_hu)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        joins, second = SECOND in result, result.pop(SECOND, None)
        for key in self.key_iterator(result):
            scan = result[key]
            image, info = self.boxed(scan, ras_spacing_mm(getattr(scan, "affine", None), key))
            if joins:
                image, box = self.with_second(image, info, np.asarray(scan.affine), second)
                result[f"{key}_{SECOND}_box"] = box
            result[key], result[f"{key}_box"] = image, info.as_dict()
        return result

    def boxed(self, scan: Any, spacing_mm: Millimetres) -> tuple[Tensor, BoxInfo]:
        """`head_box` of a scan (1, R, A, S)."""
        return head_box(
            np.asarray(scan), spacing_mm, grid=self.grid, extent_mm=self.extent_mm, window_hu=self.window_hu
        )

    def with_second(
        self, image: Tensor, info: BoxInfo, affine: np.ndarray, second: Any
    ) -> tuple[Tensor, dict[str, Any] | None]:
        """The channels of a second series behind those of an image: (2 channels, *grid); and where it was cut."""
        if second is None:
            return torch.cat([image, torch.zeros_like(image)]), None
        spacing_mm = ras_spacing_mm(getattr(second, "affine", None), SECOND)
        shape = _three(second.shape[1:], int)
        place = np.asarray(second.affine)
        box = box_in(info, affine, other_affine=place, other_shape=shape, other_spacing_mm=spacing_mm)
        if box is None:
            other, found = self.boxed(second, spacing_mm)
        else:
            other = cut_box(np.asarray(second), box, self.grid, self.window_hu)
            found = BoxInfo(box, self.grid, shape, spacing_mm)
        return torch.cat([image, other]), found.as_dict() | {"own_head": box is None}


def ras_spacing_mm(affine: Any, name: Hashable) -> Millimetres:
    """Voxel size from an affine, voxel to RAS millimetres.

    Raises:
        ValueError: without an affine, or where its axes are not right, anterior, superior.
    """
    if affine is None:
        raise ValueError(f"{name}: an image with an affine (MONAI's MetaTensor) is needed to know its millimetres")
    axes = np.asarray(affine, dtype=float)[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if list(np.abs(axes).argmax(axis=0)) != [0, 1, 2] or (np.diag(axes) <= 0).any():
        raise ValueError(f"{name}: axes are not right, anterior, superior; put `Orientationd` with axcodes RAS before")
    # to the nanometre, as in a store: what a file reads back by rounding must cut the same box
    first, second, third = (round(float(mm), 6) for mm in spacing)
    return first, second, third


def _three(values: Any, kind: type) -> Any:
    first, second, third = (kind(value) for value in values)
    return first, second, third
