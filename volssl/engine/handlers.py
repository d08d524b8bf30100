"""Small handlers of the trainer, each with one job: log, picture, progress."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib
import numpy as np
from ignite.engine import Events
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from volssl.contract import InputContract
from volssl.encoders import Encoder, save_encoder
from volssl.progress import bar
from volssl.seen import NOBODY, Seen

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer

matplotlib.use("Agg")
from matplotlib import pyplot


class Handler(Protocol):
    """What hooks itself into a trainer; one with `state_dict` and `load_state_dict` is part of the checkpoint."""

    def attach(self, engine: MethodTrainer) -> None: ...


class MetricsLog:
    """`metrics.jsonl`, one row a step or an evaluation, and the same for TensorBoard.

    A resumed run forgets the rows after its checkpoint, so that every step stands there once.
    """

    def __init__(self, run: Path, *, first_step: int) -> None:
        self.path = run / "metrics.jsonl"
        rows = self.path.read_text().splitlines() if self.path.is_file() else []
        # A run that begins anew forgets all, what was measured before its first step too.
        kept = [row for row in rows if first_step and row.endswith("}") and json.loads(row)["step"] <= first_step]
        self.path.write_text("".join(row + "\n" for row in kept))
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)
        self.file = self.path.open("a")

    def write(self, step: int, epoch: int, values: Mapping[str, float | str]) -> None:
        """Append one row of numbers and sentences; steps and epochs count from 1, 0 is before the first."""
        self.file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, str):
                self.board.add_text(name, value, step)
            else:
                self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring the rows to the disk, before a checkpoint says that they are there."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.board.flush()

    def close(self) -> None:
        """Close both files."""
        self.flush()
        self.file.close()
        self.board.close()


class ProgressBar:
    """Steps done, loss and time left, on the terminal."""

    def __init__(self) -> None:
        self.bar = bar()

    def attach(self, engine: MethodTrainer) -> None:
        task = self.bar.add_task("training", total=engine.total_steps, completed=engine.state.iteration)

        def advance(trainer: MethodTrainer) -> None:
            text = f"epoch {trainer.state.epoch}/{trainer.state.max_epochs}  loss {trainer.state.output['loss']:.3f}"
            self.bar.update(task, completed=trainer.state.iteration, description=text)

        engine.add_event_handler(Events.STARTED, lambda _: self.bar.start())
        engine.add_event_handler(Events.ITERATION_COMPLETED, advance)

    def close(self) -> None:
        """Take the bar off the terminal; a handler of EXCEPTION_RAISED would have Ignite swallow the exception."""
        self.bar.stop()


def save_views(batch: Mapping[str, Tensor], path: Path, *, samples: int = 4) -> None:
    """A picture of the views that the network saw: a row a sample, a column a view, the middle slice of each.

    Shown as radiologists do: the patient's right on the left, anterior up.
    """
    names = sorted(name for name, value in batch.items() if value.ndim == 5)
    if not names:
        return
    rows = min(samples, len(batch[names[0]]))
    figure, axes = pyplot.subplots(rows, len(names), figsize=(1.8 * len(names), 2.1 * rows), squeeze=False)
    for row in range(rows):
        for column, name in enumerate(names):
            volume = batch[name][row, 0].detach().float().cpu().numpy()
            axis = axes[row][column]
            axis.imshow(np.rot90(volume[:, :, volume.shape[2] // 2])[:, ::-1], cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(f"{name}\n{'×'.join(map(str, volume.shape))}", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def save_curve(metrics: Path, path: Path, *, title: str) -> None:
    """The loss of each step, faint, and its mean over an epoch, from `metrics.jsonl`."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    if not rows:
        return
    steps, losses = np.array([row["step"] for row in rows]), np.array([row["loss"] for row in rows])
    epochs = np.array([row["epoch"] for row in rows])
    figure, axis = pyplot.subplots(figsize=(6, 3.2))
    axis.plot(steps, losses, color="#9db8d6", linewidth=0.8, label="step")
    centers = [steps[epochs == epoch].mean() for epoch in np.unique(epochs)]
    means = [losses[epochs == epoch].mean() for epoch in np.unique(epochs)]
    axis.plot(centers, means, color="#1f4e79", linewidth=1.8, label="mean of the epoch")
    axis.set(xlabel="step", ylabel="loss", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


class Chooser(Protocol):
    """Says which epoch was the best so far. It is attached before who asks, so that it knows of the epoch just done."""

    best_epoch: int


class LowestLoss:
    """The epoch with the lowest mean loss: all there is to choose by where there are no labels.

    A loss that changes its meaning on the way cannot be compared over the change: that of SwAV falls or rises when the
    queue comes in and when the prototypes thaw. A method says so by `loss_settled` among its diagnostics, 0 until then
    and 1 after. Of epochs that were not settled from end to end the latest stands; the settled are compared among
    themselves.
    """

    def __init__(self) -> None:
        self.best, self.best_epoch = math.inf, 0
        self.sum, self.steps, self.settled = 0.0, 0, True

    def attach(self, engine: MethodTrainer) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda trainer: self.add(trainer.state.output))
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda trainer: self.judge(int(trainer.state.epoch)))

    def add(self, numbers: Mapping[str, float]) -> None:
        """Take in what a step logged."""
        self.sum, self.steps = self.sum + numbers["loss"], self.steps + 1
        self.settled &= all(value for name, value in numbers.items() if name.endswith("loss_settled"))

    def judge(self, epoch: int) -> None:
        """Compare the epoch just done."""
        mean = self.sum / max(1, self.steps)
        if not self.settled or mean < self.best:
            self.best, self.best_epoch = mean if self.settled else math.inf, epoch
        self.sum, self.steps, self.settled = 0.0, 0, True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, in the middle of an epoch too."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        vars(self).update(state)


