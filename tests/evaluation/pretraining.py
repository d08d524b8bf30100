"""A pretraining run of seconds: a tiny encoder with all that a probe could disturb, on scans whose labels are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from tests.scans import ArrayScan
from volssl.contract import InputContract
from volssl.data.loader import ViewDataset
from volssl.encoders.base import Encoder
from volssl.engine import MethodTrainer, WarmupCosine
from volssl.engine.handlers import Handler
from volssl.methods.base import Batch, Losses, Method
from volssl.tasks.base import Losses as TaskLosses
from volssl.tasks.base import Task
from volssl.tasks.views import TaskViews
from volssl.transforms.head_box import BoxInfo

SIZE = (8, 8, 4)
CONTRACT = InputContract(modality="CT", window_hu=(55, 200), spacing_mm=(3.5, 3.5, 7.0), grid=SIZE)


class TinyEncoder(Encoder):
    """One convolution, batch normalisation and dropout: running averages and random numbers that a probe must leave."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides, self.dim, self.min_size = 1, (dim,), ((1, 1, 1),), dim, (1, 1, 1)
        self.settings: dict[str, Any] = {"dim": dim}
        self.layers = nn.Sequential(nn.Conv3d(1, dim, 3), nn.BatchNorm3d(dim), nn.ReLU(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layers(x)]

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1].mean(dim=(2, 3, 4))


class Anything(Task):
    """Whether a scan is bright, and something that nobody knows of every second one."""

    name, label_columns, head_sizes = "anything", ("bright", "odd"), {"volume": 2}
    output_names, contract, selection = ("bright", "odd"), CONTRACT, ("bright", "auc")

    def preprocess(self, scan: Any) -> tuple[Tensor, BoxInfo]:
        image = torch.from_numpy(scan.read().astype(np.float32) / 100)
        return image, BoxInfo(((0, 8), (0, 8), (0, 4)), SIZE, SIZE, scan.spacing_mm)

    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        return torch.tensor([row["bright"], row["odd"]], dtype=torch.float32)

    def loss(self, logits: Tensor, targets: Tensor) -> TaskLosses:
        return {"loss": logits.mean()}

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        bright, odd = torch.sigmoid(logits).unbind(dim=1)
        return {"bright": bright, "odd": odd}

    def check_labels(self, labels: pd.DataFrame) -> None:
        """Nothing to check."""

    def check_validation(self, labels: pd.DataFrame) -> None:
        """Nothing to check."""


@dataclass
class Labelled:
    """Scans as the probe takes them."""

    scans: list[ArrayScan]
    patients: list[str]


def scans_of(name: str, n: int, seed: int) -> list[ArrayScan]:
    rng = np.random.default_rng(seed)
    return [ArrayScan(rng.normal(40 + 10 * (i % 2), 40, SIZE).astype(np.int16), id=f"{name}{i}") for i in range(n)]


def labelled(name: str, n: int, seed: int) -> Labelled:
    """Every second scan is bright and labelled so; `odd` is known of the first half alone."""
    return Labelled(scans_of(name, n, seed), [f"{name}-patient-{i}" for i in range(n)])


def views_of(*sides: Labelled) -> TaskViews:
    """The task's views of these scans, with their labels."""
    rows = {
        scan.id: {"bright": i % 2, "odd": i % 3 == 0 if i < len(side.scans) // 2 else np.nan}
        for side in sides
        for i, scan in enumerate(side.scans)
    }
    return TaskViews(Anything(), pd.DataFrame.from_dict(rows, orient="index"))


def whole_view(scan: Any, rng: np.random.RandomState) -> dict[str, Tensor]:
    """A scan with noise, as pretraining sees it."""
    return {"x": torch.from_numpy((scan.read() / 100 + rng.normal(0, 0.1, SIZE)).astype(np.float32))}


class Wander(Method):
    """Pulls the features towards random numbers of torch's own generator, so that any other draw would show."""

    def __init__(self, encoder: Encoder, *, says: dict[str, float] | None = None) -> None:
        super().__init__(encoder, views=whole_view)
        self.says = says or {}

    def forward(self, batch: Batch) -> Losses:
        features = self.encoder.pooled(batch["x"])
        return {"loss": (features - torch.rand_like(features)).square().mean()}

    def diagnostics(self) -> dict[str, float]:
        return dict(self.says)


class UnlabelledScans(ViewDataset):
    """What pretraining looks at."""

    def __init__(self, n: int = 8) -> None:
        super().__init__(scans_of("unlabelled", n, 5), whole_view, seed=0)
        self.ids = [scan.id for scan in self.scans]
        self.patients = [f"unlabelled-patient-{i}" for i in range(n)]


def trainer(method: Method, run: Path, *handlers: Handler, epochs: int = 4, **options: Any) -> MethodTrainer:
    """Two steps an epoch."""
    return MethodTrainer(
        method=method,
        dataset=UnlabelledScans(),
        optimizer=torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9),
        schedule=WarmupCosine(),
        max_epochs=epochs,
        batch_size=4,
        output_dir=str(run),
        device="cpu",
        train_handlers=handlers,
        **options,
    )
