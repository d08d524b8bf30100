"""What preparing DICOM series costs, in time against decoding their pixels alone, and in memory a process."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pydicom
from made import like, write_series

PREPARE = "import sys; from volssl.data import prepare; prepare(sys.argv[2:], sys.argv[1], workers=2)"
MEMORY_MB, TIMES = 600, 6


def prepare_rows(folder: Path, hu: np.ndarray, *, quick: bool) -> None:
    """Print how many times longer prepare takes than pydicom's pixels, and its largest process."""
    for name, jpeg2000, (first, last), rounds, must in (
        ("uncompressed", False, (2, 14), 2 if quick else 7, "≤ 5"),
        ("JPEG 2000", True, (2, 4 if quick else 6), 1 if quick else 2, "≤ 1.5"),
    ):
        folders = write_series(folder / name, hu, last, jpeg2000=jpeg2000)
        ours, theirs, ratios, started = [], [], [], []
        with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
            list(pool.map(decode, [sorted(one.iterdir())[:2] for one in folders[:2]]))
            for _ in range(rounds):
                before = pixels(pool, folders[first:])  # and after: the machine's pace drifts
                short, long = (prepared(folder / "made", folders[:count])[0] for count in (first, last))
                theirs.append((before + pixels(pool, folders[first:])) / 2)
                ours.append(long - short)
                ratios.append(ours[-1] / theirs[-1])
                started.append(short - (long - short) * first / (last - first))
        own, other = (statistics.median(times) / (last - first) for times in (ours, theirs))
        label = f"prepare, 2 processes, ms a series ({name}): pydicom's pixel_array"
        print(f"{label:78} {1000 * own:10.0f} {1000 * other:10.0f} {statistics.median(ratios):7.2f}   {must}")
        print(
            f"{f'  and {statistics.median(started):.1f} s once, to start processes and read libraries':78}", flush=True
        )
        shutil.rmtree(folder / name)
    memory_row(folder, hu, 1 if quick else 4)


def memory_row(folder: Path, hu: np.ndarray, times: int) -> None:
    """The largest process of a prepare whose largest volume is so many times as long."""
    long = np.concatenate([like(hu, 2 * index) for index in range(times)], axis=2)
    folders = write_series(folder / "long", long, 2)
    _, peak_mb = prepared(folder / "made", folders)
    most = TIMES * long.nbytes / 1e6 + MEMORY_MB
    label = f"prepare, largest process in MB, volumes of {'×'.join(map(str, long.shape))}"
    print(f"{label:78} {peak_mb:10.0f} {most:10.0f} {peak_mb / most:7.2f}   ≤ 1", flush=True)


def prepared(store: Path, folders: list[Path]) -> tuple[float, float]:
    """Prepare a new store in a process of its own: seconds, and the peak memory of its largest process in MB."""
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-c", PREPARE, str(store), *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        peak = 0.0
        while run.poll() is None:
            peak = max(peak, largest_mb(psutil.Process(run.pid)))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        if run.returncode:
            raise RuntimeError(run.stderr.read().decode() if run.stderr else "prepare failed")
    if len(list((store / "volumes").iterdir())) != len(folders):
        raise RuntimeError("not every series was stored")
    return seconds, peak


def largest_mb(process: psutil.Process) -> float:
    """The highest peak so far of a process and of all that it started."""
    peaks = [0.0]
    for one in (process, *descendants(process)):
        try:
            status = Path(f"/proc/{one.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if "VmHWM:" in status:
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
    return max(peaks)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """All that a process started and that still runs."""
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def pixels(pool: ProcessPoolExecutor, folders: list[Path]) -> float:
    """Seconds in which two processes, up and running, decode every slice of the folders."""
    files = [sorted(folder.iterdir()) for folder in folders]
    portions = [one[start : start + 27] for one in files for start in range(0, len(one), 27)]
    start = time.perf_counter()
    list(pool.map(decode, portions))
    return time.perf_counter() - start


def decode(files: list[Path]) -> None:
    """Every slice's pixels, as pydicom gives them."""
    for file in files:
        pydicom.dcmread(file).pixel_array  # noqa: B018
