"""Batches of views, bit-equal whatever the number of workers: each sample draws from its own (seed, epoch, index)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from volssl.data.sampler import StepSampler, sample_rng
from volssl.views.base import MODALITIES, Scan

Sample = dict[str, Tensor]


class ViewDataset(Dataset[Sample]):
    """The views of a sequence of scans, addressed by (epoch, index).

    Args:
        scans: volumes, read when a sample is asked for.
        views: turns a scan and a generator into named tensors; picklable where workers are used.
        seed: with epoch and index, all that a sample's draws depend on.
        extras: for each scan, tensors or numbers to add to its sample, such as labels.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        views: Callable[[Scan, np.random.RandomState], Mapping[str, Tensor]],
        seed: int,
        extras: Sequence[Mapping[str, Tensor | float | int]] | None = None,
    ) -> None:
        if extras is not None and len(extras) != len(scans):
            raise ValueError(f"{len(extras)} extras for {len(scans)} scans")
        self.scans = scans
        self.views = views
        self.seed = seed
        self.extras = extras

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, where: tuple[int, int]) -> Sample:
        """The sample of (epoch, index): the views, the extras, `index` and `modality`; plain tensors."""
        return self.__getitems__([where])[0]

    def __getitems__(self, batch: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples of a batch, made on one thread: means and FFTs differ in their last bits by thread count."""
        with one_thread():
            return [self._sample(epoch, index) for epoch, index in batch]

    def look(self, index: int, rng: np.random.RandomState) -> Mapping[str, Tensor]:
        """What the views make of a scan."""
        return self.views(self.scans[index], rng)

    def _sample(self, epoch: int, index: int) -> Sample:
        scan = self.scans[index]
        sample = dict(self.look(index, sample_rng(self.seed, epoch, index)))
        extras = self.extras[index] if self.extras is not None else {}
        for name, value in {**extras, "index": index, "modality": MODALITIES.index(scan.modality)}.items():
            if name in sample:
                raise ValueError(f"views and extras both make {name!r}")
            sample[name] = torch.as_tensor(value)
        return {name: value.as_subclass(Tensor) for name, value in sample.items()}


def step_loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    prefetch_factor: int = 2,
) -> DataLoader[Sample]:
    """A loader of one batch for each step from `start_step` to `total_steps`, in pinned memory where there is a GPU.

    Args:
        dataset: addressed by (epoch, index), such as a `ViewDataset`; with `strata`, a code for each sample, batches
            are split evenly over them.
        batch_size: samples a step, on each rank.
        seed: of the order; the views have the dataset's.
        workers: loading processes; 0 loads in this one. The batches are the same.
        rank: which of the processes that train together this is, from 0.
        world_size: how many train together; each gets its share of every global batch.
        prefetch_factor: batches that each worker has ready or in the making.

    Raises:
        UserError: a batch, of all ranks together, is larger than the dataset, or cannot be split evenly over strata.
    """
    sampler = StepSampler(
        len(cast(Sized, dataset)),
        batch_size,
        seed,
        start_step,
        total_steps,
        rank=rank,
        world_size=world_size,
        strata=getattr(dataset, "strata", None),
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        # its own: each new iterator draws once, and a resumed run must not shift the draws of dropout
        generator=torch.Generator().manual_seed(seed),
        num_workers=workers,
        prefetch_factor=prefetch_factor if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=_start_method() if workers else None,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, and give the others back after."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def _start_method() -> str:
    """A start that does not copy running threads, as `fork` does; the server imports torch once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["volssl.data.loader"])
    return "forkserver"
