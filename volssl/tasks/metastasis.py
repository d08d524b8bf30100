"""Metastasis on brain MR after contrast: each slice, and the study by its highest (Ghesu et al. 2022, section 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from volssl.contract import InputContract
from volssl.errors import UserError
from volssl.tasks.base import Losses, Task, box_of, masked_bce
from volssl.tasks.slices import check_slices, slice_targets
from volssl.transforms.head_box import BoxInfo, Millimetres, Size
from volssl.views.base import Scan

GRID: Size = (128, 160, 56)
SPACING_MM: Millimetres = (1.5, 1.5, 3.0)  # with the grid 192 × 240 × 168 mm: a head, or a brain without its skull


class Metastasis(Task):
    """Columns [metastasis, slices inferior to superior] of a box about the middle of what is not air.

    The study's column is the highest of its slices (`volssl.slabs.with_highest`) and has no loss of its own.

    Args:
        grid: voxels of the box along R, A, S.
        spacing_mm: of the grid.
        positive_weight: what a positive slice counts against a negative one.
    """

    name = "metastasis"
    box = "foreground"
    label_columns = ("metastasis",)
    volume_outputs = ("metastasis",)
    output_names = ("metastasis", "slices")
    selection = ("metastasis", "auc")

    def __init__(
        self, *, grid: Size = GRID, spacing_mm: Millimetres = SPACING_MM, positive_weight: float = 1.0
    ) -> None:
        self.positive_weight = positive_weight
        self.contract = InputContract(
            modality="MR",
            window_hu=None,
            spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
            grid=(int(grid[0]), int(grid[1]), int(grid[2])),
        )
        self.head_sizes = {"volume": 1, "types": 0, "slices": self.contract.grid[2]}

    @property
    def selected_outputs(self) -> tuple[str, ...]:
        """The slices, as in the paper's Figure 8: validation patients are few, their slices many."""
        return ("slices",)

    @property
    def inference_values(self) -> dict[str, Any]:
        """How many columns each output has."""
        return {"sizes": [1, self.contract.grid[2]]}

    def preprocess(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """The box of a scan: (1, *grid) float32, its percentiles .5 and 99.5 brought to 0 and 1.

        Raises:
            ValueError: for a scan that is no MR.
        """
        return box_of(scan, self.contract, place=self.box)

    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        """(1 + S,) of 0, 1 and NaN; slices as `slice_targets` says."""
        slices = slice_targets(row, info, negative=row["metastasis"] == 0)
        return torch.from_numpy(np.array([row["metastasis"], *slices], dtype=np.float32))

    def loss(self, logits: Tensor, targets: Tensor) -> Losses:
        """Mean cross-entropy of the slices that are known and scored; a NaN among the logits has no gradient."""
        slices, known = logits[:, 1:], targets[:, 1:]
        scored = ~torch.isnan(slices)
        loss = masked_bce(
            torch.where(scored, slices, 0.0),
            torch.where(scored, known, torch.nan),
            positive_weight=self.positive_weight,
        )
        return {"loss": loss}

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        """(B, 1 + S) -> probabilities: `metastasis` (B,), `slices` (B, S)."""
        values = torch.sigmoid(logits.float())
        return {"metastasis": values[:, 0], "slices": values[:, 1:]}

    def check_labels(self, labels: pd.DataFrame) -> None:
        """Raise a UserError for training labels that are not 0 or 1, of one class, or without slices."""
        known = labels["metastasis"].dropna()
        strange = known[~known.isin((0, 1))]
        if len(strange):
            raise UserError(f"labels: metastasis holds {strange.iloc[0]:g}; write 0, 1, or leave it blank")
        if known.nunique() < 2:
            raise UserError(
                f"labels: the {len(known)} training studies with a label in `metastasis` are all of one class; both "
                "are needed to train"
            )
        check_slices(labels, "metastasis")

    def check_validation(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where `metastasis` is of one class among the validation studies, or no slice is known."""
        if labels["metastasis"].nunique() < 2:
            self.refuse_validation(labels, "metastasis")
        check_slices(labels, "metastasis", whose="validation study, by whose slices the best epoch is chosen,")
