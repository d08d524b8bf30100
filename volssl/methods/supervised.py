"""Supervised training of a task's network, as one more method: fine-tuning, and the hybrid loss's labelled part."""

from __future__ import annotations

from typing import Any

from torch import nn

from volssl.heads import TaskNetwork
from volssl.methods.base import Batch, Losses, Method
from volssl.tasks.base import Task
from volssl.views.base import Views


class Supervised(Method):
    """The loss of a task on labelled scans.

    Args:
        network: encoder and head.
        task: its loss.
        views: makes `image` and `target` of one scan.
        mode: `full`, or `frozen` to train the head alone; the encoder's batch normalisation then stays as it is.
    """

    def __init__(self, network: TaskNetwork, *, task: Task, views: Views, mode: str = "full") -> None:
        if mode not in ("full", "frozen"):
            raise ValueError(f"mode is full or frozen, not {mode}")
        super().__init__(network.encoder, views=views)
        self.network, self.task, self.mode = network, task, mode
        if mode == "frozen":
            self.encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> Losses:
        """`image` (B, C, R, A, S) and `target` (B, T) -> the task's losses."""
        return self.task.loss(self.network(batch["image"]), batch["target"])

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
