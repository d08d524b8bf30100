"""Sums and rows over the processes that train together; with one process each is the identity.

Every rank enters every call, in the same order, also with no row of its own: else the others wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_distributed


def world_size() -> int:
    """How many processes train together; before they have met, as `torchrun` says. 1 without it."""
    if torch_distributed.is_initialized():
        return torch_distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0."""
    if torch_distributed.is_initialized():
        return torch_distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def join_ranks(device: str | torch.device | None, *, timeout_minutes: float = 30.0) -> torch.device:
    """Meet the other processes that `torchrun` started, and take a device; alone, only take a device.

    Over NCCL on GPUs, each rank its own, and over gloo on CPUs. Both are named: left to choose, libraries have run as
    many jobs beside one another without a word.

    Args:
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        timeout_minutes: how long a rank waits for the others before it fails. One that validates is waited for.

    Returns:
        The device of this rank.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if world_size() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not torch_distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch_distributed.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return device


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of each rank's tensor, all of one shape; without gradient. The argument stays as it was."""
    total = values.detach().clone()
    if world_size() > 1:
        torch_distributed.all_reduce(total)
    return total


def row_counts(rows: Tensor) -> Sequence[int]:
    """How many rows each rank holds: the lengths of its tensors."""
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    return [int(count) for count in sum_over_ranks(counts)]


class _Gather(torch.autograd.Function):
    """The rows of all ranks; the gradient of this rank's rows, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.first, ctx.rows = sum(counts[: rank()]), len(rows)
        joined = rows.new_zeros((sum(counts), *rows.shape[1:]))
        joined[ctx.first : ctx.first + len(rows)] = rows
        return sum_over_ranks(joined)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[ctx.first : ctx.first + ctx.rows] * world_size(), None


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, (B_0, ...) and (B_1, ...) … -> (B_0 + B_1 + ..., ...), in the order of the ranks.

    The ranks may hold different numbers of rows. Every rank then computes the same loss of all rows; where gradients
    are averaged over ranks, as the trainer does, the average is the gradient of one process with all rows.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, tuple(row_counts(rows)))  # type: ignore[no-untyped-call]
    return gathered
