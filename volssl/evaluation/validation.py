"""Validation after every epoch of fine-tuning: the best epoch's weights are kept, chosen by the task's own metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ignite.engine import Events
from torch import nn

from volssl.errors import UserError
from volssl.evaluation.metrics import roc_auc
from volssl.progress import say
from volssl.seen import NOBODY, Seen
from volssl.tasks.base import Task
from volssl.tasks.inference import predict_table
from volssl.tasks.views import TaskViews
from volssl.tensors import save_tensors
from volssl.views.base import Scan

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer

FORMAT = 1
MODEL = "model.pt"


class Validation:
    """Predict the validation scans after each epoch; write `model.pt` whenever their AUC is the best so far.

    Args:
        network: that is trained.
        scans: of validation patients, labelled.
        views: of the scans, with labels and without random changes; its task names the output that counts.
        earlier_patients: whom the encoder saw before; the run's own are added.
        every: epochs between two validations; the last epoch is always validated.
        patience: end the run after so many epochs without a better figure; 0 for never.

    Raises:
        UserError: for a patience below 0, or shorter than the time between two validations.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        scans: Sequence[Scan],
        views: TaskViews,
        earlier_patients: Seen = NOBODY,
        every: int = 1,
        patience: int = 0,
    ) -> None:
        if patience < 0 or 0 < patience < every:
            raise UserError(f"patience={patience}: give {every} epochs or more, or 0 to train to the end")
        self.patience = patience
        self.network, self.task, self.scans, self.views = network, views.task, scans, views
        self.seen, self.every = earlier_patients, every
        self.best, self.best_epoch = -math.inf, 0

    def attach(self, engine: MethodTrainer) -> None:
        self.seen |= Seen.of(engine.dataset)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.STARTED, self.end_if_over)  # of a run that goes on, and had been ended

    def __call__(self, engine: MethodTrainer) -> None:
        epoch, last = int(engine.state.epoch), int(engine.state.max_epochs)
        if epoch % self.every and epoch != last:
            return
        table = predict_table(self.network, self.scans, self.views)
        value = mean_auc(table, self.task.selected_outputs)
        engine.log.write(engine.state.iteration, epoch, {"validation_auc": value} if np.isfinite(value) else {})
        # Without both classes there is nothing to choose by: the last epoch stands.
        if not np.isfinite(value) or value > self.best:
            self.best, self.best_epoch = max(value, self.best) if np.isfinite(value) else self.best, epoch
            self.save(engine.run_dir / MODEL)
        if self.end_if_over(engine):
            engine.log.write(engine.state.iteration, epoch, {"stopped": f"{self.patience} epochs without a better AUC"})

    def end_if_over(self, engine: MethodTrainer) -> bool:
        """End the run, and say so, where patience is over."""
        over = 0 < self.patience <= int(engine.state.epoch) - self.best_epoch
        if over:
            say(f"ended after epoch {engine.state.epoch}: no better AUC since epoch {self.best_epoch}")
            engine.terminate()
        return over

    def save(self, path: Path) -> None:
        """Write the network as it is."""
        save_model(path, self.network, task=self.task, seen=self.seen, epoch=self.best_epoch, validation_auc=self.best)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over where the run was stopped."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])


def mean_auc(table: pd.DataFrame, outputs: Sequence[str]) -> float:
    """The mean AUC of those of the outputs that have both classes in a table of predictions; NaN where none has.

    Slices are cases of their own, of all scans together.
    """
    values = [roc_auc(cases(table[f"y_{name}"]), cases(table[f"p_{name}"])) for name in outputs]
    known = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def cases(column: pd.Series) -> np.ndarray:
    """(N,) numbers, or (N,) lists of as many -> the cases, one after the other."""
    return np.concatenate([np.atleast_1d(np.asarray(cell, dtype=float)) for cell in column])


def save_model(path: Path, network: nn.Module, *, task: Task, seen: Seen, epoch: int, validation_auc: float) -> None:
    """Write `model.pt`: a task's network, what it is fed, and the keyed hashes of all whose scans trained it."""
    save_tensors(
        path,
        {
            "format": FORMAT,
            "task": task.name,
            "contract": task.contract.as_dict(),
            "patients": sorted(seen.patients),
            "keys": sorted(seen.keys),
            "epoch": epoch,
            "validation_auc": validation_auc,
            "network": {key: value.cpu() for key, value in network.state_dict().items()},
        },
    )
