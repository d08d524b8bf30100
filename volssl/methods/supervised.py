"""Supervised training of a task's network, as one more method: fine-tuning, and the hybrid loss's labelled part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.methods.base import Batch, Losses, Method
from volssl.slabs import SlabNetwork
from volssl.tasks.base import Task
from volssl.views.base import Views

MODES, AVERAGES = ("full", "last", "frozen"), ("labelled", "all")


class Supervised(Method):
    """The loss of a task on labelled scans; unlabelled ones, of which every target is unknown, are left out.

    Only labelled rows of a batch run through the network, so that the others do not even shift its batch statistics.

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
        self.kept = kept_stages(network.encoder, mode, last_levels)
        for part in self.kept:
            part.requires_grad_(False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`image` (B, C, R, A, S) and `target` (B, T) -> `logits` (B, T), 0 where unlabelled, and `target`."""
        target = batch["target"]
        known = {"target": target}
        if self.row_weights is not None:
            known["weight"] = self.row_weights[batch["index"]]
        labelled = is_labelled(target)
        if labelled.all():
            return {"logits": self.network(batch["image"]).float()} | known
        if labelled.any():
            rows = self.network(batch["image"][labelled]).float()
            return {"logits": rows.new_zeros(target.shape).index_put((labelled,), rows)} | known
        # Zeros that hang on every parameter: a device without a label has gradients as the others do.
        nothing = torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum() * 0
        return {"logits": nothing + torch.zeros_like(target)} | known

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The task's losses of the labelled rows, weighted where samples have weights."""
        target = embedded["target"]
        losses = self.weighted(embedded) if "weight" in embedded else self.task.loss(embedded["logits"], target)
        share = is_labelled(target).float().mean() if self.average == "all" else 1.0
        return losses | {"loss": losses["loss"] * share}

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
        head: list[nn.Parameter] = [p for p in self.network.parameters() if id(p) not in own]
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
