"""The trainer: MONAI's `SupervisedTrainer` with a stateless loader and checkpoints that resume to the same bits.

On several devices each rank runs it: `torchrun --nproc_per_node=N` with the same config. The ranks begin with the same
weights, draw from one order, average their gradients and running statistics and so stay the same; the first alone
writes, logs and validates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from volssl.data.loader import step_loader
from volssl.engine.batchnorm import synchronise
from volssl.engine.checkpoint import LAST, fingerprint, load_checkpoint, save_checkpoint
from volssl.engine.distributed import (
    join_ranks,
    mean_over_ranks,
    rank,
    same_on_all_ranks,
    sum_over_ranks,
    wait_for_all_ranks,
    world_size,
)
from volssl.engine.handlers import Handler, MetricsLog, ProgressBar, save_curve, save_views
from volssl.engine.schedule import WarmupCosine
from volssl.engine.step import PRECISIONS, NonFiniteLossError, step_seed, train_step
from volssl.errors import UserError
from volssl.methods.base import Method, Progress
from volssl.progress import counted


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
        batch_size: samples a step, on each rank; the last incomplete batch of an epoch is left out.
        output_dir: the run's folder.
        seed: of order and views; and, with rank and step, of what a method draws, such as dropout.
        workers: processes that make views; the samples do not depend on it.
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        precision: `float32`, `bfloat16`, or `float16` with a scaled loss.
        clip_norm: largest norm of the gradient; 0 for no clipping.
        accumulate: parts that each batch is cut into, so that memory for one part is enough. The loss stays that of the
            whole batch; where its samples meet in it, the network runs forward twice.
        channels_last: lay volumes and kernels out with channels last. Faster on some devices, slower on others:
            `benchmarks/methods.py` measures it on a CPU, `benchmarks/gpu.py` on a GPU. Nothing is tried out here, for a
            run must repeat to the same bits.
        compile: compile the encoder, for each shape of its input once.
        sync_batchnorm: batch normalisation over the samples of all ranks.
        checkpoint_steps: steps between checkpoints; 0 for one an epoch. There is one at the end of every epoch anyway.
        resume: go on from the run's last checkpoint, where there is one.
        train_handlers: more handlers, attached before the run begins, on the first rank alone.
        inferer: not used by methods; MONAI's bundle properties name it.

    Raises:
        UserError: where fewer volumes than a batch are given, a batch cannot be cut into so many parts, or the run
            exists and `resume` was not asked for.
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
        accumulate: int = 1,
        channels_last: bool = False,
        compile: bool = False,
        sync_batchnorm: bool = False,
        checkpoint_steps: int = 0,
        resume: bool = False,
        train_handlers: Sequence[Handler] = (),
        inferer: Any = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision}: unknown; choose one of {', '.join(PRECISIONS)}")
        whole = batch_size * world_size()
        if len(dataset) < whole:
            shared = f" on each of {world_size()} ranks" if world_size() > 1 else ""
            few = f"{counted(len(dataset), 'volume')} {'is' if len(dataset) == 1 else 'are'} fewer than one batch"
            most = len(dataset) // world_size()
            smaller = f"set batch_size={most}{' or less' if most > 1 else ''}, or " if most else ""
            raise UserError(f"{few} of {batch_size}{shared}; {smaller}prepare more volumes")
        if not 1 <= accumulate <= batch_size:
            raise UserError(f"accumulate {accumulate}: a batch of {batch_size} is cut into 1 to {batch_size} parts")
        self.run_dir = Path(output_dir)
        if (self.run_dir / LAST).is_file() and not resume:
            raise UserError(
                f"{self.run_dir}: holds a run already; add --resume to go on with it, or name another folder"
            )
        device = join_ranks(device)
        self.method, self.dataset, self.schedule = method.to(device), dataset, schedule
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.precision, self.clip_norm, self.checkpoint_steps = precision, clip_norm, checkpoint_steps
        self.accumulate, self.channels_last = accumulate, channels_last
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.resume, self.extra_handlers = resume, list(train_handlers)
        same_on_all_ranks(method)
        if sync_batchnorm:
            synchronise(method, device)
        if channels_last:
            lay_channels_last(method)
        if compile:
            method.encoder.compile(dynamic=False)  # in place: its tensors keep their names
        steps_per_epoch = len(dataset) // whole
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
            "samples a step": self.batch_size * world_size(),
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
        if self.resume and self._all_find(self.run_dir / LAST):
            step, saved = load_checkpoint(
                self.run_dir,
                settings=self.settings,
                method=self.method,
                optimizer=self.optimizer,
                scaler=self.grad_scaler,
            )
            self._continue_from(step)
        if self.state.iteration < self.total_steps:
            self._train(saved)
        wait_for_all_ranks(self.state.device)  # nobody reads what the first has not written yet

    def _train(self, saved: Mapping[str, Any]) -> None:
        self.data_loader = self._loader(self.state.iteration)
        if rank() > 0:
            self._watch()
            super().run()
            return
        self.log = MetricsLog(self.run_dir, first_step=self.state.iteration)
        progress = ProgressBar()
        for handler in (*self.extra_handlers, progress):
            handler.attach(self)
            if hasattr(handler, "load_state_dict") and type(handler).__name__ in saved:
                handler.load_state_dict(saved[type(handler).__name__])
        self._watch()
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
            rank=rank(),
            world_size=world_size(),
        )

    def _continue_from(self, step: int) -> None:
        self.load_state_dict(
            {"iteration": step, "max_epochs": self.state.max_epochs, "epoch_length": self.state.epoch_length}
        )

    def _step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        tensors = {name: self._moved(value) for name, value in batch.items() if isinstance(value, Tensor)}
        picture = self.run_dir / "figures" / "views.png"
        if rank() == 0 and not picture.is_file():
            save_views(tensors, picture)
        step, per_epoch = self.state.iteration, int(self.state.epoch_length)
        torch.manual_seed(step_seed(self.seed, rank(), step))
        values = train_step(
            self.method,
            self.optimizer,
            tensors,
            rate_factor=self.schedule.factor(step - 1, steps_per_epoch=per_epoch, total_steps=self.total_steps),
            precision=self.precision,
            clip_norm=self.clip_norm,
            accumulate=self.accumulate,
            scaler=self.grad_scaler,
        )
        self.method.on_step_end(Progress(step=step, steps_per_epoch=per_epoch, total_steps=self.total_steps))
        observed = mean_over_ranks(self.method.diagnostics(), self.state.device)
        return values | {"learning_rate": self.optimizer.param_groups[0]["lr"]} | observed

    def _moved(self, values: Tensor) -> Tensor:
        values = values.to(self.state.device, non_blocking=True)
        last = self.channels_last and values.ndim == 5
        return values.contiguous(memory_format=torch.channels_last_3d) if last else values

    def _all_find(self, path: Path) -> bool:
        """Whether a file is there, for all ranks or for none."""
        seen = int(sum_over_ranks(torch.tensor(int(path.is_file()), device=self.state.device)))
        if 0 < seen < world_size():
            raise UserError(
                f"{path}: seen by {seen} of {world_size()} ranks; put the run on a disk that all of them see"
            )
        return seen > 0

    def _watch(self) -> None:
        """Where a handler ends the run on one rank, end it on all: the others would wait for it in the next step."""
        if world_size() > 1:
            for event in (Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED):
                self.add_event_handler(event, MethodTrainer._end_together)

    def _end_together(self) -> None:
        if sum_over_ranks(torch.tensor(int(self.should_terminate), device=self.state.device)):
            self.terminate()

    def _record(self) -> None:
        self.log.write(self.state.iteration, self.state.epoch, self.state.output)
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
            scaler=self.grad_scaler,
            handlers=states,
        )


def lay_channels_last(network: nn.Module) -> None:
    """Lay the kernels of a network out with channels last; the values and the objects stay the same."""
    for parameter in network.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