class SaveEncoder:
    """`encoder.pt`: the best epoch's weights, the input contract, and the keyed hashes of patients and labels seen.

    Written whenever an epoch is the best so far, so that a run that is stopped leaves one too. Where that is not the
    last epoch, `encoder_last.pt` is written beside it at the end. `encoder_epoch` in the log says which was taken.

    Args:
        contract: what the encoder is fed.
        earlier_patients: whom the run saw that this one goes on from.
        labelled: those whose labels train the encoder, in this run or one before.
        chosen_by: an `OnlineProbe` or a `Validation` of the same run, listed before this one among the handlers; the
            lowest loss where None.
        encoder: that is saved, such as that of an averaged network; the method's where None.
    """

    def __init__(
        self,
        *,
        contract: InputContract,
        earlier_patients: Seen = NOBODY,
        labelled: Iterable[str] = (),
        chosen_by: Chooser | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.contract, self.encoder = contract, encoder
        self.earlier_patients, self.labelled = earlier_patients, set(labelled)
        self.lowest_loss = LowestLoss()
        self.chosen_by: Chooser = chosen_by or self.lowest_loss

    def attach(self, engine: MethodTrainer) -> None:
        if self.chosen_by is self.lowest_loss:
            self.lowest_loss.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: MethodTrainer) -> None:
        epoch = int(engine.state.epoch)
        if self.chosen_by.best_epoch == epoch:
            engine.log.write(engine.state.iteration, epoch, {"encoder_epoch": epoch})
            self.save(engine, "encoder.pt")
        elif epoch == engine.state.max_epochs or engine.should_terminate:
            self.save(engine, "encoder_last.pt")

    def save(self, engine: MethodTrainer, name: str) -> None:
        """Write the encoder as it is."""
        seen = self.earlier_patients | Seen.of(engine.dataset)
        save_encoder(
            engine.run_dir / name,
            self.encoder or engine.method.encoder,
            contract=self.contract,
            patients=seen.patients,
            keys=seen.keys,
            labelled=self.labelled,
            method=type(engine.method).__name__,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"lowest_loss": self.lowest_loss.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        self.lowest_loss.load_state_dict(state["lowest_loss"])
