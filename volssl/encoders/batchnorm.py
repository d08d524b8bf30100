"""How much of the next batch's statistics a network's batch normalisation takes over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics(network: nn.Module, *, taken: float) -> Iterator[list[_BatchNorm]]:
    """Have running statistics take this share of a batch's: 0 leaves them, 1 takes them over whole.

    Yields:
        The layers; afterwards they take what they took before.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = taken
    try:
        yield layers
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
