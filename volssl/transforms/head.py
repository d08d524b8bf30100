"""Find the head in a CT without landmarks.

On a coarse copy, bone closed slice by slice shows what it encloses: the cranium. Its vertex and its middle are the ends
of a scan that stay put, where the neck and the shoulders do not. A table, a head holder or a pillow is neither bone nor
inside of bone. Where no skull closes (a brain without its skull, a large craniectomy, a body), the soft
tissue stands in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from skimage.morphology import ball, disk

from volssl.transforms.resample import resample_box

COARSE_MM = 4.0  # voxel of the coarse copy
PAD = 5  # coarse voxels of air around the scan, so that closing and filling see its outside
AIR_HU, SOFT_HU, BONE_HU, DENSE_HU = -1000.0, -300.0, 250.0, 1500.0
BAND_MM = 80.0  # the part below the vertex that is the same in every head: no face, no neck
LEAST_TOP_MM2 = 500.0  # the vertex is where the cross-section first has this area
CAP_MM = 75.0  # from the vertex down to the widest cross-section
TRUNCATED_MM2 = 5000.0  # a cross-section of this area on the scan's last slice: the vertex is outside of the scan
LEAST_SKULL_MM3 = 50_000.0

Center = tuple[float, float]


@dataclass(frozen=True)
class HeadMask:
    """The head on a coarse grid.

    Attributes:
        head: (r, a, s) bool; skin and all inside, table and head holder removed.
        cranium: (r, a, s) bool; skull and all inside, or the head where no skull closes.
        has_skull: whether the cranium was found by its bone.
        voxel_mm: side of the coarse voxels.
        origin_mm: lower edges of the coarse grid, from the scan's own lower edges.
        scan_mm: extent of the scan along R, A, S.
        brain_like: share of what lies inside of the skull (or, without one, of all) between -20 and 100 HU.
    """

    head: np.ndarray
    cranium: np.ndarray
    has_skull: bool
    voxel_mm: float
    origin_mm: tuple[float, float, float]
    scan_mm: tuple[float, float, float]
    brain_like: float

    @property
    def found(self) -> bool:
        """Whether there is anything but air and a table."""
        return bool(self.cranium.any())

    def areas_mm2(self, mask: np.ndarray) -> np.ndarray:
        """Cross-section of a mask at each coarse slice, inferior to superior."""
        voxels: np.ndarray = mask.sum(axis=(0, 1))
        return voxels * self.voxel_mm**2

    @property
    def top_mm(self) -> float:
        """Height of the highest cross-section of the cranium above the scan's lower edge; at most the scan's height."""
        areas = self.areas_mm2(self.cranium)
        above = np.flatnonzero(areas >= min(LEAST_TOP_MM2, areas.max()))[-1]
        step = (areas[above] - LEAST_TOP_MM2) / max(areas[above] - areas[above + 1], 1e-9)
        top = self.origin_mm[2] + (above + 0.5 + np.clip(step, 0, 1)) * self.voxel_mm
        return float(min(top, self.scan_mm[2]))

    @property
    def missing_mm(self) -> float:
        """How far above the scan the vertex lies, judged by the cross-section on its last slice; 0 where it is inside.

        Down from the vertex an ellipsoid's cross-section grows as 1 - (1 - depth / CAP_MM)².
        """
        areas = self.areas_mm2(self.cranium)
        last = int((self.scan_mm[2] - self.origin_mm[2]) / self.voxel_mm - 1.0)  # the last one wholly inside
        if not self.has_skull or areas[last] < TRUNCATED_MM2:
            return 0.0
        widest = areas[max(0, last - int(CAP_MM / self.voxel_mm)) : last + 1].max()
        return float(CAP_MM * (1 - np.sqrt(1 - areas[last] / widest)))

    @property
    def cut_mm2(self) -> float:
        """Area of the cranium on the scan's right, left, front or back face, whichever is largest."""
        faces = []
        for axis in (0, 1):
            last = int((self.scan_mm[axis] - self.origin_mm[axis]) / self.voxel_mm - 1.0)
            faces += [self.cranium[:, :, self.band].take(index, axis=axis).sum() for index in (PAD, last)]
        return float(max(faces)) * self.voxel_mm**2

    @property
    def band(self) -> slice:
        """Coarse slices from the vertex down to `BAND_MM` below it, at least the upper 20 mm of what there is."""
        top = (self.top_mm - self.origin_mm[2]) / self.voxel_mm
        depth = max(BAND_MM - self.missing_mm, 20.0) / self.voxel_mm
        return slice(max(0, round(top - depth)), max(1, round(top)))

    @property
    def center_mm(self) -> Center:
        """Middle of the cranium's upper part along R and A, from the scan's lower edges."""
        shadow = self.cranium[:, :, self.band].any(axis=2)
        middles = [_middle(shadow.sum(axis=1 - axis)) for axis in (0, 1)]
        return tuple(o + m * self.voxel_mm for o, m in zip(self.origin_mm, middles, strict=False))  # type: ignore[return-value]


