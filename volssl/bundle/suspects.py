"""The first stage of `volssl finetune metastasis`: the network that marks suspects, trained on masks or taken over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from volssl.bundle.workflow import FIRST_STAGE
from volssl.contract import InputContract
from volssl.data.loader import ViewDataset
from volssl.data.seen import tell_other_key
from volssl.data.training import TrainingScans
from volssl.encoders.weights import load_weights
from volssl.engine import MethodTrainer, WarmupCosine
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL, Validation
from volssl.methods.segmentation import Segmentation
from volssl.progress import counted, say
from volssl.seen import NOBODY, Seen
from volssl.slabs import HeldOut, SuspectNetwork
from volssl.tasks import Task, TaskViews
from volssl.tasks.crops import MarkedCrops
from volssl.tasks.masks import Masks, check_masks, mask_files
from volssl.tensors import load_tensors

PREFIX = "suspects."  # of its weights within those of a whole run
VALIDATIONS = 20  # of a training; one looks at whole volumes, and takes as long as some epochs of crops
FOLD = "fold"  # folder of a part's training, within that of the stage, with its number
INSTEAD = "take over the first stage of another run: suspects_path=RUN"


class SuspectTraining:
    """Fills a network of suspects: by training on the masks of the run's own training patients, or from another run.

    The best epoch is chosen by the AUC of slices on the validation patients, a slice scored by its highest voxel.

    A network marks those better whom it learnt from, so that a second stage that is trained on such marks trusts them
    too much. With folds, more networks are trained, each without one part of the patients, and the second stage learns
    from the marks of the one that has not seen the patient. Who is answered for is marked by the one trained on all.

    Args:
        network: filled in place.
        path: a run of `volssl finetune metastasis` whose first stage is taken over; "" to train one.
        table: the label table's file, beside which the masks lie.
        train: labelled scans of training patients; of them, those that have a mask or need none are learnt from.
        validation: labelled scans of validation patients. The views of both make `image` and `target`.
        output_dir: the run's folder.
        epochs: passes over the scans with masks.
        folds: parts of the training patients; 0 for none. The stage takes about as many times as long.
        crop: voxels along R, A, S of the crops that are learnt from, four of each scan.
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
        epochs: int = 60,
        folds: int = 0,
        crop: Sequence[int] = (48, 48, 24),
        batch_size: int = 4,
        learning_rate: float = 1e-3,
        seed: int = 0,
        workers: int = 0,
        device: str | None = None,
        precision: str = "float32",
        resume: bool = False,
    ) -> None:
        if epochs < 1:
            raise UserError(f"suspect_epochs={epochs}: give 1 or more, or suspects_path=RUN to take another run's")
        if folds < 0 or folds == 1:
            raise UserError(f"suspect_folds={folds}: give 2 or more parts of the training patients, or 0 for none")
        self.network, self.path, self.table = network, path, table
        self.train, self.validation = train, validation
        self.run_dir = Path(output_dir) / FIRST_STAGE
        self.folds, self.epochs, self.batch_size, self.learning_rate = folds, epochs, batch_size, learning_rate
        self.crop = tuple(crop)
        self.seed, self.workers = seed, workers
        self.device, self.precision, self.resume = device, precision, resume
        self.taken = read_stage(Path(path), task_views(train).task) if path else {}
        if self.taken:
            tell_other_key(train.store, self.taken["seen"], what=f"the first stage of {path}")

    @property
    def patients(self) -> Seen:
        """Those whose scans trained what is taken over; the run's own patients are known to the run."""
        seen: Seen = self.taken.get("seen", NOBODY)
        return seen

    def run(self) -> None:
        """Fill the network.

        Raises:
            UserError: for a label table without masks, a mask that does not fit its scan, or what stops a training.
        """
        source = self.path or str(self.run_dir / MODEL)
        if not self.taken:
            parts = list(self.parts())
            self.fit(self.network, self.run_dir)
            for place, without in enumerate(parts):
                torch.manual_seed(self.seed + place + 1)  # so that a run that goes on begins this part alike
                self.fit(SuspectNetwork(**self.network.settings), self.run_dir / f"{FOLD}{place}", without=without)
        state = self.taken["network"] if self.taken else load_tensors(self.run_dir / MODEL)["network"]
        load_weights(self.network, state, source=source, least=1.0)
        self.network.requires_grad_(False)
        if self.folds:
            self.network.held_out = self.held_out(Path(self.path) / FIRST_STAGE if self.taken else self.run_dir)
        say(f"stage 2 of 2: slices, by slabs of image and of the suspicion from {source}")

    def parts(self) -> Iterator[Set[str]]:
        """The patients of each part, the positive ones spread evenly."""
        if not self.folds:
            return
        patients, views = np.array(list(self.train.patients)), task_views(self.train)
        if self.folds > len(set(patients)):
            raise UserError(f"suspect_folds={self.folds}: there are {len(set(patients))} training patients; give fewer")
        assert views.labels is not None
        positive = views.labels.loc[list(self.train.ids), views.task.label_columns[0]].to_numpy() == 1
        drawn = StratifiedGroupKFold(self.folds, shuffle=True, random_state=self.seed)
        for _, own in drawn.split(patients, positive, patients):
            yield set(patients[own])

    def held_out(self, stage: Path) -> HeldOut:
        """For each training sample, a network of the folder of a stage that did not learn from the patient.

        Raises:
            UserError: where the stage has none for somebody.
        """
        files = sorted(stage.glob(f"{FOLD}*/{MODEL}"))
        known = [load_tensors(file) for file in files]
        seen = [set(facts["patients"]) for facts in known]
        which = [next((k for k, their in enumerate(seen) if who not in their), -1) for who in self.train.patients]
        if -1 in which:
            raise UserError(
                f"{stage}: {which.count(-1)} training scans are of patients whom every network there has seen; train "
                "the first stage with suspect_folds=2 or more, or leave suspect_folds out"
            )
        networks = []
        for file, facts in zip(files, known, strict=True):
            networks.append(SuspectNetwork(**self.network.settings))
            load_weights(networks[-1], facts["network"], source=str(file), least=1.0)
        return HeldOut(networks, torch.tensor(which))

    def fit(self, network: SuspectNetwork, folder: Path, *, without: Set[str] = frozenset()) -> None:
        """Train, or go on with it; leaves `model.pt` of the best epoch in a folder.

        Args:
            without: keyed hashes of training patients who are left out.
        """
        views = task_views(self.train)
        if views.labels is None:
            raise ValueError("suspects are learnt from views with labels")
        labels = views.labels.loc[list(self.train.ids)]
        check_masks(labels, views.task.label_columns[0], instead=INSTEAD)
        masks = Masks(mask_files(labels, self.table, label=views.task.label_columns[0]))
        crops = MarkedCrops(views.with_masks(masks), size=self.crop)
        scans = MaskedScans(self.train, crops, without=without, seed=self.seed)
        marked = sum(masks.files[key] is not None for key in scans.ids)
        negative = counted(len(scans) - marked, "negative study")
        part = f", without {counted(len(without), 'patient')}" if without else ""
        say(f"stage 1 of 2: suspects, from {counted(marked, 'mask')} and {negative}{part}")
        network.requires_grad_(True)
        method = Segmentation(network, views=crops)
        every = max(1, self.epochs // VALIDATIONS)
        best = Validation(network, scans=self.validation.scans, views=task_views(self.validation), every=every)
        MethodTrainer(
            method=method,
            dataset=scans,
            optimizer=torch.optim.AdamW(method.parameters(), lr=self.learning_rate),
            schedule=WarmupCosine(warmup_epochs=1, final=0.01),
            max_epochs=self.epochs,
            batch_size=min(self.batch_size, len(scans)),
            output_dir=str(folder),
            seed=self.seed,
            workers=self.workers,
            device=self.device,
            precision=self.precision,
            clip_norm=1.0,
            resume=self.resume,
            train_handlers=[best],
        ).run()
        say(f"suspects alone: validation AUC of slices {load_tensors(folder / MODEL)['validation_auc']:.3f}")


class MaskedScans(ViewDataset):
    """Those of the scans of training patients whose every voxel is known, but for those of some patients.

    Attributes:
        ids: keys of the volumes.
        patients: keyed hash of each volume's patient.
    """

    def __init__(self, scans: TrainingScans, crops: MarkedCrops, *, without: Set[str], seed: int) -> None:
        assert crops.views.masks is not None
        known, files = zip(scans.ids, scans.patients, strict=True), crops.views.masks.files
        kept = [i for i, (key, patient) in enumerate(known) if key in files and patient not in without]
        super().__init__([scans.scans[index] for index in kept], crops, seed=seed)
        self.key_check = scans.key_check
        self.ids, self.patients = ([names[index] for index in kept] for names in (scans.ids, scans.patients))


def task_views(scans: TrainingScans) -> TaskViews:
    """The views of labelled scans, which know the task."""
    if not isinstance(scans.views, TaskViews):
        raise TypeError(f"scans of a task have TaskViews, these have {type(scans.views).__name__}")
    return scans.views


def read_stage(run: Path, task: Task) -> dict[str, Any]:
    """The first stage of another run: `network`, its weights, and `seen`, whom they saw.

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
    return {"network": state, "seen": Seen.from_facts(facts)}
