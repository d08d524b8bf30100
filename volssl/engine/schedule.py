"""The learning rate of each step: linear warm-up, then cosine (Caron et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from volssl.engine.distributed import world_size


@dataclass(frozen=True)
class WarmupCosine:
    """A factor on the learning rate, set anew before every step.

    Attributes:
        warmup_epochs: epochs, or a share of one, in which the factor climbs linearly from 0 to 1.
        final: factor at the end; .001 takes the paper's .6 to its .0006 (Ghesu et al. 2022, Table 1).
    """

    warmup_epochs: float = 0.0
    final: float = 0.001

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        """The factor of step `step`, counted from 0."""
        warmup = min(round(self.warmup_epochs * steps_per_epoch), total_steps - 1)
        if step < warmup:
            return step / max(1, warmup - 1) if warmup > 1 else 1.0
        done = (step - warmup) / (total_steps - warmup)
        return self.final + 0.5 * (1 - self.final) * (1 + math.cos(math.pi * done))


def scaled_rate(base: float, batch_size: int, *, reference: int = 128) -> float:
    """The learning rate in proportion to the samples a step, of all ranks together (Goyal et al. 2017).

    The paper's .6 is that of its 4 volumes on each of 32 GPUs: `scaled_rate(0.6, batch_size)`.

    Args:
        base: the rate at `reference` samples a step.
        batch_size: samples a step, on each rank.
        reference: samples a step that `base` is meant for.
    """
    return base * batch_size * world_size() / reference
