"""MoCo for volumes: a query finds its key among those of a queue, made by a slower encoder (He et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder
from volssl.encoders.batchnorm import running_statistics
from volssl.heads import projection_head
from volssl.losses import queue_loss
from volssl.losses.collapse import effective_rank, feature_spread
from volssl.methods.base import Batch, Losses, Method, Progress
from volssl.methods.simclr import is_kin, kin_of
from volssl.views.base import Views
from volssl.views.pairs import TwoCrops

RANKED = 512  # newest keys of the queue whose effective rank is told


class MoCo(Method):
    """Contrast a crop with the key of another one, and with the keys of earlier samples.

    The keys come from a momentum encoder and projector, which follow the trained ones after every step. Small batches
    do, as the negatives come from the queue. What belongs together is the data set's choice, as for `SimCLR`; keys of
    the same sample, or of one that might have been paired with it, do not repel while they are in the queue.

    MoCo begins with a queue of noise, and pushes a batch's keys after its loss. Noise is told from any scan at a
    glance, and teaches all queries to be alike: ours begins empty, the batch's keys are pushed first, and while it is
    not full what it holds counts for all of it.

    MoCo shuffles the batch over devices before the keys are made, lest batch statistics that a query and its key share
    give the answer away; on one device that is no help. Here the momentum encoder normalises by running statistics,
    which follow the trained encoder's as its weights do (EMAN, Cai et al. 2021): a key depends on its own crop alone,
    on however many devices and in whatever parts a batch is computed. So that the first keys differ from one another,
    the first step's statistics are taken over whole, and the key encoder is then a copy of the trained one.

    Args:
        encoder: any `Encoder`; its copy makes the keys.
        views: makes `crop0`, the query, and `crop1`, the key; `TwoCrops()` where None.
        feature_dim: length of the projected feature.
        hidden_dim: of the projection head.
        temperature: divides the cosine similarities.
        momentum: of the key encoder; the first steps follow faster, at (1 + step) / (10 + step). He et al. take .999
            for 200 epochs of a million images; .99 forgets within some hundred steps.
        queue_length: keys that are kept; far fewer than there are volumes, or most of it is stale.
    """

    couples_samples = True
    queue: Tensor
    queue_places: Tensor
    step: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        feature_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue_length: int = 4096,
    ) -> None:
        super().__init__(encoder, views=views or TwoCrops())
        if queue_length < 1 or not 0 <= momentum < 1:
            raise ValueError(f"a queue holds a key or more, a momentum is below 1: not {queue_length} and {momentum}")
        self.projector: nn.Module = projection_head(encoder.dim, feature_dim, hidden_dim)
        self.key_encoder, self.key_projector = deepcopy(encoder), deepcopy(self.projector)
        for module in (self.key_encoder, self.key_projector):
            module.requires_grad_(False)
        self.temperature, self.momentum, self.queue_length = temperature, momentum, queue_length
        self.register_buffer("queue", torch.zeros(queue_length, feature_dim))
        self.register_buffer("queue_places", torch.full((queue_length,), -1))  # -1: nobody's as yet
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._last: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> MoCo:
        """Training mode, but for what makes the keys."""
        super().train(mode)
        self.key_encoder.eval()
        self.key_projector.eval()
        return self

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`crop0` and `crop1` (B, C, R, A, S) -> `queries` and `keys` (B, feature_dim), and `kin` (B, 3)."""
        first = int(self.step) == 0
        with running_statistics(self, taken=1.0) if first and self.training else nullcontext():
            queries = self.projector(self.encoder.pool(self.encode(batch["crop0"])))
        if first:  # weights may have been read into the encoder since it was copied
            self.follow(0.0)
        with torch.no_grad():
            keys = self.key_projector(self.key_encoder.pooled(batch["crop1"]))
        return {"queries": queries, "keys": functional.normalize(keys.float(), dim=1), "kin": kin_of(batch)}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The queries' loss against their keys and the queue; in training the keys join it first, newest first."""
        queries, keys, kin = embedded["queries"], embedded["keys"].detach(), embedded["kin"]
        queue = torch.cat([keys, self.queue])[: self.queue_length]
        places = torch.cat([kin[:, 0], self.queue_places])[: self.queue_length]
        ignored = is_kin(kin, places) | (places < 0)
        loss = queue_loss(queries, keys, queue, temperature=self.temperature, ignored=ignored)
        self._last = {"feature_std": feature_spread(queries)}
        if (places >= 0).all():
            self._last["effective_rank"] = effective_rank(queue[:RANKED])
        if self.training:
            self.queue.copy_(queue)
            self.queue_places.copy_(places)
        return {"loss": loss}

    def on_step_end(self, progress: Progress) -> None:
        """The key encoder follows."""
        step = int(self.step)
        self.follow(min(self.momentum, (1 + step) / (10 + step)))
        self.step.fill_(progress.step)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Keep a share of the key encoder and projector, weights and running statistics, and take the rest anew."""
        for slow, fast in self.twins():
            if slow.is_floating_point():
                slow.lerp_(fast, 1 - momentum)
            else:
                slow.copy_(fast)

    def twins(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor of what makes the keys, and the trained one that it follows."""
        for slow, fast in ((self.key_encoder, self.encoder), (self.key_projector, self.projector)):
            yield from zip(slow.state_dict().values(), fast.state_dict().values(), strict=True)

    def diagnostics(self) -> dict[str, float]:
        """What `engine.monitor` reads; the effective rank is that of the queue, once it is full."""
        told = {name: float(value) for name, value in self._last.items()}
        return told | {"loss_floor": math.log(1 + self.queue_length)}
