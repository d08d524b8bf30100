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
    """The order of `n` samples in one epoch."""
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(_ORDER,))
    return np.random.RandomState(np.random.MT19937(sequence)).permutation(n)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields a batch of (epoch, index) for each step from `start_step` to `total_steps`, epoch after epoch.

    A rest smaller than a batch is dropped from each epoch.

    Args:
        n: samples in the dataset.
        start_step: the first step to yield, counted from the start of training.
        total_steps: where to stop, counted from the start of training.

    Raises:
        UserError: a batch is larger than the dataset.
    """

    def __init__(self, n: int, batch_size: int, seed: int, start_step: int, total_steps: int) -> None:
        if not 1 <= batch_size <= n:
            raise UserError(
                f"a batch of {batch_size} cannot be drawn from {n} volumes: take a batch size from 1 to {n}"
            )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.total_steps = total_steps

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one epoch."""
        return self.n // self.batch_size

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, order_epoch = np.empty(0, dtype=np.int64), -1
        for step in range(self.start_step, self.total_steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(self.n, self.seed, epoch), epoch
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, int(index)) for index in chosen]
