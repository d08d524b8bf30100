"""A scan that several views look at: no voxel of it is read twice."""

from __future__ import annotations

import numpy as np

from volssl.views.base import Box, Scan

BLOCK = (32, 32, 16)  # voxels that are held or not; about what a store decodes at once


class HeldScan:
    """A `Scan` that keeps what was read of another one, for as long as a sample is made of it.

    A box is read once: what later boxes share with it is in memory, and of the rest the smallest box that holds what
    is missing is read, in whole blocks. So views that look at one box share it, views at several read at most the whole
    volume, and views at a few small crops read little more than those. Room for the whole volume is asked for, but the
    system gives out only what is written to.

    What `read` returns is shared, as that of any scan in memory: change a copy.

    Args:
        scan: what is read.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.id, self.shape, self.spacing_mm, self.affine = scan.id, scan.shape, scan.spacing_mm, scan.affine
        self.modality, self.foreground = scan.modality, scan.foreground
        self._voxels: np.ndarray | None = None
        self._missing = np.ones([-(-n // block) for n, block in zip(self.shape, BLOCK, strict=True)], bool)

    @property
    def intensity(self) -> tuple[float, float]:
        """Percentiles .5 and 99.5 inside the foreground."""
        return self.scan.intensity

    def read(self, box: Box | None = None) -> np.ndarray:
        """A box, or all of it: (C, R, A, S), as the scan gives it.

        Raises:
            ValueError: the box is empty or leaves the volume.
        """
        asked: Box = box or ((0, self.shape[0]), (0, self.shape[1]), (0, self.shape[2]))
        if any(not 0 <= low < high <= n for (low, high), n in zip(asked, self.shape, strict=True)):
            return self.scan.read(box)  # raises, in its own words
        blocks = tuple(slice(low // b, -(-high // b)) for (low, high), b in zip(asked, BLOCK, strict=True))
        if self._missing[blocks].any():
            self._fetch(blocks)
        assert self._voxels is not None
        held: np.ndarray = self._voxels[(slice(None), *(slice(*side) for side in asked))]
        return held

    def _fetch(self, blocks: tuple[slice, ...]) -> None:
        """Read the smallest box that holds the missing ones of these blocks."""
        where = np.argwhere(self._missing[blocks]) + [side.start for side in blocks]
        low, high = where.min(axis=0), where.max(axis=0) + 1
        edges = np.stack([low * BLOCK, np.minimum(high * BLOCK, self.shape)], axis=1).tolist()
        voxels = self.scan.read(tuple((first, last) for first, last in edges))  # type: ignore[arg-type]
        if self._voxels is None:
            self._voxels = np.empty((len(voxels), *self.shape), voxels.dtype)
        self._voxels[(slice(None), *(slice(*side) for side in edges))] = voxels
        self._missing[tuple(slice(*side) for side in zip(low, high, strict=True))] = False
