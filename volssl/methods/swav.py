"""SwAV for volumes: crops of one scan predict each other's codes (Caron et al. 2020; Ghesu et al. 2022, 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count, takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder
from volssl.errors import UserError
from volssl.heads import projection_head
from volssl.losses.collapse import effective_rank, feature_spread, prototype_use
from volssl.losses.sinkhorn import codes_in_place, sinkhorn
from volssl.losses.swav import swapped_prediction
from volssl.methods.base import Batch, Losses, Method, Progress
from volssl.views.base import MODALITIES, Views
from volssl.views.multicrop import MultiCrop


class SwAV(Method):
    """Swapped prediction over many crops, with queues and prototypes that start frozen.

    The defaults are Table 1 of Ghesu et al. 2022. What the order of things hangs on, after SwAV's own code: prototypes
    are normalised in place before they are used; the queue holds features, scored with the current prototypes, and
    is used once it is full, which is checked before the batch is pushed; a frozen step leaves the prototypes without a
    gradient, so that neither decay nor momentum moves them.

    Of several modalities each has its own prototypes, queue and Sinkhorn over its own samples (Eq. 4); encoder and
    projector are shared. The paper says that Eq. 1 is adapted likewise, not how: here the loss is the mean over the
    modalities of a batch of each one's swapped prediction: the mean over samples, where a batch is split evenly.

    Args:
        encoder: any `Encoder`.
        views: makes `crop0`, `crop1`, … of one scan; `MultiCrop()` where None.
        modalities: those that have prototypes; a sample of another is refused.
        prototypes: number of clusters K, of each modality.
        feature_dim: length of the projected feature.
        hidden_dim: of the projection head.
        temperature: divides the scores in the prediction.
        epsilon: entropy weight of the codes.
        iterations: of Sinkhorn.
        assigned: crops whose codes are computed; large or small.
        queue_length: features kept for each assigned crop of a modality; 0 for no queue.
        queue_start_epoch: first epoch, from 0, in which the queues are filled.
        freeze_steps: steps in which the prototypes stay.

    Raises:
        UserError: for modalities that do not exist, or no assigned crop.
    """

    couples_samples = True
    queue: Tensor
    queue_filled: Tensor
    step: Tensor
    epoch: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        modalities: Sequence[str] = ("CT",),
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
        if not modalities or not set(modalities) <= set(MODALITIES) or len(set(modalities)) != len(modalities):
            raise UserError(f"modalities {list(modalities)}: take some of {', '.join(MODALITIES)}, each once")
        if not assigned or len(set(assigned)) != len(assigned):
            raise UserError(f"assigned {list(assigned)}: name one crop or more, each once")
        self.modalities = tuple(modalities)
        self.projector: nn.Module = projection_head(encoder.dim, feature_dim, hidden_dim)
        bound = 1 / math.sqrt(feature_dim)  # as a linear layer begins, which the prototypes are in SwAV's own code
        self.prototypes = nn.Parameter(torch.empty(len(modalities), prototypes, feature_dim).uniform_(-bound, bound))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.assigned = tuple(assigned)
        self.queue_length, self.queue_start_epoch = queue_length, queue_start_epoch
        self.freeze_steps = freeze_steps
        self.register_buffer("queue", torch.zeros(len(modalities), len(self.assigned), queue_length, feature_dim))
        self.register_buffer("queue_filled", torch.zeros(len(modalities), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self._last: dict[str, Tensor] = {}
        self._kept: tuple[Tensor, Tensor] | None = None  # memory of the codes: scores, and their exponentials

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`crop0` … (B, C, R, A, S) -> under the same names unit features (B, feature_dim), and `modality` (B,).

        One pass of the encoder a shape, one of the projector over all crops.
        """
        names = list(takewhile(batch.__contains__, (f"crop{i}" for i in count())))
        pooled: dict[str, Tensor] = {}
        for shape in dict.fromkeys(batch[name].shape for name in names):
            same = [name for name in names if batch[name].shape == shape]
            crops = [batch[name] for name in same]
            rows = self.encoder.pool(self.encode(torch.cat(crops) if len(crops) > 1 else crops[0]))  # no copy of one
            pooled |= zip(same, rows.chunk(len(same)), strict=True)
        projected = self.projector(torch.cat([pooled[name] for name in names]))
        features = functional.normalize(projected.float(), dim=1).chunk(len(names))
        return dict(zip(names, features, strict=True)) | {"modality": batch["modality"]}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """What `embed` made of the whole batch -> the mean loss of its modalities."""
        with torch.no_grad():
            self.prototypes.copy_(functional.normalize(self.prototypes, dim=2))
        features = [embedded[name] for name in sorted(embedded.keys() - {"modality"}, key=lambda name: int(name[4:]))]
        if len(features) < 2 or not set(self.assigned) <= set(range(len(features))):
            raise UserError(f"assigned crops {list(self.assigned)} of {len(features)}: they count from 0, two or more")
        # A detached weight has no gradient at all: what is frozen neither decays nor coasts.
        prototypes = self.prototypes.detach() if int(self.step) < self.freeze_steps else self.prototypes
        losses, scored = [], []
        with torch.autocast(features[0].device.type, enabled=False):
            for m, rows in self.rows_of_modalities(embedded["modality"]).items():
                own = [f[rows] for f in features]
                scores = [f @ prototypes[m].T for f in own]
                codes = {i: self.codes(m, place, own[i]) for place, i in enumerate(self.assigned)}
                losses.append(swapped_prediction(scores, codes, temperature=self.temperature))
                scored.append(scores[0])
                if self.training:
                    self.enqueue(m, [own[i] for i in self.assigned])
            self.observe(features[0], scored)
        return {"loss": torch.stack(losses).mean()}

    def rows_of_modalities(self, modality: Tensor) -> dict[int, Tensor]:
        """Which rows of a batch belong to each modality that is in it, by its place in `modalities`.

        Raises:
            UserError: where a sample's modality has no prototypes.
        """
        present = sorted(set(modality.tolist()))
        names = [MODALITIES[code] for code in present]
        if not set(names) <= set(self.modalities):
            raise UserError(
                f"volumes of {', '.join(names)} are given, and SwAV has prototypes for {', '.join(self.modalities)}: "
                f"set method::modalities=[{','.join(names)}]"
            )
        return {
            self.modalities.index(name): (modality == code).nonzero().squeeze(1)
            for name, code in zip(names, present, strict=True)
        }

    @torch.no_grad()
    def codes(self, m: int, place: int, features: Tensor) -> Tensor:
        """Codes (B, K) of a modality's features (B, feature_dim) of the assigned crop at `place`.

        Worked out beside the queue once that is full: with the paper's, three million scores a crop, in memory that is
        kept, for asking the system for it anew at every step costs a CPU more than the codes do.
        """
        prototypes = self.prototypes[m].T
        if not 0 < self.queue_length <= int(self.queue_filled[m]):
            return sinkhorn(features @ prototypes, epsilon=self.epsilon, iterations=self.iterations)
        queue, shape = self.queue[m, place], (self.queue_length + len(features), prototypes.shape[1])
        if self._kept is None or self._kept[0].shape != shape or self._kept[0].device != features.device:
            self._kept = features.new_empty(shape), features.new_empty(shape, dtype=torch.float64)
        scores, wide = self._kept
        torch.mm(queue, prototypes, out=scores[: len(queue)])
        torch.mm(features, prototypes, out=scores[len(queue) :])
        own = slice(len(queue), None)
        return codes_in_place(scores, wide, epsilon=self.epsilon, iterations=self.iterations, wanted=own)

    @torch.no_grad()
    def enqueue(self, m: int, features: Sequence[Tensor]) -> None:
        """Push a modality's part of a batch, newest first, from the first epoch that fills the queue on."""
        if self.queue_length == 0 or int(self.epoch) < self.queue_start_epoch:
            return
        for queue, new in zip(self.queue[m], features, strict=True):
            queue.copy_(torch.cat([new, queue])[: self.queue_length])
        self.queue_filled[m] += len(features[0])

    def observe(self, features: Tensor, scores: Sequence[Tensor]) -> None:
        """Keep what the collapse monitor reads, of the first crop: features (B, dim), scores (B, K) a modality."""
        uses = [torch.stack(prototype_use(s, temperature=self.temperature)) for s in scores]
        entropy, dead = torch.stack(uses).mean(dim=0)
        self._last = {"feature_std": feature_spread(features), "prototype_entropy": entropy, "prototypes_dead": dead}
        if 0 < self.queue_length <= int(self.queue_filled.min()):
            self._last["effective_rank"] = torch.stack([effective_rank(queue[0]) for queue in self.queue]).mean()

    def on_step_end(self, progress: Progress) -> None:
        self.step.fill_(progress.step)
        self.epoch.fill_(progress.epoch)

    def diagnostics(self) -> dict[str, float]:
        """What `engine.monitor` reads; the effective rank is that of the queue, once it is full."""
        queue_is_full = self.queue_length <= int(self.queue_filled.min()) or self.queue_length == 0
        told = {
            "loss_floor": math.log(self.prototypes.shape[1]),
            "loss_settled": float(queue_is_full and int(self.step) >= self.freeze_steps),
        }
        return {name: float(value) for name, value in self._last.items()} | told
