"""How well a decoder that is trained beside the answer marks what masks mark: its Dice on validation, in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from ignite.engine import Events
from monai.metrics import DiceMetric
from torch import Tensor, nn

from volssl.tasks.views import TaskViews
from volssl.views.base import Scan

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer


class Marks(Protocol):
    """A method with a decoder, or without one."""

    decoder: nn.Module | None
    training: bool

    def voxels(self, image: Tensor) -> Tensor: ...
    def train(self, mode: bool = True) -> object: ...


class Marking:
    """After each epoch, `validation_dice`: the mean Dice of the validation scans in which there is something to mark.

    It is that of the weights as they are trained: a decoder has no part in their average. False marks on other scans
    are not in it. Nothing happens where the method has no decoder.

    Args:
        method: gives a logit for each voxel, which is marked from 0 upwards.
        scans: of validation patients.
        views: of the scans, with masks and without random changes.
    """

    def __init__(self, method: Marks, *, scans: Sequence[Scan], views: TaskViews) -> None:
        self.method, self.scans, self.views = method, scans, views

    def attach(self, engine: MethodTrainer) -> None:
        if self.method.decoder is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: MethodTrainer) -> None:
        value = self.dice(engine.state.device)
        engine.log.write(
            engine.state.iteration, int(engine.state.epoch), {"validation_dice": value} if np.isfinite(value) else {}
        )

    @torch.no_grad()
    def dice(self, device: torch.device) -> float:
        """The mean over scans with a mask that is not empty; NaN where there is none."""
        measure = DiceMetric(ignore_empty=True)
        was_training = self.method.training
        self.method.train(False)
        try:
            for scan in self.scans:
                sample = self.views(scan, np.random.RandomState(0))
                if (sample["mask"] == 1).any():  # an unknown mask is NaN
                    marked = self.method.voxels(sample["image"][None].to(device)) > 0
                    measure(marked.float().cpu(), sample["mask"][None])
        finally:
            self.method.train(was_training)
        return float(measure.aggregate()) if len(measure) else float("nan")
