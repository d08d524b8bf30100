"""How much memory a prepare's own process takes for the headers of an archive of the paper's size.

    python benchmarks/headers.py            # about five minutes; Linux
    python benchmarks/headers.py --quick    # a twentieth of it

The headers are made up: one is read from a file, and its numbers, UIDs, times and places are changed from slice to
slice. From there on all is as in `volssl prepare`: they come from the readers in portions, are grouped, and are due.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from made import UID, write_series

import volssl.data.sources
from volssl.data.crew import crew
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.dicom.tags import MARKS
from volssl.data.discovery import Found
from volssl.data.volume import RefusedError

VOLUMES, SLICES = 24_440, 1_345_040  # Ghesu et al. 2022, CT
MUST_BYTES = 400
LONG = 20 * "7"  # UIDs of archives are nearly as long as they may be
TIME, CONTENT = list(MARKS).index("acquisition time"), "101500"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a twentieth of the slices")
    part = 20 if options.parse_args().quick else 1
    with tempfile.TemporaryDirectory() as folder:
        (where,) = write_series(Path(folder), np.zeros((16, 16, 5), np.int16), 1)
        made = Made(read_headers([Found.at(sorted(where.iterdir())[0], where, "dicom")])[0])
    volssl.data.sources.read_headers = made.read
    before, start = now_mb(), time.perf_counter()
    files = list(made.files(VOLUMES // part, SLICES // part))
    found_mb = now_mb() - before
    with crew(0) as hands:
        sources = volssl.data.sources.gather(files, hands)
    seconds, grown, peak = time.perf_counter() - start, now_mb() - before, peak_mb() - before
    slices = len(files)
    print(f"{slices:,} slices in {len(sources):,} series: {seconds:.0f} s")
    for what, mb in (("files found", found_mb), ("and headers, as series", grown), ("at most meanwhile", peak)):
        print(f"{what:26} {mb:7.0f} MB {1e6 * mb / slices:7.0f} bytes a slice   ≤ {MUST_BYTES}", flush=True)


class Made:
    """Headers like one that was read, of as many series as are asked for."""

    def __init__(self, read: tuple[Header, ...] | RefusedError) -> None:
        if isinstance(read, RefusedError):
            raise read
        (self.header,) = read

    def files(self, volumes: int, slices: int) -> Iterator[Found]:
        """A folder a series, with a file a slice."""
        root = Path("/archive/of/a/hospital")
        for series in range(volumes):
            folder = sys.intern(f"{root}/patient{series // 2:06d}/study{series % 2}/series{series:06d}")
            for index in range(slices // volumes + (series < slices % volumes)):
                yield Found(folder, f"IM{index:06d}.dcm", root, "dicom")

    def read(self, found: Sequence[Found]) -> list[tuple[Header, ...]]:
        """What `read_headers` would find in these files."""
        return [(self.changed(one),) for one in found]

    def changed(self, found: Found) -> Header:
        """The header of one file; what differs from slice to slice does so here, too."""
        series, index = int(found.folder[-6:]), int(found.name[2:8])
        sop = f"{UID}.{LONG}.{series}.3.{index + 1}"
        marks = list(self.header.marks)
        marks[TIME] = f"{CONTENT}.{1000 * index:06d}"
        return replace(
            self.header,
            found=found,
            stamp=f"{525_312 + index % 3} {1_700_000_000_000_000_000 + 7_919_377 * (1000 * series + index)}",
            sop=sop,
            slice_sop=sop,
            series=f"{UID}.{LONG}.{series}.2",
            study=f"{UID}.{LONG}.{series}.1",
            patient=f"P{series // 2:06d}",
            position_mm=(-200.0, -200.0, 2.5 * index),
            marks=tuple(marks),
            instance=index + 1,
            content_time=f"{CONTENT}.{1000 * index:06d}",
        )


def now_mb() -> float:
    """The memory of this process, in MB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def peak_mb() -> float:
    """The most that it was."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
