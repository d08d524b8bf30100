"""LARC: SGD whose rate adapts a layer at a time (You et al. 2017), as SwAV is trained with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD


class LARC(SGD):
    """SGD with momentum on gradients that are scaled by the ratio of a tensor's norm to its gradient's.

    For each tensor p with gradient g: `g <- (g + decay p) * trust |p| / (|g| + decay |p|)`, where both norms are above
    zero; then plain SGD. The scaling is not clipped at the rate, as in SwAV's settings.

    Args:
        params: tensors or groups of them.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: L2 penalty, part of the scaled gradient.
        trust: the trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.trust = trust

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Scale the gradients, then take one step of SGD without its own decay."""
        decays = [group["weight_decay"] for group in self.param_groups]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    size, slope = p.norm(), p.grad.norm()
                    rate = self.trust * size / (slope + group["weight_decay"] * size + 1e-8)
                    # chosen on the device: a GPU that is asked for each number waits for it
                    scaled = (size > 0) & (slope > 0)
                    p.grad.addcmul_(p, scaled * group["weight_decay"]).mul_(torch.where(scaled, rate, 1.0))
                group["weight_decay"] = 0.0
        result: float | None = super().step(closure)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        return result
