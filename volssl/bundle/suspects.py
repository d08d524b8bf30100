"""The first stage of `volssl finetune metastasis`: the network that marks suspects, trained on masks or taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from volssl.bundle.workflow import FIRST_STAGE
from volssl.contract import InputContract
from volssl.data.loader import ViewDataset
from volssl.data.training import TrainingScans
from volssl.encoders.weights import load_weights
from volssl.engine import MethodTrainer, WarmupCosine
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL, Validation
from volssl.methods.segmentation import Segmentation
from volssl.progress import counted, say
from volssl.slabs import SuspectNetwork
from volssl.tasks import Task, TaskViews
from volssl.tasks.masks import MaskViews, mask_files
from volssl.tensors import load_tensors

PREFIX = "suspects."  # of its weights within those of a whole run


class SuspectTraining:
    """Fills a network of suspects: by training on the masks of the run's own training patients, or from another run.

    The best epoch is chosen by the AUC of slices on the validation patients, a slice scored by its highest voxel.

    Args:
        network: filled in place.
        path: a run of `volssl finetune metastasis` whose first stage is taken over; "" to train one.
        table: the label table's file, beside which the masks lie.
        train: labelled scans of training patients; of them, those that have a mask or need none are learnt from.
        validation: labelled scans of validation patients. The views of both make `image` and `target`.
        output_dir: the run's folder.
        epochs: passes over the scans with masks.
        batch_size: scans a step.
        learning_rate: its highest.
        seed, workers, device, precision, resume: as of the run.

    Raises:
        UserError: for a path without a run of this task, or one that was fed something else.
    """

    def __init__(
        self,
        network: SuspectNetwork,
        *,
        path: str = "",
        table: str,
        train: TrainingScans,
        validation: TrainingScans,
        output_dir: str,
        epochs: int = 30,
        batch_size: int = 4,
        learning_rate: float = 2e-3,
        seed: int = 0,
        workers: int = 0,
        device: str | None = None,
        precision: str = "float32",
        resume: bool = False,
    ) -> None:
        if epochs < 1:
            raise UserError(f"suspect_epochs={epochs}: give 1 or more, or suspects_path=RUN to take another run's")
        self.network, self.path, self.table = network, path, table
        self.train, self.validation = train, validation
        self.run_dir = Path(output_dir) / FIRST_STAGE
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.seed, self.workers = seed, workers
        self.device, self.precision, self.resume = device, precision, resume
        self.taken = read_stage(Path(path), task_views(train).task) if path else {}

    @property
    def patients(self) -> frozenset[str]:
        """Keyed hashes of those whose scans trained what is taken over; the run's own patients are known to the run."""
        return frozenset(self.taken.get("patients", ()))

    def run(self) -> None:
        """Fill the network.

        Raises:
            UserError: for a label table without masks, a mask that does not fit its scan, or what stops a training.
        """
        source = self.path or str(self.run_dir / MODEL)
        if not self.taken:
            self.fit()
        state = self.taken["network"] if self.taken else load_tensors(self.run_dir / MODEL)["network"]
        load_weights(self.network, state, source=source, least=1.0)
        self.network.requires_grad_(False)
        say(f"stage 2 of 2: slices, by slabs of image and of the suspicion from {source}")

    def fit(self) -> None:
        """Train, or go on with it; leaves `suspects/model.pt` of the best epoch in the run."""
        views = task_views(self.train)
        if views.labels is None:
            raise ValueError("suspects are learnt from views with labels")
        labels = views.labels.loc[list(self.train.ids)]
        files = mask_files(labels, self.table, label=views.task.label_columns[0])
        marked = sum(path is not None for path in files.values())
        negative = counted(len(files) - marked, "negative study")
        say(f"stage 1 of 2: suspects, from {counted(marked, 'mask')} and {negative}")
        marking = MaskViews(views, files)
        scans = MaskedScans(self.train, marking, seed=self.seed)
        self.network.requires_grad_(True)
        method = Segmentation(self.network, views=marking)
        best = Validation(self.network, scans=self.validation.scans, views=task_views(self.validation))
        MethodTrainer(
            method=method,
            dataset=scans,
            optimizer=torch.optim.AdamW(method.parameters(), lr=self.learning_rate),
            schedule=WarmupCosine(warmup_epochs=1, final=0.01),
            max_epochs=self.epochs,
            batch_size=min(self.batch_size, len(scans)),
            output_dir=str(self.run_dir),
            seed=self.seed,
            workers=self.workers,
            device=self.device,
            precision=self.precision,
            clip_norm=1.0,
            resume=self.resume,
            train_handlers=[best],
        ).run()
        say(f"suspects alone: validation AUC of slices {load_tensors(self.run_dir / MODEL)['validation_auc']:.3f}")


class MaskedScans(ViewDataset):
    """Those of the scans of training patients whose every voxel is known.

    Attributes:
        ids: keys of the volumes.
        patients: keyed hash of each volume's patient.
    """

    def __init__(self, scans: TrainingScans, views: MaskViews, *, seed: int) -> None:
        kept = [index for index, key in enumerate(scans.ids) if key in views.files]
        super().__init__([scans.scans[index] for index in kept], views, seed=seed)
        self.ids, self.patients = ([names[index] for index in kept] for names in (scans.ids, scans.patients))


def task_views(scans: TrainingScans) -> TaskViews:
    """The views of labelled scans, which know the task."""
    if not isinstance(scans.views, TaskViews):
        raise TypeError(f"scans of a task have TaskViews, these have {type(scans.views).__name__}")
    return scans.views


def read_stage(run: Path, task: Task) -> dict[str, Any]:
    """The first stage of another run: `network`, its weights, and `patients`.

    Raises:
        UserError: where there is no finished run of the task, or it was fed something else.
    """
    if not (run / MODEL).is_file():
        raise UserError(f"{run}: no fine-tuned run there ({MODEL} is needed); give one of `volssl finetune metastasis`")
    facts = load_tensors(run / MODEL)
    state = {key.removeprefix(PREFIX): value for key, value in facts["network"].items() if key.startswith(PREFIX)}
    if facts["task"] != task.name or not state:
        raise UserError(f"{run}: a run of {facts['task']} marks no suspects; give one of `volssl finetune metastasis`")
    InputContract.from_dict(facts["contract"]).refuse_unlike(task.contract, what=f"suspects of {run}")
    return {"network": state, "patients": facts["patients"]}
