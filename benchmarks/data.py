"""The data engine against what else reads crops, and against the bare libraries below it: ratios in one run, medians.

    python benchmarks/data.py                       # about ten minutes on two quiet cores; 4 GB in a temporary folder
    python benchmarks/data.py --quick               # fewer series and rounds
    python benchmarks/data.py --base SCAN.nii.gz    # volumes made from a CT of your own

Volumes and series are made here (`made.py`), noisy as a scanner's; files lie in the page cache, so what is timed is
work, not the disk. Both sides of a ratio take turns. TorchIO is compared where it is installed, for this alone.
`layouts.py` compares layouts of the store, `scale.py` opens manifests of a million volumes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import torch
from made import like, noisy_ct
from monai.transforms import LoadImage
from rivals import Cohort, rates
from series import prepare_rows

from volssl.data import Store, prepare
from volssl.data.stored_volume import _mapped, volume_path
from volssl.views.base import Box

CROP = (96, 96, 96)
AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer volumes, series and rounds")
    options.add_argument("--base", type=Path, help="a CT volume from which all others are made")
    options.add_argument("--only", choices=("crops", "loader", "prepare"), help="one part of the table")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    hu = noisy_ct()
    if chosen.base:
        hu = np.rint(np.asarray(nib.as_closest_canonical(nib.load(chosen.base)).dataobj)).astype(np.int16)
    print(f"volumes {hu.shape}, crops {CROP}; medians of turns, files in the page cache")
    print(f"{'measure':78} {'ours':>10} {'theirs':>10} {'ratio':>7}   must be")
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only != "prepare":
            cohort = make_cohort(Path(folder), hu, 8)
            if chosen.only != "loader":
                crop_rows(cohort, 15 if chosen.quick else 60)
            if chosen.only != "crops":
                loader_rows(cohort, quick=chosen.quick)
        if chosen.only in (None, "prepare"):
            prepare_rows(Path(folder), hu, quick=chosen.quick)


def make_cohort(folder: Path, hu: np.ndarray, count: int) -> Cohort:
    """The same volumes as `.nii.gz`, as `.nii` and in a store."""
    plain, packed = folder / "plain", folder / "packed"
    plain.mkdir()
    packed.mkdir()
    for index in range(count):
        image = nib.Nifti1Image(like(hu, index), AFFINE)
        nib.save(image, plain / f"V{index}.nii")
        if index < 2:
            nib.save(image, packed / f"V{index}.nii.gz")
    prepare([plain], folder / "store", workers=2, modality="CT")
    return Cohort(Store.open(folder / "store"), sorted(plain.iterdir()), sorted(packed.iterdir()))


def crop_rows(cohort: Cohort, turns: int) -> None:
    """A random crop, against MONAI's reader and against blosc2 alone, whose turns come in changing order."""
    rng, store, load = np.random.RandomState(0), cohort.store, LoadImage(image_only=True)
    ids = store.columns("id")["id"].to_pylist()
    opened = {volume_id: mapped(volume_path(store.path, volume_id)) for volume_id in ids}
    monai: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in ("first", "again", "bare first", "bare again")}
    for turn in range(turns):
        volume_id = ids[turn % len(ids)]
        box = random_box(rng, opened[volume_id].shape)
        where = tuple(slice(*side) for side in box)
        if turn % 5 == 0:
            file = cohort.packed[turn % len(cohort.packed)]
            monai.append(seconds(lambda f=file, w=where: load(f)[w].contiguous()))
        opened[volume_id][where]  # its blocks are in the processor's cache for all
        sides = {
            "first": lambda i=volume_id, b=box: store.read(i, b),
            "bare first": lambda i=volume_id, w=where: mapped(volume_path(store.path, i))[w],
            "bare again": lambda i=volume_id, w=where: opened[i][w],
        }
        for name in sorted(sides, reverse=bool(turn % 2)):
            _mapped.cache_clear()
            times[name].append(seconds(sides[name]))
        store.read(volume_id, box)  # from now on the file is open
        times["again"].append(seconds(sides["first"]))
    ratio_row("a random crop, ms: LoadImage + crop of the .nii.gz", times["first"], monai, "≥ 60", faster=True)
    ratio_row("the same: blosc2 alone, both open the file", times["first"], times["bare first"], "≤ 1.25")
    ratio_row("the same: blosc2 alone, both have the file open", times["again"], times["bare again"], "≤ 1.25")
    ratio_row("the same: blosc2 alone has the file open, volssl not", times["first"], times["bare again"], "")


def mapped(file: Path) -> blosc2.NDArray:
    """A file opened by blosc2, to decode on one thread."""
    return blosc2.open(str(file), mode="r", mmap_mode="r", dparams={"nthreads": 1})


def loader_rows(cohort: Cohort, *, quick: bool) -> None:
    """Crops a second through loaders of two workers; each takes its turn in every round.

    One crop a volume is the rule: those of one volume resemble each other. With four, handing batches from the workers
    to the trainer is what takes longest, and it is the same for all.
    """
    for count in (1, 4):
        found = rates(cohort, count, rounds=2 if quick else 5, crops=64 if quick else 128)
        median = {name: statistics.median(values) for name, values in found.items() if values}
        ours = median.pop("volssl")
        disk = [name for name in median if "CacheDataset" not in name]
        best = max(median[name] for name in disk)
        for name, value in median.items():
            must = "≥ 0.5" if name not in disk else "≥ 3" if value == best and count == 1 else ""
            line(f"crops/s, 2 workers, {count} a volume: {name}", f"{ours:.0f}", f"{value:.0f}", ours / value, must)
    if not any("TorchIO" in name for name in found):
        print("TorchIO: not installed")


def random_box(rng: np.random.RandomState, shape: tuple[int, ...]) -> Box:
    """Where a crop lies, uniform in the volume."""
    low = [rng.randint(n - size + 1) for n, size in zip(shape, CROP, strict=True)]
    (r0, r1), (a0, a1), (s0, s1) = ((start, start + size) for start, size in zip(low, CROP, strict=True))
    return (r0, r1), (a0, a1), (s0, s1)


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio_row(name: str, ours: list[float], theirs: list[float], must: str, *, faster: bool = False) -> None:
    """Print the medians in ms, and theirs over ours (how many times faster) or ours over theirs (slower)."""
    own, other = 1000 * statistics.median(ours), 1000 * statistics.median(theirs)
    line(name, f"{own:.2f}", f"{other:.2f}", other / own if faster else own / other, must)


def line(name: str, ours: str, theirs: str, ratio: float, must: str) -> None:
    """One line of the table."""
    print(f"{name:78} {ours:>10} {theirs:>10} {ratio:7.2f}   {must}", flush=True)


if __name__ == "__main__":
    main()
