"""Supervised training of a task's network, as one more method: fine-tuning, and the hybrid loss's labelled part.

A task may have a light decoder learn beside it to mark what its masks mark, "a segmentation head added to the feature
space" (Ghesu et al. 2022, section 4.5): it shapes the encoder, and is no part of the network that answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from volssl.decoders import PyramidDecoder
from volssl.encoders.base import Encoder
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.methods.base import Batch, Losses, Method
from volssl.slabs import DARK, SlabNetwork
from volssl.tasks.base import Task
from volssl.views.base import Views

MODES, AVERAGES = ("full", "last", "frozen"), ("labelled", "all")


class Supervised(Method):
    """The loss of a task on labelled scans; unlabelled ones, of which every target is unknown, are left out.

    Only labelled rows of a batch run through the network, so that the others do not even shift its batch statistics.
    Where these are of all ranks, one without a label takes part with no row, as long as another has one.

    Args:
        network: encoder and head.
        task: its loss.
        views: makes `image` and `target` of one scan.
        mode: `full`; `last` to train the encoder's last levels and the head; `frozen` to train the head alone. What is
            not trained keeps its batch statistics too.
        last_levels: how many of the encoder's stages `last` trains, from the deepest.
        row_weights: (samples,) what each sample of the training set counts in the loss, by its `index`; all the same
            where None.
        average: `labelled` takes the mean over the labelled rows of a batch: the term's weight then means the same
            whatever share of the volumes has labels. `all` divides by all rows, as Eq. 7 of Ghesu et al. 2022 does: the
            term fades with the share of labels.

    Attributes:
        decoder: gives a logit for each voxel of the grid, over the pyramid; None where the task marks nothing.

    Raises:
        UserError: for a mode that there is not, or one that leaves a decoder nothing to shape.
    """

    row_weights: Tensor | None

    def __init__(
        self,
        network: TaskNetwork | SlabNetwork,
        *,
        task: Task,
        views: Views,
        mode: str = "full",
        last_levels: int = 1,
        average: str = "labelled",
        row_weights: Tensor | None = None,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"mode {mode}: training is {', '.join(MODES)}; probe and knn are given by --mode")
        if average not in AVERAGES:
            raise ValueError(f"average is {' or '.join(AVERAGES)}, not {average}")
        super().__init__(network.encoder, views=views)
        self.network, self.task, self.mode, self.average = network, task, mode, average
        self.register_buffer("row_weights", row_weights, persistent=False)
        self.decoder: PyramidDecoder | None = None
        if task.segment_weight:
            if mode == "frozen" or not isinstance(network, TaskNetwork):
                raise UserError(f"mode {mode} trains no encoder, which task::segment is there to shape: leave it out")
            self.decoder = PyramidDecoder(network.encoder.channels, network.encoder.strides)
            nn.init.constant_(self.decoder.head.bias, DARK)  # type: ignore[arg-type]
            self.measure = DiceCELoss(sigmoid=True, batch=True)
            self.couples_samples = True  # Dice is over the voxels of all scans of a batch that have a mask
        self.kept = kept_stages(network.encoder, mode, last_levels)
        for part in self.kept:
            part.requires_grad_(False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`image` (B, C, R, A, S) and `target` (B, T) -> `logits` (B, T), 0 where unlabelled, and `target`.

        With a decoder and `mask` (B, 1, R, A, S), NaN where unknown, also `voxels`, likewise, 0 where unknown, and
        `mask`. What has a mask has a label.
        """
        target = batch["target"]
        known = {"target": target}
        if self.row_weights is not None:
            known["weight"] = self.row_weights[batch["index"]]
        labelled = is_labelled(target)
        count = labelled.sum()
        if not (count if self.all_reduce is None else self.all_reduce(count)):
            logits, pyramid = nothing_of(self.network) + torch.zeros_like(target), None
        else:
            rows, pyramid = self.answer(batch if labelled.all() else {k: v[labelled] for k, v in batch.items()})
            logits = rows if labelled.all() else rows.new_zeros(target.shape).index_put((labelled,), rows)
        if self.decoder is None:
            return {"logits": logits} | known
        mask = batch["mask"]
        return {"logits": logits, "voxels": self.marks(pyramid, labelled, mask), "mask": mask} | known

    def answer(self, batch: Batch) -> tuple[Tensor, list[Tensor] | None]:
        """A batch of labelled rows -> logits (B, T), and for a decoder the pyramid."""
        pyramid: list[Tensor] | None = None
        logits: Tensor
        if isinstance(self.network, SlabNetwork):
            logits = self.network(batch["image"], batch.get("index"))
        elif self.decoder is None:
            logits = self.network(batch["image"])
        else:
            logits, pyramid = self.network.with_pyramid(batch["image"])
        return logits.float(), pyramid

    def marks(self, pyramid: list[Tensor] | None, labelled: Tensor, mask: Tensor) -> Tensor:
        """The pyramid of the labelled rows (B,) of a batch -> logits of the voxels of those with a mask, else 0."""
        assert self.decoder is not None
        masked = has_mask(mask)
        if pyramid is None or not masked.any():
            return nothing_of(self.decoder) + torch.zeros_like(mask)
        rows: Tensor = self.decoder(mask[masked], [level[masked[labelled]] for level in pyramid])
        return torch.zeros_like(mask).index_put((masked,), rows.float())

    def voxels(self, image: Tensor) -> Tensor:
        """(B, C, R, A, S) -> the decoder's logits (B, 1, R, A, S)."""
        assert self.decoder is not None
        _, pyramid = self.answer({"image": image})
        assert pyramid is not None
        voxels: Tensor = self.decoder(image, pyramid)
        return voxels.float()

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The task's losses of the labelled rows, weighted where samples have weights."""
        target = embedded["target"]
        losses = self.weighted(embedded) if "weight" in embedded else self.task.loss(embedded["logits"], target)
        if self.decoder is not None:
            marks = self.marks_loss(embedded["voxels"], embedded["mask"])
            total = losses["loss"] + self.task.segment_weight * marks
            losses = losses | {"loss": total, "loss_segment": marks.detach()}
        share = is_labelled(target).float().mean() if self.average == "all" else 1.0
        return losses | {"loss": losses["loss"] * share}

    def marks_loss(self, voxels: Tensor, mask: Tensor) -> Tensor:
        """Dice and cross-entropy (MONAI's) of the voxels of those rows that have a mask; 0 where none has."""
        masked = has_mask(mask)
        return self.measure(voxels[masked], mask[masked]) if masked.any() else voxels.sum() * 0

    def weighted(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The mean of the task's losses in which each labelled row counts by its weight.

        The task knows of no weights: rows of one weight are taken together, as many as there are classes.
        """
        logits, target = embedded["logits"], embedded["target"]
        labelled = is_labelled(target)
        weights = torch.where(labelled, embedded["weight"], 0.0)
        total = Losses()
        for weight in sorted(set(weights[labelled].tolist())):
            rows = weights == weight
            share = rows.sum() / labelled.sum() * weight
            part = self.task.loss(logits[rows], target[rows])
            total = {name: total.get(name, 0.0) + share * value for name, value in part.items()}
        return total or self.task.loss(logits, target)

    def train(self, mode: bool = True) -> Supervised:
        """Training mode, but for what is not trained."""
        super().train(mode)
        for part in self.kept:
            part.eval()
        return self

    def parameter_groups(
        self, learning_rate: float, *, encoder_factor: float = 1.0, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """What an optimiser trains: the head at the rate, the encoder at a factor of it.

        With a decay below 1 each stage of the encoder has its own rate: the deepest the encoder's, every stage before
        it that of the one behind times the decay (Howard and Ruder 2018; Clark et al. 2020).

        Raises:
            UserError: for a decay that is not above 0 and at most 1.
        """
        if not 0 < layer_decay <= 1:
            raise UserError(f"layer_decay={layer_decay}: give a factor above 0 and at most 1, which is none")
        own = {id(p) for p in self.encoder.parameters()}
        head: list[nn.Parameter] = [p for p in self.parameters() if id(p) not in own]
        groups = [{"params": head, "lr": learning_rate}]
        stages = [(self.encoder,)] if layer_decay == 1 else self.encoder.stages()
        for depth, stage in enumerate(reversed(stages)):
            trained = [p for part in stage for p in part.parameters() if p.requires_grad]
            rate = learning_rate * encoder_factor * layer_decay**depth
            groups += [{"params": trained, "lr": rate}] if trained else []
        return groups


def kept_stages(encoder: Encoder, mode: str, last_levels: int) -> list[nn.Module]:
    """The parts of an encoder that a mode does not train.

    Raises:
        UserError: for more or fewer levels than the encoder has.
    """
    if mode != "last":
        return [encoder] if mode == "frozen" else []
    stages = encoder.stages()
    if not 1 <= last_levels <= len(stages):
        raise UserError(f"last_levels={last_levels}: a {type(encoder).__name__} has 1 to {len(stages)} of them")
    return [part for stage in stages[: len(stages) - last_levels] for part in stage]


def is_labelled(target: Tensor) -> Tensor:
    """(B, T) -> (B,) bool: whether anything is known of a row."""
    return ~torch.isnan(target).all(dim=1)


def has_mask(mask: Tensor) -> Tensor:
    """(B, 1, R, A, S) -> (B,) bool: whether the voxels of a row are known."""
    return ~torch.isnan(mask[:, 0, 0, 0, 0])


def nothing_of(part: nn.Module) -> Tensor:
    """A 0 that hangs on every parameter: a device without a label has gradients as the others do."""
    return torch.stack([p.sum() for p in part.parameters() if p.requires_grad]).sum() * 0
