"""What a method looks at: the contract of a scan that is read lazily, and of the views made from it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

MODALITIES = ("CT", "MR")  # a sample's `modality` is an index into it
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # ((r0, r1), (a0, a1), (s0, s1)), voxels, half open


class Scan(Protocol):
    """One volume, in RAS orientation, of which only the boxes asked for are read.

    Attributes:
        id: the volume's key; a keyed hash, never a raw identifier.
        shape: voxels along right, anterior, superior.
        spacing_mm: voxel size along the same axes.
        affine: voxel index to RAS millimetres, 4 x 4.
        modality: `CT` or `MR`.
        foreground: the box outside of which there is only air.
        intensity: percentiles .5 and 99.5 of the values inside the foreground, HU for CT: what MR is scaled by.
    """

    @property
    def id(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def spacing_mm(self) -> tuple[float, float, float]: ...
    @property
    def affine(self) -> np.ndarray: ...
    @property
    def modality(self) -> str: ...
    @property
    def foreground(self) -> Box: ...
    @property
    def intensity(self) -> tuple[float, float]: ...

    def read(self, box: Box | None = None) -> np.ndarray:
        """Read a box, or all of it: (C, R, A, S), HU as int16 for CT (int32 where they need it), float32 for MR."""
        ...


class Views(Protocol):
    """Turns one scan into the named tensors a method wants; picklable, and random through `rng` alone."""

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]: ...


@runtime_checkable
class PairViews(Views, Protocol):
    """Views that can be made of two scans as well, which are to be alike: two series, two studies, two neighbours."""

    def pair(self, scan: Scan, partner: Scan, rng: np.random.RandomState) -> dict[str, Tensor]: ...
