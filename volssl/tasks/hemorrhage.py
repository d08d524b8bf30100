"""Hemorrhage on head CT: the volume, its five types, and presence in each slice (Ghesu et al. 2022, section 4.5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from volssl.contract import InputContract
from volssl.errors import UserError
from volssl.tasks.base import Losses, Task, masked_bce
from volssl.tasks.masks import check_masks
from volssl.tasks.series import JOINS
from volssl.tasks.slices import check_slices, slice_targets
from volssl.transforms.head_box import (
    BLOOD_WINDOW_HU,
    EXTENT_MM,
    PAPER_GRID,
    BoxInfo,
    Millimetres,
    Size,
    cut_box,
    head_box,
)
from volssl.transforms.resample import FloatBox
from volssl.transforms.window import Windows, window_pairs
from volssl.views.base import Scan

TYPES = ("subarachnoid", "subdural", "epidural", "intraventricular", "intraparenchymal")


class Hemorrhage(Task):
    """The paper's multi-task head over the head box: columns [hemorrhage, 5 types, slices inferior to superior].

    Rows of the paper's Table 5 are `types=False, slices=False`, then `slices=False`, then both.

    Args:
        grid: voxels of the head box along R, A, S; the paper's by default.
        extent_mm: of the head box; the paper names none, this one holds an adult's skull.
        window_hu: (center, width), or one such pair for each channel.
        types: whether the five types are learnt beside the volume's label.
        slices: whether presence in each slice is.
        weights: of the volume's, the types' and the slices' mean cross-entropy in the loss; the paper names none.
        positive_weights: what a positive label of each counts against a negative one.
        segment: whether a light decoder over the encoder's pyramid learns to mark the blood beside it, from the scans
            that have a mask. It shapes the encoder, and answers nothing.
        segment_weight: of its Dice and cross-entropy in the loss; the paper, which has such a head, names none.
        join: `mean` or `max` of the pooled features of an axial and a coronal series of a study, where it has both;
            None answers for each series alone. The paper joins them and does not say how.

    Raises:
        UserError: for another way to join.
    """

    name = "hemorrhage"
    selection = ("hemorrhage", "auc")

    def __init__(
        self,
        *,
        grid: Size = PAPER_GRID,
        extent_mm: Millimetres = EXTENT_MM,
        window_hu: Windows = BLOOD_WINDOW_HU,
        types: bool = True,
        slices: bool = True,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        positive_weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        segment: bool = False,
        segment_weight: float = 1.0,
        join: str | None = None,
    ) -> None:
        if join is not None and join not in JOINS:
            raise UserError(f"task::join={join}: unknown; choose {' or '.join(JOINS)}, or leave it out")
        self.grid: Size = (int(grid[0]), int(grid[1]), int(grid[2]))
        self.extent_mm: Millimetres = (float(extent_mm[0]), float(extent_mm[1]), float(extent_mm[2]))
        self.types = TYPES if types else ()
        self.weights, self.positive_weights = tuple(weights), tuple(positive_weights)
        self.segment_weight, self.join = float(segment_weight) if segment else 0.0, join
        self.head_sizes = {"volume": 1, "types": len(self.types), "slices": self.grid[2] if slices else 0}
        self.label_columns = ("hemorrhage", *self.types)
        self.volume_outputs = ("hemorrhage",)
        self.output_names = ("hemorrhage", *self.types, *(("slices",) if slices else ()))
        spacing = [mm / n for mm, n in zip(self.extent_mm, self.grid, strict=True)]
        self.contract = InputContract(
            modality="CT",
            window_hu=tuple(window_pairs(window_hu)),
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
            grid=self.grid,
        )

    @property
    def inference_values(self) -> dict[str, Any]:
        """How many types the network answers for, and how it joins series."""
        return {"types": len(self.types), "join": self.join or ""}

    def preprocess(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """The head box of a scan: (channels, *grid) float32 in [0, 1].

        Raises:
            ValueError: for a scan that is no CT.
        """
        if scan.modality != "CT":
            raise ValueError(f"{scan.id}: hemorrhage is read from CT, this scan is {scan.modality}")
        return head_box(
            scan.read(), scan.spacing_mm, grid=self.grid, extent_mm=self.extent_mm, window_hu=self.contract.windows_hu
        )

    def preprocess_at(self, scan: Scan, box: FloatBox) -> tuple[Tensor, BoxInfo]:
        """A given box of a scan, as `preprocess` makes that of its head."""
        info = BoxInfo(box, self.grid, scan.shape, scan.spacing_mm)
        return cut_box(scan.read(), box, self.grid, self.contract.windows_hu), info

    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        """(T,) of 0, 1 and NaN. A volume known to be negative is negative in every type and slice, whatever is blank.

        Slices of a positive volume without a slice label are unknown (`slice_targets`).
        """
        negative = row["hemorrhage"] == 0
        volume = [row["hemorrhage"], *(0.0 if negative and pd.isna(row[name]) else row[name] for name in self.types)]
        slices = slice_targets(row, info, negative=negative) if self.head_sizes["slices"] else ()
        return torch.from_numpy(np.array([*volume, *slices], dtype=np.float32))

    def loss(self, logits: Tensor, targets: Tensor) -> Losses:
        """Weighted sum of the groups' masked cross-entropies, `loss`; its parts are `loss_volume` and so on."""
        groups = zip(self.split(logits).items(), self.split(targets).values(), self.positive_weights, strict=True)
        parts = {name: masked_bce(mine, truth, positive_weight=weight) for (name, mine), truth, weight in groups}
        total = sum((w * part for w, part in zip(self.weights, parts.values(), strict=True)), torch.zeros(()))
        return {"loss": total} | {f"loss_{name}": parts[name].detach() for name, n in self.head_sizes.items() if n}

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        """(B, T) -> probabilities: `hemorrhage` and each type (B,), `slices` (B, grid S)."""
        groups = self.split(torch.sigmoid(logits.float()))
        singles = torch.cat([groups["volume"], groups["types"]], dim=1).unbind(dim=1)
        answer = dict(zip(self.label_columns, singles, strict=True))
        return answer | {"slices": groups["slices"]} if self.head_sizes["slices"] else answer

    def split(self, columns: Tensor) -> dict[str, Tensor]:
        """(B, T) -> `volume` (B, 1), `types` (B, 5 or 0), `slices` (B, grid S or 0).

        Raises:
            ValueError: where T is not the task's.
        """
        sizes = list(self.head_sizes.values())
        if columns.shape[1] != sum(sizes):
            raise ValueError(f"the task has {sum(sizes)} columns, the tensor {columns.shape[1]}")
        return dict(zip(self.head_sizes, torch.split(columns, sizes, dim=1), strict=True))

    def check_labels(self, labels: pd.DataFrame) -> None:
        """Raise a UserError for training labels that are not 0 or 1, of one class, at odds, or without any slice."""
        for column in self.label_columns:
            strange = labels[column].dropna().loc[lambda known: ~known.isin((0, 1))]
            if len(strange):
                raise UserError(f"labels: {column} holds {strange.iloc[0]}; write 0, 1, or leave it blank")
        counts = labels["hemorrhage"].value_counts()
        if len(counts) < 2:
            raise UserError(
                f"labels: the {int(counts.sum())} training studies with a label in `hemorrhage` are all of one class; "
                "both are needed to train"
            )
        negatives = labels[labels["hemorrhage"] == 0]
        for name in self.types:
            if (negatives[name] == 1).any():
                raise UserError(f"labels: {int((negatives[name] == 1).sum())} studies with hemorrhage 0 have {name} 1")
        if self.head_sizes["slices"]:
            check_slices(labels, "hemorrhage", without="task::slices=false")
        if self.segment_weight:
            check_masks(labels, "hemorrhage", instead="leave task::segment out")

    def check_validation(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where `hemorrhage` is of one class among the validation studies."""
        if labels["hemorrhage"].nunique() < 2:
            self.refuse_validation(labels, "hemorrhage")
