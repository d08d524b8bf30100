"""The contract of a method: an encoder, the views it looks at, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
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

    A method whose samples do not meet in the loss writes `forward` alone. One whose samples do, because they repel one
    another or share codes, says `couples_samples` and writes `embed`, all that runs the encoder, and `losses`, the
    maths on what came out. The trainer joins what `embed` made of parts of a batch, one after the other or on several
    devices, before it calls `losses`: the loss is that of the whole batch, and the method knows of neither.

    All state that outlives a step (queue, prototypes, teacher, counters) is in `state_dict()`.

    Attributes:
        encoder: what is pretrained.
        views: turns one scan into the tensors of a sample; picklable.
        couples_samples: whether the loss of a batch is more than the mean of its samples' losses.
        all_reduce: sums a tensor over ranks, where a batch normalisation counts the samples of all of them: each rank
            then runs the same networks in the same order, with no row if it has none. None where nothing is exchanged.
    """

    couples_samples = False

    def __init__(self, encoder: Encoder, *, views: Views) -> None:
        super().__init__()
        self.encoder = encoder
        self.views = views
        self.all_reduce: Callable[[Tensor], Tensor] | None = None
        self.passes: Passes | None = None  # of several methods over one encoder, while they embed

    def forward(self, batch: Batch) -> Losses:
        """A batch of views -> scalars: `loss`, which is minimised, and others, which are logged.

        `batch` holds what `views` made, (B, ...) each, with `index` and `modality` (B,), an index into `MODALITIES`.
        """
        return self.losses(self.embed(batch))

    def encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, R, A, S) -> the encoder's pyramid; where other methods looked at the same values, that of one pass."""
        return self.encoder(x) if self.passes is None else self.passes.pyramid(self.encoder, x)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """A batch of views -> what `losses` wants to know of each sample, (B, ...) each; one row a sample."""
        raise NotImplementedError(f"{type(self).__name__} writes neither forward nor embed")

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """What `embed` made of the whole batch, of all devices -> `loss` and what is logged; called once a step."""
        raise NotImplementedError(f"{type(self).__name__} writes neither forward nor losses")

    def on_step_end(self, progress: Progress) -> None:
        """Called after every optimiser step, for teachers, queues and temperatures."""

    def diagnostics(self) -> dict[str, float]:
        """Numbers that monitors read, about the last batch."""
        return {}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Volumes by name, (B, C, R, A, S) in [0, 1], to be shown side by side; none by default."""
        return {}


class Passes:
    """What an encoder made of its inputs in one step, so that methods that look at the same values run it once."""

    def __init__(self) -> None:
        self._seen: list[tuple[Tensor, tuple[int, bool], list[Tensor]]] = []

    @contextmanager
    def shared_by(self, method: Method) -> Iterator[None]:
        """Have a method's `encode` ask here."""
        method.passes = self
        try:
            yield
        finally:
            method.passes = None

    def pyramid(self, encoder: Encoder, x: Tensor) -> list[Tensor]:
        """The encoder's answer to these values, from an earlier pass where there was one.

        Values are compared, not objects: two methods may have joined the same crops each on its own.
        """
        state = (x._version, torch.is_grad_enabled())
        for seen, (version, with_grad), pyramid in self._seen:
            # what was changed in place since is another input
            untouched = seen._version == version and with_grad == state[1]
            if untouched and seen.shape == x.shape and torch.equal(seen, x):
                return pyramid
        made: list[Tensor] = encoder(x)
        self._seen.append((x, state, made))
        return made
