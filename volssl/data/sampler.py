"""The order of samples as a function of (seed, epoch): it can start at any step, and knows no history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from volssl.errors import UserError

_ORDER = 1  # keeps the stream of orders apart from those of samples: SeedSequence([s, e]) is SeedSequence([s, e, 0])


def sample_rng(seed: int, epoch: int, index: int) -> np.random.RandomState:
    """The generator of one sample in one epoch."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch, index])))


def epoch_order(n: int, seed: int, epoch: int, stratum: int = 0) -> np.ndarray:
    """The order of the `n` samples of a stratum in one pass over it: (n,), whole numbers of 8 bytes."""
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_ORDER + stratum,))
    return np.random.RandomState(np.random.MT19937(sequence)).permutation(n)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields a batch of (pass, index) for each step from `start_step` to `total_steps`, pass after pass.

    All ranks cut their batches out of one order: a step's batches are disjoint, of one size, and together the global
    batch, which depends on `batch_size * world_size` alone. A rest smaller than that is dropped from each epoch.

    With strata, such as modalities, every batch of every rank holds equally many samples of each (Ghesu et al. 2022,
    Eq. 4), by turns, so that any part of a batch is mixed as well. Each stratum is passed over at its own pace: a small
    one begins a new pass, with a new order and new draws, while a large one is still in its first. An epoch stays
    `n // global batch` steps.

    Args:
        n: samples in the dataset.
        batch_size: samples a step, on each rank.
        start_step: the first step to yield, counted from the start of training.
        total_steps: where to stop, counted from the start of training.
        rank: which process this is, from 0.
        world_size: how many processes train together.
        strata: (n,) a code for each sample; those of one code are a stratum. None for one of all.

    Raises:
        UserError: a batch, of all ranks together, is larger than the dataset, cannot be split evenly over the strata,
            or takes more of a stratum than there is.
        ValueError: the rank is none of the world's, or there is not one code a sample.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        start_step: int,
        total_steps: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        strata: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is none of {world_size}")
        self.global_batch_size = batch_size * world_size
        shared = f" on each of {world_size} ranks" if world_size > 1 else ""
        if not 1 <= self.global_batch_size <= n:
            most = f"1 to {n // world_size}" if n >= world_size else f"1, and at most {n} ranks"
            raise UserError(
                f"a batch of {batch_size}{shared} cannot be drawn from {n} volumes: take a batch size from {most}"
            )
        self.strata = _members(n, strata)
        smallest, count = min(map(len, self.strata)), len(self.strata)
        if batch_size % count:
            raise UserError(
                f"a batch of {batch_size}{shared} cannot be split evenly over {count} modalities: take a multiple of "
                f"{count}"
            )
        if self.global_batch_size // count > smallest:
            raise UserError(
                f"a batch of {batch_size}{shared} takes {self.global_batch_size // count} volumes of each of {count} "
                f"modalities, and of one there are only {smallest}: take a smaller batch, or train on one modality"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.total_steps = total_steps
        self.rank = rank
        self.world_size = world_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in one epoch."""
        return self.n // self.global_batch_size

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, tuple[int, np.ndarray]] = {}
        for step in range(self.start_step, self.total_steps):
            shares = [self._share(step, stratum, orders) for stratum in range(len(self.strata))]
            yield [sample for turn in zip(*shares, strict=True) for sample in turn]

    def _share(self, step: int, stratum: int, orders: dict[int, tuple[int, np.ndarray]]) -> list[tuple[int, int]]:
        """What this rank takes of a stratum in a step; `orders` keeps each stratum's last (pass, order)."""
        members, share = self.strata[stratum], self.batch_size // len(self.strata)
        cycle, place = divmod(step, len(members) // (share * self.world_size))
        if stratum not in orders or orders[stratum][0] != cycle:
            orders[stratum] = cycle, members[epoch_order(len(members), self.seed, cycle, stratum)]
        first = (place * self.world_size + self.rank) * share
        return [(cycle, int(index)) for index in orders[stratum][1][first : first + share]]


def _members(n: int, strata: Sequence[int] | np.ndarray | None) -> list[np.ndarray]:
    """The indices of each stratum, in the order of their codes."""
    codes = np.zeros(n, dtype=np.int64) if strata is None else np.asarray(strata)
    if codes.shape != (n,):
        raise ValueError(f"{codes.shape} codes of strata for {n} samples")
    return [np.flatnonzero(codes == code) for code in np.unique(codes)]
