"""Batch normalisation on several ranks: over the samples of all, as SwAV is trained (Caron et al. 2020), or of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from volssl.engine.distributed import sum_over_ranks, world_size
from volssl.methods.base import Method


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Have every batch normalisation of a network count the samples of all ranks; its parameters stay the same objects.

    On a GPU by torch's own layer, which does not know CPUs; there by `RankBatchNorm`. Either takes a batch without a
    row, as long as another rank has one; a method that leaves rows out is told to ask. Alone nothing changes.
    """
    if world_size() == 1:
        return
    for method in network.modules():
        if isinstance(method, Method) and any(isinstance(layer, _BatchNorm) for layer in method.modules()):
            method.all_reduce = sum_over_ranks
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = RankBatchNorm  # same parameters and buffers, another forward pass


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Replace running statistics that each rank counts of its own samples by their mean over ranks, in one all-reduce.

    What normalises by them, such as a key encoder, then does so alike on all ranks, and also after a resume.
    """
    if world_size() == 1:
        return
    layers = [layer for layer in network.modules() if isinstance(layer, _NormBase)]
    shared = (RankBatchNorm, nn.SyncBatchNorm)
    counted = [buffer for layer in layers if not isinstance(layer, shared) for buffer in layer.buffers()]
    if not counted:
        return
    # In float64 the mean of equal numbers is that number: what is frozen stays.
    mean = sum_over_ranks(torch.cat([buffer.flatten().double() for buffer in counted])) / world_size()
    for buffer, values in zip(counted, torch.split(mean, [b.numel() for b in counted]), strict=True):
        buffer.copy_(values.view(buffer.shape))


class RankBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are those of all ranks, by sums that carry gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        across = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        wide = x.float()
        sums = total(torch.cat([wide.sum(across), wide.new_tensor([x.numel() / x.shape[1]])]))
        count, mean = sums[-1], sums[:-1] / sums[-1]
        away = wide - mean.view(shape)
        variance = total(away.square().sum(across)) / count
        with torch.no_grad():
            self._count(mean, variance * count / (count - 1))
        y: Tensor = away * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _count(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes."""


class _Total(torch.autograd.Function):
    """The sum over ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        return sum_over_ranks(grad)


def total(values: Tensor) -> Tensor:
    """The sum over ranks, with a gradient that is the sum of theirs."""
    summed: Tensor = _Total.apply(values)  # type: ignore[no-untyped-call]
    return summed
