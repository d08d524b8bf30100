"""Sums and rows over the processes that train together; with one process each is the identity.

Every rank enters every call, in the same order, also with no row of its own: else the others wait for ever.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
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


def wait_for_all_ranks(device: torch.device) -> None:
    """Go on when every rank has come here."""
    sum_over_ranks(torch.zeros(1, device=device)).tolist()  # the numbers are asked for: a GPU would be left to it


def row_counts(rows: Tensor) -> Sequence[int]:
    """How many rows each rank holds: the lengths of its tensors."""
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    return [int(count) for count in sum_over_ranks(counts)]


def own_rows(joined: Tensor, rows: Tensor) -> Tensor:
    """This rank's part of the gradient on what `gather_rows(rows)` gave, times the number of ranks."""
    first = sum(row_counts(rows)[: rank()])
    return joined[first : first + len(rows)] * world_size()


class _Gather(torch.autograd.Function):
    """The rows of all ranks; the gradient of this rank's rows, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = row_counts(rows)
        ctx.first, ctx.rows = sum(counts[: rank()]), len(rows)
        joined = rows.new_zeros((sum(counts), *rows.shape[1:]))
        joined[ctx.first : ctx.first + len(rows)] = rows
        return sum_over_ranks(joined)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[ctx.first : ctx.first + ctx.rows] * world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, (B_0, ...) and (B_1, ...) … -> (B_0 + B_1 + ..., ...), in the order of the ranks.

    The ranks may hold different numbers of rows. Every rank then computes the same loss of all rows; where gradients
    are averaged over ranks, as the trainer does, the average is the gradient of one process with all rows.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


@torch.no_grad()
def mean_over_ranks(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """The mean of each number over ranks; every rank must have the same names."""
    if not values:
        return {}
    numbers = torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in values.values()])
    return dict(zip(values, (sum_over_ranks(numbers) / world_size()).tolist(), strict=True))


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over ranks, in one all-reduce.

    A parameter without gradient on some ranks counts as zero there; one without on all ranks stays without, so that
    what is frozen neither decays nor coasts.
    """
    trained = [p for p in parameters if p.requires_grad]
    if world_size() == 1 or not trained:
        return
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    slopes = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
    total = torch.cat([present, *slopes])
    torch_distributed.all_reduce(total)
    shares = torch.split(total[len(trained) :].div_(world_size()), [p.numel() for p in trained])
    for p, share, ranks in zip(trained, shares, total[: len(trained)].tolist(), strict=True):
        if ranks:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad.copy_(share.view(p.shape))


@torch.no_grad()
def same_on_all_ranks(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of the first."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            torch_distributed.broadcast(tensor, 0)
