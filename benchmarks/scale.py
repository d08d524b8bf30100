"""Whether a manifest of the paper's size, and one of a million volumes, opens quickly and costs a rank little memory.

    python benchmarks/scale.py             # about seven minutes on two cores, most for headers.py; Linux
    python benchmarks/scale.py --quick     # a twentieth of it

The manifests are made up, with the columns, hashes and settings of `volssl prepare`, and no volumes behind them. Each
figure comes from a fresh process: the time after its imports, and by how much its peak memory grew.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from volssl.data import Store, TrainingScans
from volssl.data.ledger import _parquet
from volssl.data.manifest import Row, table_of
from volssl.data.sampler import StepSampler
from volssl.data.store import FORMAT, MANIFEST, STORE_RECORD
from volssl.data.stored_volume import VOLUMES
from volssl.views import RandomCrops

PAPER = (24_440, 1_345_040)  # volumes, slices (Ghesu et al. 2022, CT)
LARGE = (1_000_000, 0)  # slices are named in none of these: files name no SOPInstanceUID
OPEN_S, ORDER_MB, RANKS = 3.0, 50.0, 64
COLUMNS = ("id", "patient", "split", "modality", "group", "fold")
ROWS_AT_ONCE = 20_000
HASHED = ("study", "perceptual_hash", "source", "stamp")
MEASURED = ("air_share", "intensity_mean", "intensity_std", "intensity_low", "intensity_high")
CONSTANT: Row = {
    "modality": "CT",
    "fold": None,
    "dtype": "int16",
    "sex": "F",
    "age_years": 50,
    "age_band": "40-59",
    "scanner": "ACME One",
    "site": None,
    "source_format": "dicom",
    "notes": [],
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="a twentieth of the volumes")
    options.add_argument("--measure", nargs=2, metavar=("WHAT", "STORE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(measured(chosen.measure[0], Path(chosen.measure[1]))))
        return
    part = 20 if chosen.quick else 1
    print(f"{'manifest':34} {'what':44} {'seconds':>8} {'MB':>7}   must be")
    with tempfile.TemporaryDirectory() as folder:
        for name, (volumes, slices) in (("paper", PAPER), ("large", LARGE)):
            store = Path(folder) / name
            write_store(store, volumes // part, slices // part)
            size = (store / MANIFEST).stat().st_size / 1e6
            label = f"{volumes // part:,} volumes, {slices // part:,} slices"
            print(f"{label:34} {f'{size:.0f} MB on disk':44}")
            for what, (sentence, limit) in SENTENCES.items():
                command = [sys.executable, __file__, "--measure", what, str(store)]
                answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(f"{'':34} {sentence:44} {answer['seconds']:8.3f} {answer['mb']:7.1f}   {limit}", flush=True)
    subprocess.run([sys.executable, Path(__file__).with_name("headers.py"), *["--quick"] * chosen.quick], check=True)


def write_store(store: Path, volumes: int, slices: int) -> None:
    """A store of made-up rows: CT of 20 to 200 slices, half as many patients as volumes."""
    (store / VOLUMES).mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, volumes, ROWS_AT_ONCE):
        numbers = np.arange(start, min(start + ROWS_AT_ONCE, volumes))
        named = slices // volumes + (numbers < slices % volumes)
        parts.append(table_of(rows(rng, numbers, volumes, named)))
    (store / MANIFEST).write_bytes(_parquet(pa.concat_tables(parts)))
    (store / STORE_RECORD).write_text(json.dumps({"format": FORMAT}))


def rows(rng: np.random.Generator, numbers: np.ndarray, volumes: int, named: np.ndarray) -> list[Row]:
    """Rows of some volumes, whose ids ascend with their numbers as in a manifest.

    Args:
        numbers: (n,) of the volumes.
        volumes: how many there are in all.
        named: (n,) slices of which each keeps the hash of a UID.
    """
    n = len(numbers)
    ids = [f"{number * (2**48 // volumes):012x}{end[:12]}" for number, end in zip(numbers, hashes(rng, n), strict=True)]
    patients = rng.integers(volumes // 2, size=n) * 0x1E3779B97F4A7C15 % 2**62
    spacings = np.round(rng.uniform([0.4, 0.4, 0.5], [1.0, 1.0, 5.0], (n, 3)), 6)
    affines = np.zeros((n, 4, 4)) + np.eye(4)
    affines[:, [0, 1, 2], [0, 1, 2]] = spacings
    affines[:, :3, 3] = np.round(rng.uniform(-300, 0, (n, 3)), 3)
    shapes = np.stack([np.full(n, 512), np.full(n, 512), rng.integers(20, 200, n)], axis=1)
    boxes = rng.integers([0, 400, 0, 400, 0, 20], [99, 512, 99, 512, 9, 40], (n, 6))
    values, splits = rng.normal(size=(n, 5)), rng.choice(["train", "validation", "test"], n, p=[0.7, 0.15, 0.15])
    hashed, sops = iter(hashes(rng, 9 * n)), iter(hashes(rng, int(named.sum())))
    return [
        {
            **CONSTANT,
            **dict(zip(HASHED, islice(hashed, len(HASHED)), strict=True)),
            "id": ids[i],
            "group": ids[i],
            "patient": f"{patients[i]:024x}",
            "aliases": [next(hashed), next(hashed)],
            "checksum": next(hashed) + next(hashed) + next(hashed)[:16],
            "split": splits[i],
            "shape": shapes[i].tolist(),
            "spacing_mm": spacings[i].tolist(),
            "affine": affines[i].ravel().tolist(),
            "foreground": boxes[i].tolist(),
            "first_slice_z_mm": affines[i, 2, 3],
            "slice_step_z_mm": spacings[i, 2],
            "sop": list(islice(sops, int(named[i]))),
            **dict(zip(MEASURED, values[i].tolist(), strict=True)),
            "files": int(shapes[i, 2]),
        }
        for i in range(n)
    ]


def hashes(rng: np.random.Generator, n: int) -> list[str]:
    """What keyed hashes look like: (n,) texts of 24 hexadecimal digits."""
    digits = rng.bytes(12 * n).hex()
    return [digits[start : start + 24] for start in range(0, len(digits), 24)]


def measured(what: str, store: Path) -> dict[str, float]:
    """Run one of the measures in this process: its seconds, and by how much the peak memory grew in MB."""
    run: Callable[[], object]
    if what == "order":
        run = partial(order, len(Store.open(store)))
    elif what == "scan":
        scans = TrainingScans(store, views=RandomCrops()).scans
        run = partial(operator.getitem, scans, len(scans) // 2)
    elif what == "training":
        run = partial(TrainingScans, store, views=RandomCrops())
    else:
        run = partial(opened, store)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak_mb()
    start = time.perf_counter()
    kept = run()
    seconds = time.perf_counter() - start
    grown = peak_mb() - before
    del kept
    return {"seconds": seconds, "mb": grown}


def opened(store: Path) -> pa.Table:
    """What training looks up of a store."""
    return Store.open(store).columns(*COLUMNS)


def order(volumes: int) -> list[tuple[int, int]]:
    """All batches of the last of 64 ranks in one epoch, and the first of the next: two orders."""
    sampler = StepSampler(volumes, 4, 0, 0, 2 * volumes, rank=RANKS - 1, world_size=RANKS)
    first, batch = iter(sampler), []
    for _ in range(sampler.steps_per_epoch + 1):
        batch = next(first)
    return batch


def peak_mb() -> float:
    """The peak of this process's memory since it was last reset, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


SENTENCES = {
    "open": ("Store.open and the columns for training", f"< {OPEN_S:g} s"),
    "training": ("TrainingScans, near-duplicates apart", f"< {OPEN_S:g} s"),
    "order": (f"an epoch's order, rank {RANKS - 1} of {RANKS}", f"< {ORDER_MB:g} MB"),
    "scan": ("a worker's first scan, with all geometry", ""),
}

if __name__ == "__main__":
    main()
