"""The handlers of a pretraining run: what watches it, pictures it, and keeps the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from volssl.contract import InputContract
from volssl.data import Store, TrainingScans, join_labels, tell_other_key
from volssl.engine import CollapseMonitor, MethodTrainer, SaveEncoder, SavePictures
from volssl.engine.handlers import Handler
from volssl.errors import UserError
from volssl.evaluation.online_probe import OnlineProbe
from volssl.methods.base import Method
from volssl.seen import NOBODY, Seen
from volssl.tasks import BoxCache, TaskViews
from volssl.tasks.base import Task
from volssl.views.cropper import Cropping


class Watchers:
    """Collapse monitor, pictures, the keeper of `encoder.pt`, and with labels a probe that says which epoch is kept.

    Args:
        method: what is trained; its encoder is probed and kept.
        contract: what the encoder is fed.
        earlier_patients: whom the run saw that this one goes on from.
        labelled: patients whose labels train the encoder, here or in an earlier run; those of the probe do not.
        store: folder of the store.
        labels: a table keyed by `study`; None or "" probes nothing, and the loss says which epoch is kept.
        task: what the labels mean, and how scans are cut for the probe.
        fraction: share of the training patients whose labels the probe may see.
        draw: which patients that share is made of, as of `TrainingScans`.
        fold: of the store, whose patients are then those of validation.
        probe_epochs: epochs between two probes.
        stop_collapsed: end a run that has collapsed instead of warning alone.

    Raises:
        UserError: labels that do not fit the store or the task, a task that looks at other scans than the encoder, or
            crops of which none has the contract's grid.
    """

    def __init__(
        self,
        *,
        method: Method,
        contract: InputContract,
        earlier_patients: Seen = NOBODY,
        labelled: Iterable[str] = (),
        store: str | Path,
        labels: str | Path | None = None,
        task: Task | None = None,
        fraction: float = 1.0,
        draw: int = 0,
        fold: int | None = None,
        probe_epochs: int = 5,
        stop_collapsed: bool = False,
    ) -> None:
        check_crops(method, contract)
        tell_other_key(Store.open(store), earlier_patients, what="the encoder that this run goes on from")
        probe: OnlineProbe | None = None
        if labels and task is not None:
            refuse_other_scans(contract, task)
            table = join_labels(
                Store.open(store),
                labels,
                task.label_columns,
                classes=task.label_classes,
                slices="slices" in task.output_names,
            )
            views = TaskViews(task, table, cache=BoxCache(memory_mb=4096.0))
            scans = partial(TrainingScans, store, labels=table, modality=task.contract.modality, fold=fold, views=views)
            training, validation = scans(fraction=fraction, draw=draw), scans(split="validation")
            probe = OnlineProbe(method.encoder, train=training, validation=validation, views=views, every=probe_epochs)
        keeper = SaveEncoder(contract=contract, earlier_patients=earlier_patients, labelled=labelled, chosen_by=probe)
        pictures = SavePictures(spacing_mm=contract.spacing_mm)
        watching: list[Handler] = [CollapseMonitor(stop=stop_collapsed), pictures]
        self.handlers = [*watching, *([probe] if probe else []), keeper]

    def attach(self, engine: MethodTrainer) -> None:
        """Hook them in, the probe before the keeper that asks it."""
        for handler in self.handlers:
            handler.attach(engine)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, of each that has something to know."""
        return {type(h).__name__: h.state_dict() for h in self.handlers if hasattr(h, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        for handler in self.handlers:
            if type(handler).__name__ in state and hasattr(handler, "load_state_dict"):
                handler.load_state_dict(state[type(handler).__name__])


def check_crops(method: Method, contract: InputContract) -> None:
    """Refuse crops of which none has the contract's grid: `encoder.pt` would tell another input than was seen."""
    seen = {cropper.size for cropper in method.views.croppers} if isinstance(method.views, Cropping) else set()
    if seen and contract.grid not in seen:
        crops, grid = ("×".join(map(str, size)) for size in (max(seen), contract.grid))
        raise UserError(f"crops of {crops} voxels, and encoder.pt would say {grid}: set crop_size, which is both")


def refuse_other_scans(contract: InputContract, task: Task) -> None:
    """Raise a UserError where a task would feed an encoder, by whose contract it is trained, something else."""
    modality = task.contract.modality
    if modality not in contract.modality.split("+"):
        raise UserError(
            f"labels: {task.name} is read from {modality} and the encoder is trained on {contract.modality}; give "
            f"labels of its {contract.modality} scans, and name their columns with --target"
        )
    contract.refuse_unlike(task.contract, what=f"the encoder, by labels of {task.name}")
