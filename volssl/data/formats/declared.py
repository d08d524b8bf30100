"""What a header promises, checked before any memory is asked for: axes, parts, and bytes that the files can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volssl.data.checks import THRESHOLDS
from volssl.data.volume import RefusedError

DEFLATE_MAX = 1032  # bytes that deflate makes of one, at most (zlib's own figure)
COMPRESSED_OVERHEAD = 1 << 16


@dataclass(frozen=True)
class VolumeHeader:
    """What a volume file's header says; each format adds what its own reading needs.

    Attributes:
        shape: voxels along the file's own three axes.
        dtype: of the voxels in the file.
        parts: volumes in the file.
        files: the file itself, then its raw parts.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    parts: int
    files: tuple[Path, ...]


def volume_axes(sizes: Sequence[int]) -> tuple[tuple[int, int, int], int]:
    """Part an array's axes into those of one volume and the number of volumes; trailing axes of one do not count.

    Raises:
        RefusedError: there are other than three or four axes, one is empty, or the volume is too large.
    """
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    times = " x ".join(map(str, sizes))
    if min(sizes, default=0) < 1:
        raise RefusedError("dimensions", f"The array is {times}: an axis without voxels.")
    if len(sizes) not in (3, 4):
        raise RefusedError("dimensions", f"The array is {times}: a volume has three axes, a file of several has four.")
    shape = (sizes[0], sizes[1], sizes[2])
    if math.prod(shape) > THRESHOLDS.voxels_max:
        raise RefusedError("too_large", f"The array is {times}; {THRESHOLDS.voxels_max} voxels are the most.")
    return shape, check_parts(sizes[3] if len(sizes) == 4 else 1)


def check_parts(parts: int) -> int:
    """The number of volumes in a file.

    Raises:
        RefusedError: so many that they are steps of time, which would drown all other scans.
    """
    if parts > THRESHOLDS.parts_max:
        sentence = (
            f"The file holds {parts} volumes, {THRESHOLDS.parts_max} are the most: write the ones to learn from, or "
            "their mean, to a file of their own."
        )
        raise RefusedError("time_series", sentence)
    return parts


def check_bytes(promised: int, files: Sequence[Path], *, compressed: bool) -> None:
    """Compare the bytes that a header promises with those that its files can hold.

    Raises:
        RefusedError: a file is not there, or they hold less.
    """
    try:
        there = sum(path.stat().st_size for path in files)
    except OSError as error:
        raise RefusedError("missing_part", "The header names a raw part that is not where it says.") from error
    at_most = there * DEFLATE_MAX + COMPRESSED_OVERHEAD if compressed else there
    if promised > at_most:
        sentence = f"The header promises {promised} bytes of voxels and the file holds {there}: it is cut short."
        raise RefusedError("unreadable", sentence)
