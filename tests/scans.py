"""Tiny scans that tests build themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass
class ArrayScan:
    """A `Scan` around an array (R, A, S) in HU."""

    array: np.ndarray
    spacing_mm: tuple[float, float, float] = (3.5, 3.5, 7.0)
    id: str = "scan"
    modality: str = "CT"
    boxes: list[Box | None] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        r, a, s = self.array.shape
        return r, a, s

    @property
    def affine(self) -> np.ndarray:
        return np.diag([*self.spacing_mm, 1.0])

    @property
    def foreground(self) -> Box:
        r, a, s = self.shape
        return (0, r), (0, a), (0, s)

    @property
    def intensity(self) -> tuple[float, float]:
        low, high = np.percentile(self.array, (0.5, 99.5))
        return float(low), float(high)

    def read(self, box: Box | None = None) -> np.ndarray:
        self.boxes.append(box)
        part = self.array if box is None else self.array[tuple(slice(*side) for side in box)]
        return part[None]


def noise_scan(seed: int, shape: tuple[int, int, int] = (40, 44, 16)) -> ArrayScan:
    """A scan of soft-tissue noise."""
    hu = np.random.default_rng(seed).normal(40, 40, shape)
    return ArrayScan(hu.astype(np.int16), id=f"scan{seed}")
