"""The contract of a downstream task: the labels it reads, the outputs its network has, its loss and its figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from volssl.contract import InputContract
from volssl.errors import UserError
from volssl.tasks.masks import Masks, mask_files
from volssl.transforms.head_box import BoxInfo
from volssl.transforms.resample import FloatBox
from volssl.transforms.scan_box import scan_box
from volssl.views.base import Scan

Losses = dict[str, Tensor]


class Task(ABC):
    """What a downstream label means. Holds plain settings alone, so that it travels to workers and into configs.

    A network for the task returns one tensor (B, T); a target has the same T columns, NaN where nothing is known.

    Attributes:
        name: as on the command line.
        label_columns: columns that the label table must have.
        label_classes: of columns that hold classes, what they are; the joined table has their indices.
        head_sizes: arguments of `TaskNetwork`, how many columns of each kind.
        output_names: keys of `predictions`, the one that matters most first.
        volume_outputs: those of them that are the answer for the volume; the others but `slices` are of its types.
        contract: what the network is fed.
        box: where the input is cut from a scan: `head` or `foreground`, see `volssl.transforms.scan_box`.
        segment_weight: of the loss of what a decoder marks, learnt from masks beside the labels; 0 has no decoder.
        join: how the features of two series of a study are joined, `mean` or `max`; None answers for each series alone.
        selection: output that matters most, and the metric by which the best epoch is chosen, on validation.
    """

    name: str
    label_columns: tuple[str, ...]
    label_classes: Mapping[str, tuple[str, ...]] = {}
    head_sizes: dict[str, int]
    output_names: tuple[str, ...]
    volume_outputs: tuple[str, ...]
    contract: InputContract
    box: str = "head"
    segment_weight: float = 0.0
    join: str | None = None
    selection: tuple[str, str]

    @abstractmethod
    def preprocess(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """A scan -> the network's input (C, *grid) float32, and where it was cut. Nothing random."""

    def preprocess_at(self, scan: Scan, box: FloatBox) -> tuple[Tensor, BoxInfo]:
        """`preprocess`, in a box that another series of the study says, in voxels of this scan; for tasks that join."""
        raise NotImplementedError(f"{self.name} joins no series")

    @abstractmethod
    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        """A row of the joined label table -> (T,) float32 of 0, 1 and NaN."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Losses:
        """(B, T) and (B, T) -> `loss`, which is minimised, and its parts, which are logged."""

    @abstractmethod
    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        """(B, T) -> for each of `output_names` probabilities, (B,) or (B, entries)."""

    def masks(self, labels: pd.DataFrame, table: str | Path) -> Masks | None:
        """The masks that a decoder learns from; None for a task without one.

        Args:
            labels: the joined label table.
            table: its file, beside which the masks lie.

        Raises:
            UserError: where one is missing.
        """
        return Masks(mask_files(labels, table, label=self.label_columns[0])) if self.segment_weight else None

    @property
    def inference_values(self) -> dict[str, Any]:
        """Entries of the bundle's inference config that this task alone has, as plain values."""
        return {}

    @property
    def selected_outputs(self) -> tuple[str, ...]:
        """The outputs whose mean figure chooses the best epoch: that of `selection`, where a task does not say more."""
        return (self.selection[0],)

    def strata(self, labels: pd.DataFrame) -> pd.Series:
        """The class of each study by which classes are balanced: the first label; NaN where it is unknown."""
        return labels[self.label_columns[0]]

    def problems(self, targets: Tensor) -> list[tuple[slice, Tensor]]:
        """What can be learnt of the volume's columns one by one, as a linear probe does: (columns, class of each row).

        Args:
            targets: (N, T).

        Returns:
            For each problem its columns, one for a yes or no and else one a class, and (N,) the row's class, NaN where
            it is unknown. Here each column is a yes or no.
        """
        return [(slice(i, i + 1), targets[:, i]) for i in range(self.head_sizes["volume"] + self.head_sizes["types"])]

    @abstractmethod
    def check_labels(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where the labels of the training patients cannot train this task."""

    @abstractmethod
    def check_validation(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where the best epoch cannot be chosen by the labels of the validation patients."""

    def refuse_validation(self, labels: pd.DataFrame, columns: str) -> None:
        """The error for validation labels of one class."""
        known = labels[list(self.label_columns)].notna().any(axis=1).sum()
        raise UserError(
            f"labels: the {known} labelled validation studies are all of one class in {columns}; the best epoch is "
            f"chosen on them: spread the classes with volssl split --stratify {self.label_columns[0]}, or label more"
        )


def box_of(scan: Scan, contract: InputContract, *, place: str) -> tuple[Tensor, BoxInfo]:
    """The box that a contract describes, cut from a scan: (channels, *grid) float32, and where it was cut.

    Args:
        place: of the box, see `volssl.transforms.scan_box`.

    Raises:
        ValueError: for a scan of another modality.
    """
    if scan.modality != contract.modality:
        raise ValueError(f"{scan.id}: the task reads {contract.modality}, this scan is {scan.modality}")
    r, a, s = (mm * n for mm, n in zip(contract.spacing_mm, contract.grid, strict=True))
    return scan_box(
        scan.read,
        shape=scan.shape,
        spacing_mm=scan.spacing_mm,
        foreground=scan.foreground,
        intensity=scan.intensity,
        modality=scan.modality,
        place=place,
        grid=contract.grid,
        extent_mm=(r, a, s),
        window_hu=contract.windows_hu or None,
    )


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
