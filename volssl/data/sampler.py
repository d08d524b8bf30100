"""The order of samples as a function of (seed, epoch): it can start at any step, and knows no history."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from volssl.errors import UserError

_ORDER = 1  # keeps the stream of orders apart from those of samples: SeedSequence([s, e]) is SeedSequence([s, e, 0])


def sample_rng(seed: int, epoch: int, index: int) -> np.random.RandomState:
    """The generator of one sample in one epoch."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch, index])))


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `n` samples in one epoch: (n,), whole numbers of 8 bytes."""
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_ORDER,))
    return np.random.RandomState(np.random.MT19937(sequence)).permutation(n)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields a batch of (epoch, index) for each step from `start_step` to `total_steps`, epoch after epoch.

    All ranks cut their batches out of one order: a step's batches are disjoint, of one size, and together the global
    batch, which depends on `batch_size * world_size` alone. A rest smaller than that is dropped from each epoch.

    Args:
        n: samples in the dataset.
        batch_size: samples a step, on each rank.
        start_step: the first step to yield, counted from the start of training.
        total_steps: where to stop, counted from the start of training.
        rank: which process this is, from 0.
        world_size: how many processes train together.

    Raises:
        UserError: a batch, of all ranks together, is larger than the dataset.
        ValueError: the rank is none of the world's.
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
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is none of {world_size}")
        self.global_batch_size = batch_size * world_size
        if not 1 <= self.global_batch_size <= n:
            shared = f" on each of {world_size} ranks" if world_size > 1 else ""
            most = f"1 to {n // world_size}" if n >= world_size else f"1, and at most {n} ranks"
            raise UserError(
                f"a batch of {batch_size}{shared} cannot be drawn from {n} volumes: take a batch size from {most}"
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
        order, order_epoch = np.empty(0, dtype=np.int64), -1
        for step in range(self.start_step, self.total_steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(self.n, self.seed, epoch), epoch
            first = place * self.global_batch_size + self.rank * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]
