"""One optimiser step, top to bottom, for any method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from volssl.engine.accumulate import backward
from volssl.engine.batchnorm import average_statistics
from volssl.engine.distributed import average_gradients, mean_over_ranks
from volssl.errors import UserError
from volssl.methods.base import Method

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteLossError(UserError):
    """The loss is NaN or infinite; the weights were not touched."""


def train_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    *,
    rate_factor: float,
    precision: str,
    clip_norm: float,
    accumulate: int = 1,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    """Forward, backward, step.

    Args:
        method: in any mode; it is set to training.
        optimizer: each group's `initial_lr` times `rate_factor` is its rate in this step.
        batch: tensors on the method's device.
        rate_factor: from the schedule.
        precision: `float32`, or `bfloat16` or `float16` for autocast.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        accumulate: parts that the batch is cut into, to run through the network one after the other.
        scaler: of float16's losses; a step whose gradient overflows is left out, and the scale lowered.

    Returns:
        The method's losses as numbers, means over ranks.

    Raises:
        NonFiniteLossError: on every rank, where the loss of one is no number; before any weight changes.
    """
    method.train()
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate_factor
    device = next(iter(batch.values())).device
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    autocast = partial(torch.autocast, device.type, dtype=PRECISIONS[precision], enabled=precision != "float32")
    optimizer.zero_grad(set_to_none=True)
    losses = backward(method, batch, parts=accumulate, autocast=autocast, scale=scaler.scale)
    values = mean_over_ranks(losses, device)
    if not math.isfinite(values["loss"]):
        raise NonFiniteLossError(f"the loss is {values['loss']}")
    average_gradients(method.parameters())
    average_statistics(method)
    scaler.unscale_(optimizer)
    if clip_norm:
        nn.utils.clip_grad_norm_(method.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return values


def step_seed(seed: int, rank: int, step: int) -> int:
    """Where torch's generators begin in a step of a rank: what a method draws depends on no step before."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])
