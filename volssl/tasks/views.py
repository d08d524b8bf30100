"""What a task's network looks at: the preprocessed scan, cached, then small random changes while it trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import cos, radians, sin

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from volssl.tasks.base import Task
from volssl.tasks.cache import BoxCache
from volssl.tasks.masks import Masks
from volssl.tasks.series import second_id
from volssl.transforms.head_box import BoxInfo, box_in
from volssl.transforms.intensity import adjust, draw_intensity
from volssl.transforms.resample import FloatBox
from volssl.views.base import Scan


class TaskViews:
    """Turns a scan into `image` (C, *grid) and, where labels are given, `target` (T,).

    With masks there is `mask` (1, *grid) too, of 0 and 1, or all NaN where the scan has none. Where the task joins two
    series of a study, and `scan_of` gives the other one, the image has 2 C channels: the scan's, then those of the
    study's coronal series in the same box, all zeros where there is none.

    While training, the grid is flipped left to right, turned, scaled and shifted in plane, and changed in intensity.
    Nothing moves along S, so that the labels of slices stay true.

    Args:
        task: preprocesses the scan and reads its labels.
        labels: the joined label table, indexed by the volume's id; None to predict.
        train: whether to draw random changes.
        cache: keeps what `task.preprocess` made; None makes it anew each time.
        unlabelled: whether a scan may have no row in the labels. Its image is then all zeros, as nobody looks at it:
            nothing is read. Its target is unknown (NaN).
        masks: of the scans (`Task.masks`); None makes no `mask`.
        scan_of: the scan of an id, for the other series of a study; None looks at each series alone.
        flip: probability of a left-right flip.
        move: probability of a turn, scale and shift.
        angle_deg: largest turn about the S axis.
        zoom: range of the scale.
        shift_mm: largest shift along R and along A.
        gamma: range of the exponent; narrow, because blood differs from brain by a tenth of the window.
        gamma_probability: share of views with a gamma.
        scale: range of the factor on the intensity.
        offset: range of what is added to it.
    """

    def __init__(
        self,
        task: Task,
        labels: pd.DataFrame | None = None,
        *,
        train: bool = False,
        cache: BoxCache | None = None,
        unlabelled: bool = False,
        masks: Masks | None = None,
        scan_of: Callable[[str], Scan] | None = None,
        flip: float = 0.5,
        move: float = 0.5,
        angle_deg: float = 10.0,
        zoom: tuple[float, float] = (0.92, 1.08),
        shift_mm: float = 6.0,
        gamma: tuple[float, float] = (0.85, 1.2),
        gamma_probability: float = 0.5,
        scale: tuple[float, float] = (0.95, 1.05),
        offset: tuple[float, float] = (-0.03, 0.03),
    ) -> None:
        self.task, self.labels, self.train, self.cache = task, labels, train, cache
        self.unlabelled, self.masks, self.scan_of = unlabelled, masks, scan_of
        self.flip, self.move, self.angle_deg, self.zoom, self.shift_mm = flip, move, angle_deg, zoom, shift_mm
        self.gamma, self.gamma_probability, self.scale, self.offset = gamma, gamma_probability, scale, offset

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> its tensors, plain and float32.

        Raises:
            ValueError: where the scan has no row in the labels, and none was expected to lack one.
        """
        if self.labels is not None and scan.id not in self.labels.index:
            if not self.unlabelled:
                raise ValueError(f"{scan.id}: not in the label table")
            return self.nothing()
        image, info = self.preprocessed(scan)
        second = self.second(scan, info)
        mask = None if self.masks is None else self.masks.of(scan, info)
        if self.train:
            place, intensity = self.draw(rng)
            image = adjust(place(image), **intensity)
            second = None if second is None else adjust(place(second), **intensity)
            mask = None if mask is None else (place(mask) > 0.5).float()
        views = {"image": self.with_second(image, second)}
        if self.masks is not None:
            views["mask"] = torch.full((1, *info.grid), torch.nan) if mask is None else mask
        if self.labels is None:
            return views
        return views | {"target": self.task.targets(self.labels.loc[scan.id], info)}

    def unchanged(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """What a network is fed of a scan as it is, and the scan's box."""
        image, info = self.preprocessed(scan)
        return self.with_second(image, self.second(scan, info)), info

    def with_second(self, image: Tensor, second: Tensor | None) -> Tensor:
        """The channels of a second series behind those of an image, where series are joined."""
        return torch.cat([image, torch.zeros_like(image) if second is None else second]) if self.joins else image

    def nothing(self) -> dict[str, Tensor]:
        """What is made of a scan that nobody looks at."""
        contract, columns = self.task.contract, sum(self.task.head_sizes.values())
        unknown = {} if self.masks is None else {"mask": torch.full((1, *contract.grid), torch.nan)}
        image = torch.zeros(contract.channels * (2 if self.joins else 1), *contract.grid)
        return {"image": image, "target": torch.full((columns,), torch.nan)} | unknown

    @property
    def joins(self) -> bool:
        """Whether a second series is looked at."""
        return self.task.join is not None and self.scan_of is not None

    def still(self) -> TaskViews:
        """The same without random changes."""
        views = copy.copy(self)
        views.train = False
        return views

    def with_masks(self, masks: Masks) -> TaskViews:
        """The same, with these masks."""
        views = copy.copy(self)
        views.masks = masks
        return views

    def second(self, scan: Scan, info: BoxInfo) -> Tensor | None:
        """The study's coronal series in the box of the scan, (C, *grid); None where there is none.

        Where the two series are not of one space, it lies in a box that its own head is found for.
        """
        key = second_id(self.labels.loc[scan.id]) if self.joins and self.labels is not None else None
        if key is None or self.scan_of is None:
            return None
        other = self.scan_of(key)
        box = box_in(
            info, scan.affine, other_affine=other.affine, other_shape=other.shape, other_spacing_mm=other.spacing_mm
        )
        return self.preprocessed(other, box)[0]

    def preprocessed(self, scan: Scan, box: FloatBox | None = None) -> tuple[Tensor, BoxInfo]:
        """`task.preprocess`, or `preprocess_at` a box that is given, from the cache where it is there."""
        if self.cache is not None:
            return self.cache.get_or_make(scan, self.task, box)
        return self.task.preprocess(scan) if box is None else self.task.preprocess_at(scan, box)

    def draw(self, rng: np.random.RandomState) -> tuple[Callable[[Tensor], Tensor], dict[str, float]]:
        """Draw one random change, always with the same number of draws.

        Returns:
            What moves the voxels of (C, *grid), of an image or of what belongs to it, and the arguments of `adjust`.
        """
        flip, move = rng.uniform() < self.flip, rng.uniform() < self.move
        angle_deg, zoom = rng.uniform(-self.angle_deg, self.angle_deg), rng.uniform(*self.zoom)
        shift_mm = rng.uniform(-self.shift_mm, self.shift_mm, size=2)
        intensity = draw_intensity(
            rng, gamma=self.gamma, gamma_probability=self.gamma_probability, scale=self.scale, shift=self.offset
        )
        spacing_mm = self.task.contract.spacing_mm
        shift = (shift_mm[0] / spacing_mm[0], shift_mm[1] / spacing_mm[1])
        aspect = spacing_mm[0] / spacing_mm[1]

        def place(image: Tensor) -> Tensor:
            image = image.flip(1) if flip else image
            if not move:
                return image
            return move_in_plane(image, angle_deg=angle_deg, zoom=zoom, shift=shift, aspect=aspect)

        return place, intensity


def move_in_plane(
    image: Tensor, *, angle_deg: float, zoom: float, shift: tuple[float, float], aspect: float = 1.0
) -> Tensor:
    """Turn, scale and shift every slice alike, about the middle of the grid; 0 comes in from outside.

    Args:
        image: (C, R, A, S).
        angle_deg: from R towards A.
        zoom: above 1 enlarges.
        shift: along R and A, in voxels.
        aspect: voxel size along R over that along A.
    """
    channels, r, a, s = image.shape
    turn, shrink = radians(angle_deg), 1 / zoom
    # What comes to voxel p (from the middle, in voxels) is read at q = inverse turn and zoom of (p - shift).
    rows = [
        [shrink * cos(turn), shrink * sin(turn) / aspect],  # q_r from p_r, p_a
        [-shrink * sin(turn) * aspect, shrink * cos(turn)],  # q_a
    ]
    offset_r, offset_a = (-(row[0] * shift[0] + row[1] * shift[1]) for row in rows)
    # `affine_grid` counts in halves of the image, last axis first.
    theta = torch.tensor(
        [
            [rows[1][1], rows[1][0] * r / a, 2 * offset_a / a],
            [rows[0][1] * a / r, rows[0][0], 2 * offset_r / r],
        ],
        dtype=torch.float32,
    )
    planes = image.permute(0, 3, 1, 2).reshape(1, channels * s, r, a)
    at = functional.affine_grid(theta[None], [1, 1, r, a], align_corners=False)
    moved = functional.grid_sample(planes, at, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.reshape(channels, s, r, a).permute(0, 2, 3, 1).contiguous()
