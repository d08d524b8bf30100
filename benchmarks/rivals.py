"""Loaders of random crops from the same volumes: ours, TorchIO's and MONAI's, each as its documentation advises.

All give float32 crops in batches of 4, from 2 workers, of volumes in random order. The others get what suits them:
uncompressed files for TorchIO, whose Queue loads in its own workers; for MONAI plain int16 tensors in the caches, cast
after the crop.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.transforms import CastToTyped, Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, RandSpatialCropSamplesd

from volssl.data import Store, ViewDataset, step_loader
from volssl.views import RandomCrops

CROP = (96, 96, 96)
BATCH, WORKERS = 4, 2
WARM = 32  # crops before the clock starts: workers are up, queues are in their stride


@dataclass(frozen=True)
class Cohort:
    """The same volumes in a store, as uncompressed and (some of them) as gzipped NIfTI files."""

    store: Store
    plain: list[Path]
    packed: list[Path]


def rates(cohort: Cohort, count: int, *, rounds: int, crops: int) -> dict[str, list[float]]:
    """Crops a second of every loader with `count` crops a volume, one figure a round."""
    with tempfile.TemporaryDirectory() as folder:
        cached = Persistent(cohort, Path(folder)), Cached(cohort)
        loaders: dict[str, Callable[[int, int], Iterable[int]]] = {
            "volssl": lambda c, n: ours(cohort, c, n),
            "MONAI PersistentDataset + RandSpatialCropSamplesd": cached[0],
            "MONAI CacheDataset, all in memory": cached[1],
        }
        if importlib.util.find_spec("torchio"):
            loaders["TorchIO Queue"] = lambda c, n: torchio(cohort, c, n)
        found: dict[str, list[float]] = {name: [] for name in loaders}
        names = list(loaders)
        for name in names:  # the first crops of all are slow: memory that nobody used before is slow to be had
            rate(loaders[name](count, WARM + 64))
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                fast = "volssl" in name or "CacheDataset" in name
                found[name].append(rate(loaders[name](count, WARM + (6 * crops if fast else crops))))
        return found


def rate(batches: Iterable[int]) -> float:
    """Crops a second from the first ones to the last; what workers take to end is not counted."""
    seen, first, start, now = 0, 0, 0.0, 0.0
    for crops in batches:
        now = time.perf_counter()
        if seen < WARM <= seen + crops:
            start, first = now, seen + crops
        seen += crops
    return (seen - first) / (now - start)


def ours(cohort: Cohort, count: int, crops: int) -> Iterator[int]:
    """The store's crops; several of a volume are read as one box."""
    scans = [cohort.store.scan(volume_id) for volume_id in cohort.store.columns("id")["id"].to_pylist()]
    views = RandomCrops(size=CROP, count=count, in_foreground=False)
    batch = max(1, BATCH // count)
    loader = step_loader(
        ViewDataset(scans * BATCH, views, seed=0),
        batch_size=batch,
        seed=0,
        start_step=0,
        total_steps=crops // (batch * count),
        workers=WORKERS,
    )
    for one in loader:
        yield one["image"].shape[0] * one["image"].shape[1]


class Persistent:
    """MONAI's PersistentDataset: volumes read once and kept as tensors on disk, loaded whole for each sample."""

    def __init__(self, cohort: Cohort, folder: Path) -> None:
        self.items, self.folder = [{"image": str(path)} for path in cohort.plain], folder
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            kept = PersistentDataset(self.items, Compose([*reading(), *cropping(1)]), cache_dir=folder)
            for index in range(len(kept)):
                kept[index]

    def __call__(self, count: int, crops: int) -> Iterator[int]:
        transform = Compose([*reading(), *cropping(count)])
        return monai(PersistentDataset(repeated(self.items, count, crops), transform, cache_dir=self.folder), count)


class Cached:
    """MONAI's CacheDataset: all volumes in memory, which the workers share."""

    def __init__(self, cohort: Cohort) -> None:
        items = [{"image": str(path)} for path in cohort.plain]
        self.kept = CacheDataset(items, Compose(reading()), progress=False, copy_cache=False)

    def __call__(self, count: int, crops: int) -> Iterator[int]:
        items = repeated([self.kept[index] for index in range(len(self.kept))], count, crops)
        return monai(Dataset(items, Compose(cropping(count))), count)


def reading() -> list[Any]:
    """What a cache holds: the whole volume, a plain int16 tensor."""
    return [
        LoadImaged("image", dtype=torch.int16, image_only=True),
        EnsureChannelFirstd("image"),
        EnsureTyped("image", dtype=torch.int16, track_meta=False),
    ]


def cropping(count: int) -> list[Any]:
    """What is drawn anew: crops, then float32."""
    crop = RandSpatialCropSamplesd("image", roi_size=CROP, num_samples=count, random_size=False)
    return [crop, CastToTyped("image", dtype=torch.float32)]


def repeated(items: list[Any], count: int, crops: int) -> list[Any]:
    """The items over and over, so that one epoch gives so many crops."""
    return [items[index % len(items)] for index in range(crops // count)]


def monai(dataset: Dataset, count: int) -> Iterator[int]:
    """MONAI's loader, which seeds its transforms in each worker."""
    loader = DataLoader(dataset, batch_size=max(1, BATCH // count), num_workers=WORKERS, shuffle=True)
    for batch in loader:
        yield batch["image"].shape[0]


def torchio(cohort: Cohort, count: int, crops: int) -> Iterator[int]:
    """TorchIO's Queue; it is filled with as many crops as come before the clock starts, and anew once it is empty."""
    import torchio as tio

    subjects = [tio.Subject(image=tio.ScalarImage(path)) for path in repeated(cohort.plain, count, crops)]
    queue = tio.Queue(
        tio.SubjectsDataset(subjects),
        max_length=WARM,
        samples_per_volume=count,
        sampler=tio.data.UniformSampler(CROP),
        num_workers=WORKERS,
    )
    for batch in tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0):
        yield batch["image"][tio.DATA].float().shape[0]
