"""The handlers of a pretraining run: what watches it, pictures it, and keeps the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volssl.contract import InputContract
from volssl.data import Store, TrainingScans, join_labels
from volssl.engine import CollapseMonitor, MethodTrainer, SaveEncoder, SavePictures
from volssl.engine.handlers import Handler
from volssl.errors import UserError
from volssl.evaluation.online_probe import OnlineProbe
from volssl.methods.base import Method
from volssl.tasks import BoxCache, TaskViews
from volssl.tasks.base import Task
from volssl.views.cropper import Cropping


class Watchers:
    """Collapse monitor, pictures, the keeper of `encoder.pt`, and with labels a probe that says which epoch is kept.

    Args:
        method: what is trained; its encoder is probed and kept.
        contract: what the encoder is fed.
        earlier_patients: those of the run that this one goes on from.
        store: folder of the store.
        labels: a table keyed by `study`; None or "" probes nothing, and the loss says which epoch is kept.
        task: what the labels mean, and how scans are cut for the probe.
        fraction: share of the training patients whose labels the probe may see.
        fold: of the store, whose patients are then those of validation.
        probe_epochs: epochs between two probes.
        stop_collapsed: end a run that has collapsed instead of warning alone.

    Raises:
        UserError: labels that do not fit the store or the task, or crops of which none has the contract's grid.
    """

    def __init__(
        self,
        *,
        method: Method,
        contract: InputContract,
        earlier_patients: Iterable[str] = (),
        store: str | Path,
        labels: str | Path | None = None,
        task: Task | None = None,
        fraction: float = 1.0,
        fold: int | None = None,
        probe_epochs: int = 5,
        stop_collapsed: bool = False,
    ) -> None:
        check_crops(method, contract)
        probe: OnlineProbe | None = None
        if labels and task is not None:
            table = join_labels(Store.open(store), labels, required_columns=task.label_columns)
            views = TaskViews(task, table, cache=BoxCache(memory_mb=4096.0))
            kind = task.contract.modality
            training = TrainingScans(store, labels=table, modality=kind, fraction=fraction, fold=fold, views=views)
            validation = TrainingScans(store, labels=table, modality=kind, fold=fold, split="validation", views=views)
            probe = OnlineProbe(method.encoder, train=training, validation=validation, views=views, every=probe_epochs)
        keeper = SaveEncoder(contract=contract, earlier_patients=earlier_patients, chosen_by=probe)
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
