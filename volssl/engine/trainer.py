"""The trainer: MONAI's `SupervisedTrainer` with a stateless loader and checkpoints that resume to the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from volssl.data.loader import step_loader
from volssl.engine.checkpoint import LAST, fingerprint, load_checkpoint, save_checkpoint
from volssl.engine.handlers import Handler, MetricsLog, ProgressBar, save_curve, save_views
from volssl.engine.schedule import WarmupCosine
from volssl.engine.step import PRECISIONS, NonFiniteLossError, train_step
from volssl.errors import UserError
from volssl.methods.base import Method, Progress


class TrainingSet(Protocol):
    """A dataset indexed by (epoch, index), which knows the keys of its volumes and patients."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def patients(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, position: tuple[int, int]) -> dict[str, Tensor]: ...


class MethodTrainer(SupervisedTrainer):  # type: ignore[misc]
    """Trains one method on one dataset.

    Args:
        method: what is trained.
        dataset: its samples are made from (seed, epoch, index) alone.
        optimizer: over the method's parameters.
        schedule: factor on the optimiser's rates.
        max_epochs: passes over the data.
        batch_size: samples a step; the last incomplete batch of an epoch is left out.
        output_dir: the run's folder.
        seed: of order and views.
        workers: processes that make views; the samples do not depend on it.
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        precision: `float32` or `bfloat16`.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        checkpoint_steps: steps between checkpoints; 0 for one an epoch. There is one at the end of every epoch anyway.
        resume: go on from the run's last checkpoint, where there is one.
        train_handlers: more handlers, attached before the run begins.
        inferer: not used by methods; MONAI's bundle properties name it.

    Raises:
        UserError: where fewer volumes than a batch are given, or the run exists and `resume` was not asked for.
    """

    def __init__(
        self,
        *,
        method: Method,
        dataset: TrainingSet,
        optimizer: torch.optim.Optimizer,
        schedule: WarmupCosine,
        max_epochs: int,
        batch_size: int,
        output_dir: str,
        seed: int = 0,
        workers: int = 0,
        device: str | torch.device | None = None,
        precision: str = "float32",
        clip_norm: float = 0.0,
        checkpoint_steps: int = 0,
        resume: bool = False,
        train_handlers: Sequence[Handler] = (),
        inferer: Any = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision}: unknown; choose one of {', '.join(PRECISIONS)}")
        if len(dataset) < batch_size:
            raise UserError(
                f"{len(dataset)} volumes are fewer than one batch of {batch_size}; set batch_size={len(dataset)} or "
                "less, or prepare more volumes"
            )
        self.run_dir = Path(output_dir)
        if (self.run_dir / LAST).is_file() and not resume:
            raise UserError(
                f"{self.run_dir}: holds a run already; add --resume to go on with it, or name another folder"
            )
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.method, self.dataset, self.schedule = method.to(device), dataset, schedule
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.precision, self.clip_norm, self.checkpoint_steps = precision, clip_norm, checkpoint_steps
        self.resume, self.extra_handlers = resume, list(train_handlers)
        steps_per_epoch = len(dataset) // batch_size
        self.total_steps = steps_per_epoch * max_epochs
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=(),
            network=method,
            optimizer=optimizer,
            loss_function=None,
            epoch_length=steps_per_epoch,
            iteration_update=MethodTrainer._step,
            inferer=inferer,
            decollate=False,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must share with its beginning."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "max_epochs": self.state.max_epochs,
            "volumes": fingerprint(self.dataset.ids),
            "precision": self.precision,
        }

    def run(self) -> None:
        """Train to the end, from the beginning or from the last checkpoint.

        Raises:
            UserError: where the loss is no number; the last checkpoint stays good.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        saved: dict[str, Any] = {}
        if self.resume and (self.run_dir / LAST).is_file():
            step, saved = load_checkpoint(
                self.run_dir, settings=self.settings, method=self.method, optimizer=self.optimizer
            )
            self._continue_from(step)
        if self.state.iteration < self.total_steps:
            self._train(saved)

    def _train(self, saved: Mapping[str, Any]) -> None:
        self.log = MetricsLog(self.run_dir, first_step=self.state.iteration)
        self.data_loader = self._loader(self.state.iteration)
        progress = ProgressBar()
        for handler in (*self.extra_handlers, progress):
            handler.attach(self)
            if hasattr(handler, "load_state_dict") and type(handler).__name__ in saved:
                handler.load_state_dict(saved[type(handler).__name__])
        self.add_event_handler(Events.ITERATION_COMPLETED, MethodTrainer._record)
        # Last of all handlers of an epoch: what they did is in the checkpoint.
        self.add_event_handler(Events.EPOCH_COMPLETED, MethodTrainer._save)
        try:
            super().run()
        except NonFiniteLossError as error:
            kept = self.run_dir / LAST
            raise UserError(
                f"{error} at step {self.state.iteration} of {self.total_steps}; the run is stopped and "
                + (f"{kept} holds the last good state" if kept.is_file() else "nothing was saved yet")
                + "; try a lower learning_rate, precision=float32, clip_norm=1.0, or a longer warm-up"
            ) from error
        finally:
            progress.close()
            self.log.close()
        save_curve(self.log.path, self.run_dir / "figures" / "curve.png", title=type(self.method).__name__)

    def _loader(self, start_step: int) -> DataLoader[Any]:
        dataset: Dataset[Any] = self.dataset  # type: ignore[assignment]
        return step_loader(
            dataset,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start_step,
            total_steps=self.total_steps,
            workers=self.workers,
        )

    def _continue_from(self, step: int) -> None:
        self.load_state_dict(
            {"iteration": step, "max_epochs": self.state.max_epochs, "epoch_length": self.state.epoch_length}
        )

    def _step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        tensors = {k: v.to(self.state.device, non_blocking=True) for k, v in batch.items() if isinstance(v, Tensor)}
        picture = self.run_dir / "figures" / "views.png"
        if not picture.is_file():
            save_views(tensors, picture)
        step, per_epoch = self.state.iteration, int(self.state.epoch_length)
        factor = self.schedule.factor(step - 1, steps_per_epoch=per_epoch, total_steps=self.total_steps)
        values = train_step(
            self.method,
            self.optimizer,
            tensors,
            rate_factor=factor,
            precision=self.precision,
            clip_norm=self.clip_norm,
        )
        self.method.on_step_end(Progress(step=step, steps_per_epoch=per_epoch, total_steps=self.total_steps))
        return values | {"learning_rate": self.optimizer.param_groups[0]["lr"]}

    def _record(self) -> None:
        self.log.write(self.state.iteration, self.state.epoch, self.state.output | self.method.diagnostics())
        every = self.checkpoint_steps
        if every and self.state.iteration % every == 0 and self.state.iteration % self.state.epoch_length:
            self._save()

    def _save(self) -> None:
        self.log.flush()
        states = {type(h).__name__: h.state_dict() for h in self.extra_handlers if hasattr(h, "state_dict")}
        save_checkpoint(
            self.run_dir,
            step=self.state.iteration,
            settings=self.settings,
            method=self.method,
            optimizer=self.optimizer,
            handlers=states,
        )