def find_head(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> HeadMask:
    """Find the head in a CT.

    Args:
        hu: (R, A, S), Hounsfield units, any number type.
        spacing_mm: along R, A, S.

    Returns:
        Masks on a coarse grid. Any volume gets an answer; `head_box` judges whether it is a head.

    Raises:
        ValueError: where the array has not three axes or a spacing is not positive.
    """
    if hu.ndim != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"a volume (R, A, S) and positive spacings are needed, not {hu.shape} and {spacing_mm}")
    coarse = coarse_copy(hu, spacing_mm)
    soft = ndimage.binary_opening(coarse > SOFT_HU, structure=ball(2))  # 16 mm and more: no shell of a head holder
    enclosed = _enclosed_by_bone(coarse)
    head = _in_plane_holes_filled(_component(soft, enclosed))
    cranium = _component(ndimage.binary_opening(enclosed, structure=ball(2)), enclosed) & (coarse > SOFT_HU)
    cranium = _in_plane_holes_filled(cranium)
    has_skull = _skull_closes(cranium, head)
    inner = coarse[ndimage.binary_erosion(cranium, iterations=3) if has_skull else head]
    return HeadMask(
        head=head,
        cranium=cranium if has_skull else head,
        has_skull=has_skull,
        voxel_mm=COARSE_MM,
        origin_mm=(-PAD * COARSE_MM,) * 3,
        scan_mm=tuple(float(n * mm) for n, mm in zip(hu.shape, spacing_mm, strict=True)),  # type: ignore[arg-type]
        brain_like=float(((inner > -20) & (inner < 100)).mean()) if inner.size else 0.0,
    )


def coarse_copy(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Voxels of `COARSE_MM`, with `PAD` voxels of air on every side: (R, A, S) -> (r, a, s) float32.

    Every second millimetre or so is read, which is enough for masks and many times faster than all of it.
    """
    strides = [max(1, int(2.0 / mm)) for mm in spacing_mm]
    starts = [(stride - 1) // 2 for stride in strides]
    thin = hu[tuple(slice(start, None, stride) for start, stride in zip(starts, strides, strict=True))]
    thin = _background_to_air(np.clip(thin, AIR_HU, DENSE_HU).astype(np.float32))
    box, size = [], []
    for n, mm, stride, start in zip(hu.shape, spacing_mm, strides, starts, strict=True):
        voxels = int(np.ceil(n * mm / COARSE_MM)) + 2 * PAD
        first_mm = (start + 0.5 - stride / 2) * mm  # lower edge of the first voxel that was read
        low = (-PAD * COARSE_MM - first_mm) / (stride * mm)
        box.append((low, low + voxels * COARSE_MM / (stride * mm)))
        size.append(voxels)
    image = resample_box(torch.from_numpy(thin)[None], (box[0], box[1], box[2]), (size[0], size[1], size[2]), AIR_HU)
    return image[0].numpy()


def _background_to_air(hu: np.ndarray) -> np.ndarray:
    """Air where the faces of the volume hold one constant that is not air: the 0 around a brain without its skull."""
    faces = np.concatenate([face.ravel() for axis in range(3) for face in (hu.take(0, axis), hu.take(-1, axis))])
    values, counts = np.unique(np.round(faces), return_counts=True)
    background = values[counts.argmax()]
    if background > SOFT_HU and counts.max() > 0.5 * faces.size:
        return np.where(np.round(hu) == background, np.float32(AIR_HU), hu)
    return hu


def _enclosed_by_bone(coarse: np.ndarray) -> np.ndarray:
    """Bone and, slice by slice, what it encloses; gaps up to 16 mm (sutures, thin bone) are bridged."""
    closed = ndimage.binary_closing(coarse > BONE_HU, structure=disk(2)[:, :, None])
    return _in_plane_holes_filled(closed)


def _in_plane_holes_filled(mask: np.ndarray) -> np.ndarray:
    cross = np.zeros((3, 3, 3), bool)
    cross[1, :, 1] = cross[:, 1, 1] = True
    filled: np.ndarray = ndimage.binary_fill_holes(mask, structure=cross)
    return filled


def _component(mask: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The connected part of a mask that holds most of `weight`, or the largest where none holds any."""
    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    weights = np.bincount(labels[weight], minlength=n + 1)
    sizes[0] = weights[0] = 0
    chosen: np.ndarray = labels == (weights.argmax() if weights.max() else sizes.argmax())
    return chosen


def _skull_closes(cranium: np.ndarray, head: np.ndarray) -> bool:
    """Whether bone encloses most of the upper part of the head."""
    if not cranium.any() or cranium.sum() * COARSE_MM**3 < LEAST_SKULL_MM3:
        return False
    top = int(np.flatnonzero(cranium.any(axis=(0, 1)))[-1]) + 1
    band = slice(max(0, top - int(BAND_MM / COARSE_MM)), top)
    return bool(cranium[:, :, band].sum() > 0.5 * head[:, :, band].sum())


def _middle(profile: np.ndarray) -> float:
    """Middle between the first and the last crossing of a fifth of the maximum, in voxels from the lower edge."""
    level = profile.max() / 5
    inside = np.flatnonzero(profile >= level)
    first, last = int(inside[0]), int(inside[-1])
    rise = (profile[first] - level) / max(profile[first] - profile[first - 1], 1e-9) if first else 0.5
    fall = (profile[last] - level) / max(profile[last] - profile[last + 1], 1e-9) if last + 1 < len(profile) else 0.5
    return float((first + 0.5 - rise + last + 0.5 + fall) / 2)
