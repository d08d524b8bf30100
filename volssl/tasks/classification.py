"""Classification of anything: columns of the user's label table, on CT or MR, of a volume and of its slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from volssl.contract import InputContract
from volssl.errors import UserError
from volssl.progress import say
from volssl.tasks.base import Losses, Task, box_of, masked_bce
from volssl.tasks.slices import check_slices, slice_targets
from volssl.tasks.targets import Target, target_of
from volssl.transforms.head_box import BoxInfo, Millimetres, Size
from volssl.transforms.scan_box import PLACES
from volssl.transforms.window import Windows, window_pairs
from volssl.views.base import MODALITIES, Scan

KINDS = ("binary", "multi-label", "multi-class", "ordinal")
LEVELS = ("volume", "slice")
GRID: Size = (96, 96, 64)
SPACING_MM: Millimetres = (3.0, 3.0, 4.0)  # with the grid 288 x 288 x 256 mm: a head, a heart, most of an abdomen
WINDOW_HU = (40.0, 400.0)  # soft tissue


class Classification(Task):
    """One head column for each 0/1 column and each class; a blank label has no gradient.

    Args:
        columns: label columns, the one that matters most first.
        classes: of each column, as texts, the lowest first on a scale; `volssl finetune` tells them from the table.
        kind: `binary`, `multi-label`, `multi-class` or `ordinal`; a column of 0 and 1 is a yes or no in each of them.
        level: `volume`, or `slice` for the presence in each slice beside it, of one column of 0 and 1.
        modality: `CT` or `MR`.
        grid: voxels of the box along R, A, S.
        spacing_mm: of the grid.
        box: `foreground` puts the box about the middle of what is not air; `head` hangs it from a head CT's vertex.
        window_hu: of CT: (center, width), or one such pair for each channel; soft tissue where None.
        class_weights: of a column, what a study of each class counts in the loss; 1 where it is not named.
        slice_weight: of the slices' cross-entropy in the loss.
    """

    name = "classification"

    def __init__(
        self,
        *,
        columns: Sequence[str],
        classes: Mapping[str, Sequence[str]],
        kind: str = "binary",
        level: str = "volume",
        modality: str = "CT",
        grid: Size = GRID,
        spacing_mm: Millimetres = SPACING_MM,
        box: str = "foreground",
        window_hu: Windows | None = None,
        class_weights: Mapping[str, Sequence[float]] | None = None,
        slice_weight: float = 1.0,
    ) -> None:
        for word, value, known in (
            ("kind", kind, KINDS),
            ("level", level, LEVELS),
            ("modality", modality, MODALITIES),
            ("box", box, PLACES),
        ):
            if value not in known:
                raise UserError(f"task::{word}={value}: unknown; choose {', '.join(known)}")
        if modality == "MR" and (window_hu or box == "head"):
            raise UserError("window_hu and box=head are of CT; MR is scaled by its own percentiles: leave them out")
        self.targets_of = _targets(columns, classes, kind, class_weights or {})
        if level == "slice" and [target.kind for target in self.targets_of] != ["binary"]:
            raise UserError("task::level=slice is for one column of 0 and 1; name one with --target")
        self.kind, self.level, self.box, self.slice_weight = kind, level, box, slice_weight
        self.label_columns = tuple(target.name for target in self.targets_of)
        self.label_classes = {target.name: target.classes for target in self.targets_of}
        self.volume_outputs = tuple(name for target in self.targets_of for name in target.outputs)
        slices = int(grid[2]) if level == "slice" else 0
        self.head_sizes = {"volume": len(self.volume_outputs), "types": 0, "slices": slices}
        self.output_names = (*self.volume_outputs, *(("slices",) if slices else ()))
        if len(set(self.output_names)) < len(self.output_names):
            raise UserError(f"two outputs have one name among {', '.join(self.output_names)}: rename a column or class")
        self.selection = (self.volume_outputs[0], "auc")
        self.contract = InputContract(
            modality=modality,
            window_hu=tuple(window_pairs(window_hu or WINDOW_HU)) if modality == "CT" else None,
            spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
            grid=(int(grid[0]), int(grid[1]), int(grid[2])),
        )

    @property
    def selected_outputs(self) -> tuple[str, ...]:
        """All outputs of the volume: no class goes before the others."""
        return self.volume_outputs

    @property
    def inference_values(self) -> dict[str, Any]:
        """Where the box is placed, and how the columns become probabilities, target by target."""
        kinds, sizes = [t.kind for t in self.targets_of], [len(t.outputs) for t in self.targets_of]
        slices = self.head_sizes["slices"]
        return {
            "modality": self.contract.modality,
            "place": self.box,
            "volume": len(self.volume_outputs),
            "kinds": kinds + ["binary"] * bool(slices),
            "sizes": sizes + [slices] * bool(slices),
        }

    def preprocess(self, scan: Scan) -> tuple[Tensor, BoxInfo]:
        """The box of a scan: (channels, *grid) float32 in [0, 1].

        Raises:
            ValueError: for a scan of another modality.
        """
        return box_of(scan, self.contract, place=self.box)

    def targets(self, row: pd.Series, info: BoxInfo) -> Tensor:
        """(T,) of 0, 1 and NaN, from the index of each column's class; slices as `slice_targets` says."""
        values = [value for target in self.targets_of for value in target.encoded(float(row[target.name]))]
        if self.head_sizes["slices"]:
            values += slice_targets(row, info, negative=row[self.label_columns[0]] == 0).tolist()
        return torch.from_numpy(np.array(values, dtype=np.float32))

    def loss(self, logits: Tensor, targets: Tensor) -> Losses:
        """The mean negative log likelihood of all known labels, and for slices their cross-entropy beside it."""
        mine, truths = self.split(logits), self.split(targets)
        sums, counts = zip(
            *(target.loss(mine[target.name], truths[target.name]) for target in self.targets_of), strict=True
        )
        total = torch.stack(sums).sum() / torch.stack(counts).sum().clamp(min=1)
        if not self.head_sizes["slices"]:
            return {"loss": total}
        slices = masked_bce(mine["slices"], truths["slices"])
        parts = {"loss_volume": total.detach(), "loss_slices": slices.detach()}
        return {"loss": total + self.slice_weight * slices} | parts

    def predictions(self, logits: Tensor) -> dict[str, Tensor]:
        """(B, T) -> probabilities: each output of the volume (B,), `slices` (B, grid S)."""
        parts = self.split(logits)
        answer = {
            name: column
            for target in self.targets_of
            for name, column in zip(target.outputs, target.probabilities(parts[target.name]).unbind(dim=1), strict=True)
        }
        return answer | {"slices": torch.sigmoid(parts["slices"].float())} if self.head_sizes["slices"] else answer

    def split(self, columns: Tensor) -> dict[str, Tensor]:
        """(B, T) -> for each label column (B, its outputs), and for slices `slices` (B, grid S).

        Raises:
            ValueError: where T is not the task's.
        """
        sizes = [len(target.outputs) for target in self.targets_of] + [self.head_sizes["slices"]]
        if columns.shape[1] != sum(sizes):
            raise ValueError(f"the task has {sum(sizes)} columns, the tensor {columns.shape[1]}")
        return dict(zip((*self.label_columns, "slices"), torch.split(columns, sizes, dim=1), strict=True))

    def problems(self, targets: Tensor) -> list[tuple[slice, Tensor]]:
        """One problem for a yes or no, one for the classes of a column, and one for each step of a scale."""
        found, first = [], 0
        for target in self.targets_of:
            part = slice(first, first + len(target.outputs))
            found += [
                (slice(part.start + at.start, part.start + at.stop), y) for at, y in target.problems(targets[:, part])
            ]
            first = part.stop
        return found

    def check_labels(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where a column has one class, or slices lack or contradict it; say which class lacks."""
        for target in self.targets_of:
            counts = labels[target.name].value_counts()
            if len(counts) < 2:
                one = f" are all {target.classes[int(counts.index[0])]}" if len(counts) else ""
                raise UserError(
                    f"labels: the {int(counts.sum())} training studies with a label in `{target.name}`{one}; two "
                    "classes are needed to train"
                )
            absent = [name for index, name in enumerate(target.classes) if index not in counts.index]
            if absent:
                say(f"labels: no training study has {target.name} {', '.join(absent)}; it cannot be learnt")
        if self.head_sizes["slices"]:
            check_slices(labels, self.label_columns[0], without="task::level=volume")

    def check_validation(self, labels: pd.DataFrame) -> None:
        """Raise a UserError where no output has both classes among the validation studies."""
        counts = [labels[target.name].nunique() for target in self.targets_of]
        if max(counts) < 2:
            self.refuse_validation(labels, " and ".join(self.label_columns))


def _targets(
    columns: Sequence[str], classes: Mapping[str, Sequence[str]], kind: str, weights: Mapping[str, Sequence[float]]
) -> tuple[Target, ...]:
    """The columns with their classes, checked against the kind."""
    if not columns:
        raise UserError("classification needs label columns and their classes: give volssl finetune --target COLUMN")
    for given, what in ((classes, "classes"), (weights, "class_weights")):
        strange = [name for name in given if name not in columns]
        if strange:
            raise UserError(
                f"task::{what} names {strange[0]}, which is no label column; there are {', '.join(columns)}"
            )
    targets = []
    for name in columns:
        if len(classes.get(name, ())) < 2:
            raise UserError(f"task::classes names no two classes of {name}: volssl finetune --target {name} tells them")
        if len(weights.get(name, classes[name])) != len(classes[name]) or min(weights.get(name, (1.0,))) < 0:
            raise UserError(
                f"task::class_weights: {name} has {len(classes[name])} classes, {', '.join(classes[name])}; give a "
                "weight of at least 0 for each"
            )
        targets.append(target_of(name, classes[name], ordinal=kind == "ordinal", weights=weights.get(name)))
    several = [target.name for target in targets if target.kind != "binary"]
    if kind in ("binary", "multi-label") and (several or (kind == "binary") != (len(targets) == 1)):
        wanted = "one column" if kind == "binary" else "several columns"
        raise UserError(f"task::kind={kind} is for {wanted} of 0 and 1, not for {', '.join(columns)}")
    return tuple(targets)
