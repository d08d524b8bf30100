"""Masks beside a label table: its column `mask` names a file each; they are read to train, and never written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from volssl.errors import UserError
from volssl.tasks.views import TaskViews
from volssl.transforms.head_box import BoxInfo
from volssl.transforms.intensity import adjust
from volssl.transforms.mask_box import mask_box
from volssl.views.base import Scan

MASK = "mask"  # column of the label table: a path relative to the table


def mask_files(labels: pd.DataFrame, table: str | Path, *, label: str) -> dict[str, Path | None]:
    """The mask of each volume that has one, or needs none: a study known to be negative is empty whatever is blank.

    Args:
        labels: the joined label table, indexed by the volume's id.
        table: the label table's file, beside which the masks lie.
        label: column of 0 and 1, whether there is anything to mark.

    Returns:
        For the id of each volume of which every voxel is known, the file, or None for an empty mask.

    Raises:
        UserError: without the column, without a mask for any positive study, or where a file is missing.
    """
    if MASK not in labels:
        raise UserError(
            f"{table}: no column {MASK}; name a NIfTI file for each positive study, relative to the table, or take "
            "over the first stage of another run: suspects_path=RUN"
        )
    files: dict[str, Path | None] = {}
    for key, row in labels.iterrows():
        name = row[MASK] if isinstance(row[MASK], str) else ""
        if row[label] == 0:
            files[str(key)] = None
        elif row[label] == 1 and name:
            files[str(key)] = Path(table).parent / name
    missing = [path for path in files.values() if path is not None and not path.is_file()]
    if missing:
        raise UserError(f"{table}: {len(missing)} masks are not where {MASK} says (first: {missing[0]})")
    if not any(files.values()):
        raise UserError(f"{table}: no positive training study has a {MASK}; suspects cannot be learnt")
    return files


class MaskViews:
    """Turns a scan into `image` (C, *grid) and `mask` (1, *grid), changed alike while training.

    Args:
        views: of the task; they preprocess the scan and draw the changes.
        files: from `mask_files`.
    """

    def __init__(self, views: TaskViews, files: Mapping[str, Path | None]) -> None:
        self.views, self.files = views, dict(files)
        self.kept: dict[str, Tensor] = {}  # of this process: a byte a voxel

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        """One scan -> its tensors, float32.

        Raises:
            UserError: where the mask cannot be read, or lies beside the scan.
        """
        image, info = self.views.preprocessed(scan)
        mask = self.mask(scan, info).float()
        if self.views.train:
            place, intensity = self.views.draw(rng)
            image, mask = adjust(place(image), **intensity), (place(mask) > 0.5).float()
        return {"image": image, "mask": mask}

    def mask(self, scan: Scan, info: BoxInfo) -> Tensor:
        """(1, *grid) uint8 of 0 and 1."""
        if scan.id not in self.kept:
            path = self.files[scan.id]
            found = np.zeros(info.grid, bool) if path is None else read_mask(path, scan, info)
            self.kept[scan.id] = torch.from_numpy(found[None].astype(np.uint8))
        return self.kept[scan.id]


def read_mask(path: Path, scan: Scan, info: BoxInfo) -> np.ndarray:
    """What is above 0 in a NIfTI file, on the grid of a box of the scan.

    Raises:
        UserError: where the file is no volume, or lies beside the scan.
    """
    try:
        image = nibabel.load(path)
        marked = np.asanyarray(image.dataobj) > 0
        return mask_box(marked, image.affine, scan_affine=scan.affine, info=info)
    except (ImageFileError, OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not a mask of its scan ({str(error).splitlines()[0]})") from error
