"""Activation checkpointing that leaves batch normalisation as it would be without: memory for time, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from volssl.encoders.batchnorm import running_statistics


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, whose activations are worked out again in the backward pass instead of being kept."""
    if torch.compiler.is_compiling():  # the compiler takes no contexts
        return as_tensor(checkpoint(block, x, use_reentrant=False))

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_kept(block)

    return as_tensor(checkpoint(block, x, use_reentrant=False, context_fn=contexts))


@contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics stay: the second pass over a batch would else count it twice."""
    with running_statistics(block, taken=0.0) as layers:
        try:
            yield
        finally:
            for layer in layers:
                if layer.training and layer.num_batches_tracked is not None:
                    layer.num_batches_tracked.sub_(1)


def as_tensor(value: object) -> Tensor:
    """What PyTorch types as any object."""
    assert isinstance(value, Tensor)
    return value
