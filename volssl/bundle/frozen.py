"""`volssl finetune --mode probe` and `--mode knn`: what an encoder tells as it is, as a run like any other.

Features are extracted once and kept (`FeatureCache`). A probe is scikit-learn's logistic regression, its C chosen on
validation, written as a network of encoder and linear head; neighbours are a network that remembers its cases.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from volssl.data.training import TrainingScans
from volssl.encoders import Encoder, save_encoder
from volssl.errors import UserError
from volssl.evaluation.feature_cache import FeatureCache, as_task_has_it
from volssl.evaluation.features import evaluating
from volssl.evaluation.knn import NEIGHBOURS, TEMPERATURE
from volssl.evaluation.probe import as_linear, class_probe, linear_probe
from volssl.evaluation.validation import MODEL, mean_auc, save_model
from volssl.files import write_text
from volssl.heads import NeighbourNetwork, TaskNetwork
from volssl.progress import say
from volssl.seen import NOBODY, Seen
from volssl.tasks import Task, TaskViews
from volssl.tasks.inference import columns, labels_of
from volssl.transforms.head_box import BoxInfo

MODES = ("probe", "knn")


def frozen_network(
    encoder: Encoder,
    *,
    task: Task,
    mode: str,
    flips: bool = False,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> TaskNetwork | NeighbourNetwork:
    """The network that a mode fits: a linear head, or neighbours.

    Raises:
        UserError: for another mode, or a task that answers for slices.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode}: features as they are take {' or '.join(MODES)}; train with another mode")
    if task.head_sizes.get("slices"):
        raise UserError(f"mode {mode} answers for volumes, from one feature of each: leave the task's slices out")
    if task.join:
        raise UserError(f"mode {mode} looks at each series alone: leave task::join out")
    if mode == "probe":
        return TaskNetwork(encoder, flips=flips, dropout=0.0, join=None, **task.head_sizes)
    width = sum(task.head_sizes.values())
    several = [part for part, _ in task.problems(torch.zeros(1, width)) if part.stop - part.start > 1]
    return NeighbourNetwork(
        encoder,
        columns=width,
        one_of=[column for part in several for column in range(part.start, part.stop)],
        neighbours=neighbours,
        temperature=temperature,
        flips=flips,
    )


