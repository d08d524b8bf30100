"""A tiny encoder, data set and methods for tests of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.engine import MethodTrainer, WarmupCosine
from volssl.methods.base import Batch, Losses, Method
from volssl.methods.moco import MoCo
from volssl.methods.swav import SwAV


class TinyEncoder(Encoder):
    """One convolution, with batch normalisation or dropout where asked."""

    in_channels, channels, strides, dim, min_size = 1, (6,), ((2, 2, 2),), 6, (3, 3, 3)

    def __init__(self, *, batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        norm = nn.BatchNorm3d(6) if batch_norm else nn.Identity()
        self.net = nn.Sequential(nn.Conv3d(1, 6, 3, stride=2), norm, nn.Tanh(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1].flatten(2).square().mean(dim=2)


class Guess(Method):
    """Guess the mean of a volume: samples that do not meet in the loss."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, views=no_views)
        self.head = nn.Linear(encoder.dim, 1)
        self.unused = nn.Parameter(torch.ones(1))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        target = batch["crop0"].flatten(1).mean(dim=1)
        return {"error": (self.head(self.encoder.pooled(batch["crop0"])).squeeze(1) - target).square()}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        return {"loss": embedded["error"].mean(), "worst": embedded["error"].detach().mean()}


class TinyData:
    """Samples made from (epoch, index): two large and two small crops, of the modalities given."""

    def __init__(self, n: int = 10, modalities: Sequence[int] = (0,)) -> None:
        self.ids = self.patients = [f"{i}" for i in range(n)]
        self.strata = [modalities[i % len(modalities)] for i in range(n)]
        self.served: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        self.served.append(where)
        return sample(*where) | {"modality": torch.tensor(self.strata[where[1]])}


def sample(epoch: int, index: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * epoch + index)
    sizes = {"crop0": 6, "crop1": 6, "crop2": 4, "crop3": 4}
    return {name: torch.randn(1, n, n, n, generator=generator) + index % 3 for name, n in sizes.items()} | {
        "index": torch.tensor(index)
    }


def tiny_batch(samples: int = 6, modalities: Sequence[int] = (0,)) -> dict[str, Tensor]:
    """The first samples of epoch 0."""
    data = TinyData(samples, modalities)
    return torch.utils.data.default_collate([data[0, i] for i in range(samples)])


def no_views(scan: object, rng: object) -> dict[str, Tensor]:
    return {}


def swav(encoder: Encoder | None = None, *, batch_norm: bool = False, **options: Any) -> SwAV:
    """SwAV with a queue that is full after two steps of six, and prototypes that thaw after one."""
    torch.manual_seed(3)
    settings = {"prototypes": 5, "feature_dim": 4, "hidden_dim": 7, "queue_length": 12, "queue_start_epoch": 0}
    encoder = encoder or TinyEncoder(batch_norm=batch_norm)
    method = SwAV(encoder, views=no_views, **(settings | {"freeze_steps": 1} | options))
    if not batch_norm:
        method.projector[1] = nn.Identity()
    return method


def moco(**options: Any) -> MoCo:
    torch.manual_seed(3)
    return MoCo(TinyEncoder(**options), views=no_views, feature_dim=4, hidden_dim=7, queue_length=12)


def guess(**options: Any) -> Guess:
    torch.manual_seed(3)
    return Guess(TinyEncoder(**options))


def trainer_of(method: Method, folder: Path, *, data: TinyData | None = None, **options: Any) -> MethodTrainer:
    """SGD with momentum and decay, two epochs, on the CPU."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    settings = {"max_epochs": 2, "batch_size": 4, "device": "cpu"}
    return MethodTrainer(
        method=method,
        dataset=data or TinyData(),
        optimizer=optimizer,
        schedule=WarmupCosine(),
        output_dir=str(folder),
        **(settings | options),
    )
