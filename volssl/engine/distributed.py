"""Sums and rows over the processes that train together; with one process each is the identity.

Every rank enters every call, in the same order, also with no row of its own: else the others wait for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as torch_distributed


def world_size() -> int:
    """How many processes train together; 1 without `torchrun`."""
    return torch_distributed.get_world_size() if torch_distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return torch_distributed.get_rank() if torch_distributed.is_initialized() else 0


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
