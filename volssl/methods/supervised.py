"""Supervised training of a task's network, as one more method: fine-tuning, and the hybrid loss's labelled part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from volssl.heads import TaskNetwork
from volssl.methods.base import Batch, Losses, Method
from volssl.tasks.base import Task
from volssl.views.base import Views

AVERAGES = ("labelled", "all")


class Supervised(Method):
    """The loss of a task on labelled scans; unlabelled ones, of which every target is unknown, are left out.

    Only labelled rows of a batch run through the network, so that the others do not even shift its batch statistics.

    Args:
        network: encoder and head.
        task: its loss.
        views: makes `image` and `target` of one scan.
        mode: `full`, or `frozen` to train the head alone; the encoder's batch normalisation then stays as it is.
        average: `labelled` takes the mean over the labelled rows of a batch: the term's weight then means the same
            whatever share of the volumes has labels. `all` divides by all rows, as Eq. 7 of Ghesu et al. 2022 does: the
            term fades with the share of labels.
    """

    def __init__(
        self, network: TaskNetwork, *, task: Task, views: Views, mode: str = "full", average: str = "labelled"
    ) -> None:
        if mode not in ("full", "frozen"):
            raise ValueError(f"mode is full or frozen, not {mode}")
        if average not in AVERAGES:
            raise ValueError(f"average is {' or '.join(AVERAGES)}, not {average}")
        super().__init__(network.encoder, views=views)
        self.network, self.task, self.mode, self.average = network, task, mode, average
        if mode == "frozen":
            self.encoder.requires_grad_(False)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`image` (B, C, R, A, S) and `target` (B, T) -> `logits` (B, T), 0 where unlabelled, and `target`."""
        target = batch["target"]
        labelled = is_labelled(target)
        if labelled.all():
            return {"logits": self.network(batch["image"]).float(), "target": target}
        if labelled.any():
            rows = self.network(batch["image"][labelled]).float()
            return {"logits": rows.new_zeros(target.shape).index_put((labelled,), rows), "target": target}
        # Zeros that hang on every parameter: a device without a label has gradients as the others do.
        nothing = torch.stack([p.sum() for p in self.network.parameters() if p.requires_grad]).sum() * 0
        return {"logits": nothing + torch.zeros_like(target), "target": target}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The task's losses of the labelled rows."""
        target = embedded["target"]
        losses = self.task.loss(embedded["logits"], target)
        share = is_labelled(target).float().mean() if self.average == "all" else 1.0
        return losses | {"loss": losses["loss"] * share}

    def train(self, mode: bool = True) -> Supervised:
        """Training mode, but for a frozen encoder."""
        super().train(mode)
        if self.mode == "frozen":
            self.encoder.eval()
        return self

    def parameter_groups(self, learning_rate: float, *, encoder_factor: float = 1.0) -> list[dict[str, Any]]:
        """What an optimiser trains: the head at the rate, the encoder at a factor of it."""
        own = {id(p) for p in self.encoder.parameters()}
        head: list[nn.Parameter] = [p for p in self.network.parameters() if id(p) not in own]
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        groups = [{"params": head, "lr": learning_rate}]
        return groups + ([{"params": encoder, "lr": learning_rate * encoder_factor}] if encoder else [])


def is_labelled(target: Tensor) -> Tensor:
    """(B, T) -> (B,) bool: whether anything is known of a row."""
    return ~torch.isnan(target).all(dim=1)
