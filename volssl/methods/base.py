"""The contract of a method: an encoder, the views it looks at, and a loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.views.base import Views

Batch = Mapping[str, Tensor]
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        step: optimiser steps done.
        steps_per_epoch: steps of one pass over the data.
        total_steps: steps of the whole run.
    """

    step: int
    steps_per_epoch: int
    total_steps: int

    @property
    def epoch(self) -> int:
        """The epoch, from 0, that the next step belongs to."""
        return self.step // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / self.total_steps


class Method(nn.Module):
    """A pretext task over an encoder. A new one is one file, one config and one test.

    All state that outlives a step (queue, prototypes, teacher, counters) is in `state_dict()`.

    Attributes:
        encoder: what is pretrained.
        views: turns one scan into the tensors of a sample; picklable.
    """

    def __init__(self, encoder: Encoder, *, views: Views) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = views

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """A batch of views -> scalars: `loss`, which is minimised, and others, which are logged."""

    def on_step_end(self, progress: Progress) -> None:
        """Called after every optimiser step, for teachers, queues and temperatures."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers that monitors read, about the last batch."""
        return {}
