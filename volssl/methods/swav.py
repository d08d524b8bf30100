"""SwAV for volumes: crops of one scan predict each other's codes (Caron et al. 2020; Ghesu et al. 2022, 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder
from volssl.heads import projection_head
from volssl.losses import swav_loss
from volssl.methods.base import Batch, Losses, Method, Progress
from volssl.views.base import Views
from volssl.views.multicrop import MultiCrop


class SwAV(Method):
    """Swapped prediction over many crops, with a queue and prototypes that start frozen.

    The defaults are Table 1 of Ghesu et al. 2022. What the order of things hangs on, after SwAV's own code: prototypes
    are normalised in place before the forward pass; the queue holds features, scored with the current prototypes, and
    is used once it is full, which is checked before the batch is pushed; a frozen step leaves the prototypes without a
    gradient, so that neither decay nor momentum moves them.

    Args:
        encoder: any `Encoder`.
        views: makes `crop0`, `crop1`, … of one scan; `MultiCrop()` where None.
        prototypes: number of clusters K.
        feature_dim: length of the projected feature.
        hidden_dim: of the projection head.
        temperature: divides the scores in the prediction.
        epsilon: entropy weight of the codes.
        iterations: of Sinkhorn.
        assigned: crops whose codes are computed.
        queue_length: features kept for each assigned crop; 0 for no queue.
        queue_start_epoch: first epoch, from 0, in which the queue is filled.
        freeze_steps: steps in which the prototypes stay.
    """

    queue: Tensor
    queue_filled: Tensor
    step: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        prototypes: int = 1500,
        feature_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
        epsilon: float = 0.03,
        iterations: int = 3,
        assigned: Sequence[int] = (0, 1),
        queue_length: int = 1920,
        queue_start_epoch: int = 3,
        freeze_steps: int = 4000,
    ) -> None:
        super().__init__(encoder, views=views or MultiCrop())
        self.projector: nn.Module = projection_head(encoder.dim, feature_dim, hidden_dim)
        self.prototypes = nn.Linear(feature_dim, prototypes, bias=False)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.assigned = tuple(assigned)
        self.queue_length, self.queue_start_epoch = queue_length, queue_start_epoch
        self.freeze_steps = freeze_steps
        self.register_buffer("queue", torch.zeros(len(self.assigned), queue_length, feature_dim))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self._last: dict[str, float] = {}

    def forward(self, batch: Batch) -> Losses:
        """`crop0` … (B, C, R, A, S) -> loss, and the mean entropy of the predictions."""
        with torch.no_grad():
            self.prototypes.weight.copy_(functional.normalize(self.prototypes.weight, dim=1))
        crops = [batch[name] for name in sorted(batch) if name.startswith("crop")]
        features = self.features(crops)
        # A detached weight has no gradient at all: what is frozen neither decays nor coasts.
        frozen = int(self.step) < self.freeze_steps
        weight = self.prototypes.weight.detach() if frozen else self.prototypes.weight
        scores = [functional.linear(f.float(), weight.float()) for f in features]
        loss = swav_loss(
            scores,
            assigned=self.assigned,
            queue_scores=self.queue_scores(),
            temperature=self.temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
        )
        if self.training:
            self.enqueue([features[i] for i in self.assigned])
        self.observe(features, scores)
        return {"loss": loss}

    def features(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Project each crop: one pass of the encoder a shape, one of the head over all. -> (B, feature_dim)s."""
        pooled: list[Tensor | None] = [None] * len(crops)
        for shape in dict.fromkeys(tuple(crop.shape) for crop in crops):
            same = [i for i, crop in enumerate(crops) if tuple(crop.shape) == shape]
            rows = self.encoder.pooled(torch.cat([crops[i] for i in same]))
            for i, part in zip(same, rows.chunk(len(same)), strict=True):
                pooled[i] = part
        projected = self.projector(torch.cat([p for p in pooled if p is not None]))
        return list(functional.normalize(projected.float(), dim=1).chunk(len(crops)))

    def queue_scores(self) -> list[Tensor] | None:
        """Scores of the queue with the current prototypes, per assigned crop (Q, K); None until it is full."""
        if self.queue_length == 0 or int(self.queue_filled) < self.queue_length:
            return None
        with torch.no_grad():
            return [queue @ self.prototypes.weight.float().T for queue in self.queue]

    @torch.no_grad()
    def enqueue(self, features: Sequence[Tensor]) -> None:
        """Push a batch of features, newest first, from the first epoch that fills the queue on."""
        if self.queue_length == 0 or int(self.epoch) < self.queue_start_epoch:
            return
        for queue, new in zip(self.queue, features, strict=True):
            queue.copy_(torch.cat([new.detach().float(), queue])[: self.queue_length])
        self.queue_filled += len(features[0])

    @torch.no_grad()
    def observe(self, features: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
        """Keep what the collapse monitor reads: spread of the features, and how many prototypes are used."""
        use = torch.softmax(scores[0].float() / self.temperature, dim=1).mean(dim=0)
        self._last = {
            "feature_std": float(features[0].float().std(dim=0, correction=0).mean() * math.sqrt(features[0].shape[1])),
            "prototype_entropy": float(-(use * use.clamp(min=1e-12).log()).sum() / math.log(len(use))),
        }

    def on_step_end(self, progress: Progress) -> None:
        self.step.fill_(progress.step)
        self.epoch.fill_(progress.epoch)

    def diagnostics(self) -> dict[str, float]:
        """`feature_std`: 1 where features fill the sphere, 0 at collapse. `prototype_entropy`: 1 where all are used."""
        return dict(self._last)
