"""The contract of a downstream task: the labels it reads, the outputs its network has, its loss and its figures."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from volssl.contract import InputContract
from volssl.transforms.head_box import BoxInfo
from volssl.views.base import Scan

Losses = dict[str, Tensor]


class Task(ABC):
    """What a downstream label means. Holds plain settings alone, so that it travels to workers and into configs.

    A network for the task returns one tensor (B, T); a target has the same T columns, NaN where nothing is known.

    Attributes:
        name: as on the command line.
        label_columns: columns that the label table must have.
        head_sizes: arguments of `TaskNetwork`, how many columns of each kind.
        output_names: keys of `predictions`, the one that matters most first.
        contract: what the network is fed.
        selection: output and metric by which the best epoch is chosen, on validation.
        metrics: figures reported for each output.
        operating_points: rules by which a threshold is chosen on validation.
    """

    name: str
    label_columns: tuple[str, ...]
    head_sizes: dict[str, int]
    output_names: tuple[str, ...]
    contract: InputContract
    selection: tuple[str, str]
    metrics: tuple[str, ...] = ("auc", "average_precision", "brier", "sensitivity", "specificity")
    operating_points: tuple[str, ...] = ("sensitivity and specificity equal",)

    @abstractmethod
    def preprocess(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """A scan -> the network's input (C, *grid) float32, and where it was cut. Nothing random."""

    @abstractmethod
    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        """A row of the joined label table -> (T,) float32 of 0, 1 and NaN."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Losses:
        """(B, T) and (B, T) -> `loss`, which is minimised, and its parts, which are logged."""

    @abstractmethod
    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        """(B, T) -> for each of `output_names` probabilities, (B,) or (B, entries)."""

    @abstractmethod
    def check_labels(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where the labels of the training patients cannot train this task."""


def masked_bce(logits: Tensor, targets: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy, averaged over the known targets; unknown ones (NaN) have no gradient.

    Args:
        logits: any shape.
        targets: the same shape; 0, 1 or NaN.
        positive_weight: multiplies the loss of positive targets.

    Returns:
        A scalar; 0 where nothing is known.
    """
    known = ~torch.isnan(targets)
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(),
        torch.where(known, targets, 0.0).float(),
        weight=known.float(),
        pos_weight=torch.tensor(positive_weight, device=logits.device),
        reduction="sum",
    )
    return losses / known.sum().clamp(min=1)
