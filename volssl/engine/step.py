"""One optimiser step, top to bottom, for any method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from volssl.errors import UserError
from volssl.methods.base import Method

PRECISIONS = ("float32", "bfloat16")


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
) -> dict[str, float]:
    """Forward, backward, step.

    Args:
        method: in any mode; it is set to training.
        optimizer: each group's `initial_lr` times `rate_factor` is its rate in this step.
        batch: tensors on the method's device.
        rate_factor: from the schedule.
        precision: `float32`, or `bfloat16` for autocast.
        clip_norm: largest norm of the gradient; 0 for no clipping.

    Returns:
        The method's losses as numbers.

    Raises:
        NonFiniteLossError: before any weight changes.
    """
    method.train()
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate_factor
    device = next(iter(batch.values())).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        losses = method(batch)
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not torch.isfinite(losses["loss"].detach()):
        raise NonFiniteLossError(f"the loss is {values['loss']}")
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(method.parameters(), clip_norm)
    optimizer.step()
    return values
