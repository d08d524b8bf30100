"""An exponential moving average of a network's weights, by torch's own (Tarvainen and Valpola 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from volssl.errors import UserError

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer


class WeightAverage:
    """After each step `average = decay * average + (1 - decay) * weights`; the first step's weights begin it.

    Batch statistics are averaged as the weights are; whole numbers, such as counts and tables of indices, are copied.

    Args:
        network: that is trained.
        decay: 0 for no average: `network` is then the one that is trained.

    Attributes:
        network: what is validated and saved.

    Raises:
        UserError: for a decay outside of 0 to below 1.
    """

    def __init__(self, network: nn.Module, *, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema={decay}: give what is kept of the average in a step, such as 0.999, or 0 for none")
        self.decay, self.trained = decay, network
        self.average = AveragedModel(network, multi_avg_fn=self.blend, use_buffers=True) if decay else None
        self.network: nn.Module = network if self.average is None else self.average.module

    def attach(self, engine: MethodTrainer) -> None:
        if self.average is not None:
            self.average.to(engine.state.device)
            engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.update())

    def update(self) -> None:
        """Take in the weights as they are after a step."""
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def blend(self, average: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
        """Move tensors of one type towards those that are trained, in place."""
        with torch.no_grad():
            for mine, theirs in zip(average, weights, strict=True):
                mine.lerp_(theirs, 1 - self.decay) if mine.is_floating_point() else mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The average; nothing where there is none."""
        return {} if self.average is None else dict(self.average.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        if self.average is not None:
            self.average.load_state_dict(state)
