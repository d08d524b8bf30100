"""What a prepare will take, told before it begins: time and disk, from headers and from rates measured once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from volssl.data.dicom.headers import NATIVE
from volssl.data.dicom.series import Series
from volssl.data.sources import Source
from volssl.errors import UserError

# One process on a core of an AMD EPYC; `python benchmarks/data.py` prints what a series of 28 million voxels takes.
START_SECONDS = 2.0
SECONDS_PER_MEGAVOXEL = {"slices": 0.012, "compressed slices": 0.12, "file": 0.025}
# Of the voxels' bytes, after compression: noisy CT, and MR of floating point (`python benchmarks/layouts.py`).
SHARE_ON_DISK = {2: 0.55, 4: 0.9}


@dataclass(frozen=True)
class Estimate:
    """Of the volumes that are still to be read.

    Attributes:
        disk_bytes: what they will take in the store.
        seconds: with the processes asked for.
    """

    volumes: int
    disk_bytes: float
    seconds: float
    free_bytes: int

    def __str__(self) -> str:
        disk = f"{as_bytes(self.disk_bytes)} on disk ({as_bytes(self.free_bytes)} free)"
        volumes = f"{self.volumes} volumes" if self.volumes != 1 else "1 volume"
        return f"{volumes} to read: about {as_time(self.seconds)} and {disk}"


def estimate(sources: Sequence[Source], store: Path, workers: int) -> Estimate:
    """Time and disk for these sources.

    Raises:
        UserError: the disk cannot hold them.
    """
    disk = sum(one.voxels * one.stored_bytes_per_voxel * SHARE_ON_DISK[one.stored_bytes_per_voxel] for one in sources)
    seconds = sum(one.voxels / 1e6 * SECONDS_PER_MEGAVOXEL[_kind(one)] for one in sources)
    free = shutil.disk_usage(store).free
    if disk > free:
        raise UserError(
            f"{store}: its disk has {as_bytes(free)} free and the {len(sources)} volumes will take about "
            f"{as_bytes(disk)}: make room, or name a store on another disk"
        )
    seconds = START_SECONDS + seconds / max(1, min(workers, os.cpu_count() or 1))
    return Estimate(len(sources), disk, seconds, free)


def as_bytes(count: float) -> str:
    """A number of bytes as people say it: `1.5 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def as_time(seconds: float) -> str:
    """A duration as people say it: `3 minutes`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _kind(source: Source) -> str:
    if not isinstance(source, Series):
        return "file"
    return "slices" if source.first.syntax in (*NATIVE, "") else "compressed slices"