class FrozenFit:
    """Fits the head of `frozen_network` and writes the run's files.

    Args:
        network: its encoder stays as it is.
        train: labelled scans of training patients.
        validation: of validation patients: they choose a probe's C, and tell the AUC.
        views: preprocess and label, without random changes.
        output_dir: the run's folder.
        features: folder where features are kept; "" takes `features` beside the run.
        earlier_patients: whom the encoder saw.
        labelled: keyed hashes of those whose labels trained it; the run's own do not.
        device: `cpu`, `cuda`, or None for a GPU where there is one.
        resume: leave a run that is done as it is.
    """

    def __init__(
        self,
        network: TaskNetwork | NeighbourNetwork,
        *,
        train: TrainingScans,
        validation: TrainingScans,
        views: TaskViews,
        output_dir: str,
        features: str = "",
        earlier_patients: Seen = NOBODY,
        labelled: frozenset[str] = frozenset(),
        device: str | None = None,
        resume: bool = False,
    ) -> None:
        self.network, self.train, self.validation, self.views = network, train, validation, views
        self.run_dir, self.task, self.resume = Path(output_dir), views.task, resume
        self.cache = FeatureCache(features or self.run_dir.parent / "features")
        self.seen, self.labelled = earlier_patients | Seen.of(train), labelled
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def run(self) -> None:
        """Extract, fit, and write `model.pt`, `encoder.pt` and a log.

        Raises:
            UserError: where the folder holds a run already, and it was not to be gone on with.
        """
        if (self.run_dir / MODEL).is_file():
            if not self.resume:
                raise UserError(f"{self.run_dir}: holds a run already; name another folder")
            say(f"{self.run_dir}: done already")
            return
        encoder = self.network.encoder.to(self.device)
        inside, outside = self.side(encoder, self.train), self.side(encoder, self.validation)
        self.network.cpu()
        if isinstance(self.network, NeighbourNetwork):
            self.network.remember(inside[0], self.votes(inside[1]))
            told: dict[str, float] = {"neighbours": self.network.neighbours}
        else:
            told = self.fit_head(self.network, inside, outside)
        auc = self.auc(*outside)
        row = {"step": 1, "epoch": 1, "encoder_epoch": 1} | ({"validation_auc": auc} if np.isfinite(auc) else {}) | told
        write_text(self.run_dir / "metrics.jsonl", json.dumps(row) + "\n")
        save_encoder(
            self.run_dir / "encoder.pt",
            self.network.encoder,
            contract=self.task.contract,
            patients=self.seen.patients,
            keys=self.seen.keys,
            labelled=self.labelled,
            method=type(self.network).__name__,
        )
        save_model(self.run_dir / MODEL, self.network, task=self.task, seen=self.seen, epoch=1, validation_auc=auc)

    def side(self, encoder: Encoder, scans: TrainingScans) -> tuple[Tensor, Tensor]:
        """(N, dim) features and (N, T) targets of one side of the split."""
        if self.views.labels is None:
            raise ValueError("a probe wants views with labels")
        features, boxes = self.cache.features(encoder, scans.scans, as_task_has_it(self.views))
        rows = [self.views.labels.loc[key] for key in scans.ids]
        targets = [self.task.targets(row, BoxInfo.from_dict(box)) for row, box in zip(rows, boxes, strict=True)]
        return torch.from_numpy(features), torch.stack(targets)

    def fit_head(
        self, network: TaskNetwork, inside: tuple[Tensor, Tensor], outside: tuple[Tensor, Tensor]
    ) -> dict[str, float]:
        """Put a fitted probe for each problem of the task into the head; returns the C of each."""
        chosen: dict[str, float] = {}
        problems = zip(self.task.problems(inside[1]), self.task.problems(outside[1]), strict=True)
        for place, ((part, y), (_, truth)) in enumerate(problems):
            width = part.stop - part.start
            known = y[~torch.isnan(y)]
            if len(known.unique()) < 2:  # type: ignore[no-untyped-call]
                weights, biases = np.zeros((width, inside[0].shape[1])), constant(known.numpy(), width)
            else:
                fit = linear_probe if width == 1 else class_probe
                probe = fit(inside[0].numpy(), y.numpy(), outside[0].numpy(), truth.numpy())
                weights, biases = as_linear(probe, width)
                chosen[f"c_{place}"] = probe.c
            with torch.no_grad():
                network.labels.weight[part] = torch.from_numpy(weights).float()
                network.labels.bias[part] = torch.from_numpy(biases).float()
        return chosen

    def votes(self, targets: Tensor) -> Tensor:
        """(N, T) targets -> the votes of each column: 0, 1, or NaN where a case has none."""
        votes = torch.full(targets.shape, torch.nan)
        for part, y in self.task.problems(targets):
            classes = torch.arange(part.stop - part.start) if part.stop - part.start > 1 else torch.ones(1)
            one_hot = (y[:, None] == classes).float()
            votes[:, part] = torch.where(torch.isnan(y)[:, None], torch.nan, one_hot)
        return votes

    def auc(self, features: Tensor, targets: Tensor) -> float:
        """The mean AUC of the task's outputs on validation, of scans as they lie; NaN where none has both classes."""
        with torch.no_grad(), evaluating(self.network):
            head = self.network.answer if isinstance(self.network, NeighbourNetwork) else self.network.labels
            logits = head(features)
        told = columns("p", self.task.predictions(logits), len(features))
        truths = labels_of(self.task, [{"target": target} for target in targets])
        table = pd.DataFrame([answer | truth for answer, truth in zip(told, truths, strict=True)])
        return mean_auc(table, self.task.selected_outputs)


def constant(known: np.ndarray, width: int) -> np.ndarray:
    """Biases where there is one class or none to learn from: log-odds of the counts, each class begun with .5."""
    counts = np.array([(known == one).sum() + 0.5 for one in range(max(2, width))])
    biases: np.ndarray = np.log(counts)
    return biases[1:] - biases[:1] if width == 1 else biases
