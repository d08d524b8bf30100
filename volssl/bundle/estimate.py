"""`volssl estimate`: what a pretraining will take, told by a few real steps of it: time a step, memory, the end."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import psutil
import torch
import yaml
from ignite.engine import Events

from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved
from volssl.bundle.shipped import PRETRAINING, SINGLE
from volssl.bundle.targets import with_target
from volssl.bundle.workflow import CONFIG, run_workflow
from volssl.data.estimate import as_bytes, as_time
from volssl.engine.handlers import Handler
from volssl.evaluation.online_probe import OnlineProbe
from volssl.files import write_text

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer

WARM_UP = 2  # steps that are not timed: memory is allocated, kernels are chosen, a network is compiled
TIMER = "step_timer"
WAITING = 0.1  # share of a step spent waiting for data that is worth a word
EVERY_SECONDS = 0.02  # between two looks at the memory


@dataclass(frozen=True)
class Estimate:
    """What a run will take, from a few of its steps.

    Attributes:
        method: the config that was tried.
        device: what it ran on.
        volumes: training volumes.
        batch_size: samples a step.
        total_steps: of the whole run.
        timed_steps: that this rests on.
        compute_s: of a step: forward, backward, optimiser.
        wait_s: for the batch of a step, as measured.
        batch_s: one worker's time to make a batch.
        workers: that make batches.
        step_s: of a step in the long run: batches made ahead are used up, so workers may be what it waits for.
        probe_s: of one online probe; 0 without labels.
        probes: how many there will be.
        total_s: to the end of the run.
        memory_bytes: the most that the process and its workers held.
        device_memory_bytes: the most that tensors took on a GPU; None without one.
        run_bytes: of the checkpoint and the encoder, on disk.
    """

    method: str
    device: str
    volumes: int
    batch_size: int
    total_steps: int
    timed_steps: int
    compute_s: float
    wait_s: float
    batch_s: float
    workers: int
    step_s: float
    probe_s: float
    probes: int
    total_s: float
    memory_bytes: int
    device_memory_bytes: int | None
    run_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    @property
    def waiting(self) -> float:
        """Share of a step in which the device waits for data."""
        return max(0.0, 1 - self.compute_s / self.step_s)

    def __str__(self) -> str:
        spent = f"computing {self.compute_s:.3g} s, waiting for data {self.waiting:.0%}"
        rows = {
            "volumes": f"{self.volumes:,}, {self.batch_size} a step on {self.device}",
            "time a step": f"{self.step_s:.3g} s: {spent}",
            "to the end": f"{as_time(self.total_s)}, {self.total_steps:,} steps",
            "probes": f"{self.probes}, {as_time(self.probe_s)} each" if self.probes else "",
            "memory": f"{as_bytes(self.memory_bytes)}, workers included",
            "GPU memory": as_bytes(self.device_memory_bytes) if self.device_memory_bytes is not None else "",
            "disk": f"{as_bytes(self.run_bytes)} for the checkpoint and the encoder",
        }
        lines = [f"{name:<12} {value}" for name, value in rows.items() if value]
        lines.append(f"Measured over {self.timed_steps} steps; a machine that does other work too is slower.")
        if self.waiting > WAITING:
            enough = max(self.workers + 1, math.ceil(round(self.batch_s / self.compute_s, 1)))
            made = f"A worker makes a batch in {self.batch_s:.3g} s"
            lines.append(f"{made}: workers={enough} would keep up, on as many free cores.")
        return "\n".join(lines)


def estimate(
    method: str,
    *,
    store: Path,
    words: Sequence[str] = (),
    labels: Path | None = None,
    target: str = "",
    preset: str = SINGLE,
    steps: int = 8,
) -> Estimate:
    """Take a few real steps of a pretraining, in a folder that is thrown away, and tell what all of it will take.

    Args:
        method: a config of `volume_pretraining`.
        store: what `prepare` wrote; its training volumes are read.
        words: `KEY=VALUE` overrides, as `pretrain` takes them.
        labels: as `pretrain` takes them: the time of the online probe is told too.
        target: as `pretrain` takes it.
        preset: `single`, the config as it stands, or other values for it.
        steps: that are timed, after the first two.

    Raises:
        UserError: for a method or option that does not exist, or whatever stops a run.
    """
    files, told, words = with_target(
        bundle_config(PRETRAINING, method, preset=preset), target, store=store, labels=labels, words=words
    )
    values = read_config(files)
    with tempfile.TemporaryDirectory(prefix="volssl-estimate-") as folder:
        given = {"dataset_dir": str(store), "output_dir": folder} | ({"labels": str(labels)} if labels else {})
        override = {**given, **told, **parse_overrides(values, words), "resume": False}
        config = Path(folder) / CONFIG
        write_text(config, yaml.safe_dump(timed(resolved(values, override), steps), sort_keys=False))
        with watched_memory() as memory:
            workflow = run_workflow([config], meta=files[0].parent / "metadata.json", override=override)
        timer: StepTimer = workflow.parser.get_parsed_content(TIMER)
        return timer.estimate(method, memory_bytes=max(memory))


def timed(config: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """A train config whose trainer has a `StepTimer` as its last handler."""
    timer = {"_target_": f"{__name__}.StepTimer", "steps": steps}
    handlers = f"$[*@train::handlers, @{TIMER}]"
    trainer = {**config["train"]["trainer"], "train_handlers": handlers}
    return {**config, TIMER: timer, "train": {**config["train"], "trainer": trainer}}


class StepTimer:
    """Times the steps of a run and ends it after some.

    Args:
        steps: that are timed, after a warm-up of two.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps = steps
        self.waits: list[float] = []
        self.computes: list[float] = []
        self.since = 0.0

    def attach(self, engine: MethodTrainer) -> None:
        self.engine = engine
        for event, act in (
            (Events.GET_BATCH_STARTED, lambda _: self.begin()),
            (Events.GET_BATCH_COMPLETED, lambda _: self.waits.append(self.passed())),
            (Events.ITERATION_STARTED, lambda _: self.begin()),
            (Events.ITERATION_COMPLETED, self.end_step),
        ):
            engine.add_event_handler(event, act)

    def begin(self) -> None:
        """Start the clock."""
        self.since = time.perf_counter()

    def passed(self) -> float:
        """Seconds since; what the device was asked to do is done by then."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - self.since

    def end_step(self, engine: MethodTrainer) -> None:
        """Take the time of a step, and end the run after enough of them."""
        self.computes.append(self.passed())
        if len(self.computes) >= WARM_UP + self.steps:
            engine.terminate()

    def estimate(self, method: str, *, memory_bytes: int) -> Estimate:
        """What the whole run will take.

        Args:
            method: its name.
            memory_bytes: the most that it held.
        """
        trainer = self.engine
        cuda = trainer.state.device.type == "cuda"
        first = min(WARM_UP, len(self.computes) - 1)  # a run of one or two steps is timed as it is
        compute_s, wait_s = fmean(self.computes[first:]), fmean(self.waits[first : len(self.computes)])
        batch_s = time_of_a_batch(trainer)
        step_s = compute_s + wait_s
        if trainer.workers:
            step_s = max(step_s, batch_s / trainer.workers)
        probe_s, probes = time_of_a_probe(trainer)
        return Estimate(
            method=method,
            device=torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
            volumes=len(trainer.dataset),
            batch_size=trainer.batch_size,
            total_steps=trainer.total_steps,
            timed_steps=len(self.computes) - first,
            compute_s=compute_s,
            wait_s=wait_s,
            batch_s=batch_s,
            workers=trainer.workers,
            step_s=step_s,
            probe_s=probe_s,
            probes=probes,
            total_s=step_s * trainer.total_steps + probe_s * probes,
            memory_bytes=memory_bytes,
            device_memory_bytes=torch.cuda.max_memory_allocated() if cuda else None,
            run_bytes=bytes_in(trainer.method.state_dict())
            + bytes_in(trainer.optimizer.state_dict())
            + bytes_in(trainer.method.encoder.state_dict()),
        )


def time_of_a_batch(trainer: MethodTrainer) -> float:
    """Seconds that one worker takes for the views of a batch."""
    since = time.perf_counter()
    for index in range(trainer.batch_size):
        trainer.dataset[0, index]
    return time.perf_counter() - since


def time_of_a_probe(trainer: MethodTrainer) -> tuple[float, int]:
    """Seconds of a probe whose scans are preprocessed already, and how many a run has; (0, 0) without one."""
    for handler in with_inner(trainer.extra_handlers):
        if isinstance(handler, OnlineProbe):
            since = time.perf_counter()
            handler.figures()
            epochs = int(trainer.state.max_epochs)
            return time.perf_counter() - since, 1 + math.ceil(epochs / handler.every)
    return 0.0, 0


def with_inner(handlers: Iterable[Handler]) -> Iterator[Handler]:
    """Handlers, and those that they hold."""
    for handler in handlers:
        yield handler
        yield from with_inner(getattr(handler, "handlers", ()))


def bytes_in(values: Any) -> int:
    """Of the tensors in nested mappings and lists."""
    if isinstance(values, torch.Tensor):
        return values.nbytes
    if isinstance(values, Mapping):
        return sum(map(bytes_in, values.values()))
    return sum(map(bytes_in, values)) if isinstance(values, list | tuple) else 0


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Bytes that this process and those it started hold, looked at again and again while the block runs."""
    seen, done = [memory_held()], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            seen[0] = max(seen[0], memory_held())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def memory_held() -> int:
    """Bytes of this process, and of those it started what they do not share with others."""
    own = psutil.Process()
    held = int(own.memory_info().rss)
    for process in own.children(recursive=True):
        try:
            info = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        held += int(info.rss - getattr(info, "shared", 0))
    return held
