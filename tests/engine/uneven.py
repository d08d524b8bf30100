"""Samples of which one rank lacks what another has: labels, or a modality. Two ranks with batches of two are meant."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.engine.tiny import TinyData, TinyEncoder, no_views, sample, swav
from volssl.data.sampler import epoch_order
from volssl.heads import TaskNetwork
from volssl.methods import Combined, Supervised
from volssl.tasks import Hemorrhage

N, BATCH = 10, 4
CT, MR = 0, 1


def place(epoch: int, index: int) -> tuple[int, int]:
    """The step of its epoch that a sample comes in, and its place in the batch of all ranks: 0, 1 are the first's."""
    step, row = divmod(epoch_order(N, 0, epoch).tolist().index(index), BATCH)
    return step, row


class UnevenModalities(TinyData):
    """In the first step of an epoch the first rank has CT alone and the second both; then each has one."""

    strata = None  # type: ignore[assignment]  # the sampler would split every batch evenly

    def __init__(self) -> None:
        self.ids = self.patients = [f"{i}" for i in range(N)]
        self.served = []

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        self.served.append(where)
        step, row = place(*where)
        return sample(*where) | {"modality": torch.tensor(CT if row < (2 if step else 3) else MR)}


class LabelsOnTheFirstRank(TinyData):
    """Samples of `hybrid`. In the first step of an epoch both of the first rank's are labelled, then one, or none."""

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        parts = super().__getitem__(where)
        labelled = place(*where) in {(0, 0), (0, 1), (1, 0)} - ({(1, 0)} if where[0] else set())
        own = {f"swav/{name}": crop for name, crop in parts.items() if name.startswith("crop")}
        target = torch.tensor([float(where[1] % 2) if labelled else torch.nan])
        shared = {name: parts[name] for name in ("index", "modality")}
        return own | shared | {"supervised/image": parts["crop0"] - 1, "supervised/target": target}


def hybrid(*, batch_norm: bool = False) -> Combined:
    """SwAV on all samples, and a task's loss on the labelled ones."""
    clusters = swav(batch_norm=batch_norm, temperature=1.0)  # at .1 rounding alone grows to 1e-5 in four steps
    encoder = clusters.encoder
    assert isinstance(encoder, TinyEncoder)
    network = TaskNetwork(encoder, volume=1, types=0, slices=0, dropout=0.0)
    task = Hemorrhage(grid=(6, 6, 6), types=False, slices=False)
    return Combined(
        encoder, parts={"swav": clusters, "supervised": Supervised(network, task=task, views=no_views)}, views=no_views
    )
