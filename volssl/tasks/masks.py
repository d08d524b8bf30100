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
from volssl.transforms.head_box import BoxInfo
from volssl.transforms.mask_box import mask_box
from volssl.views.base import Scan

MASK = "mask"  # column of the label table: a path relative to the table


class Masks:
    """The masks of scans whose every voxel is known.

    Args:
        files: for the id of each of them, its file, or None where nothing is marked (`mask_files`).
    """

    def __init__(self, files: Mapping[str, Path | None]) -> None:
        self.files = dict(files)
        self.kept: dict[str, np.ndarray] = {}  # of this process: a bit a voxel

    def of(self, scan: Scan, info: BoxInfo) -> Tensor | None:
        """(1, *grid) float32 of 0 and 1 in a box of the scan; None where its voxels are not known.

        Raises:
            UserError: where the mask cannot be read, or lies beside the scan.
        """
        if scan.id not in self.files:
            return None
        path = self.files[scan.id]
        if path is None:
            return torch.zeros(1, *info.grid)
        if scan.id not in self.kept:
            self.kept[scan.id] = np.packbits(read_mask(path, scan, info))
        bits = np.unpackbits(self.kept[scan.id], count=int(np.prod(info.grid)))
        return torch.from_numpy(bits.reshape(1, *info.grid)).float()


def mask_files(labels: pd.DataFrame, table: str | Path, *, label: str) -> dict[str, Path | None]:
    """The mask of each volume that has one, or needs none: a study known to be negative is empty whatever is blank.

    Args:
        labels: the joined label table, indexed by the volume's id.
        table: the label table's file, beside which the masks lie.
        label: column of 0 and 1, whether there is anything to mark.

    Returns:
        For the id of each volume of which every voxel is known, the file, or None for an empty mask.

    Raises:
        UserError: where a file is missing.
    """
    files: dict[str, Path | None] = {}
    for key, row in labels.iterrows():
        name = mask_name(row)
        if row[label] == 0:
            files[str(key)] = None
        elif row[label] == 1 and name:
            files[str(key)] = Path(table).parent / name
    missing = [path for path in files.values() if path is not None and not path.is_file()]
    if missing:
        raise UserError(f"{table}: {len(missing)} masks are not where {MASK} says (first: {missing[0]})")
    return files


def check_masks(labels: pd.DataFrame, label: str, *, instead: str) -> None:
    """Raise a UserError where no positive study of the training patients has a mask.

    Args:
        labels: of the training patients.
        label: column of 0 and 1, whether there is anything to mark.
        instead: what else the user can do.
    """
    if MASK not in labels:
        raise UserError(
            f"labels: no column {MASK}; name a NIfTI file for each positive study, relative to the table, or {instead}"
        )
    positives = labels[labels[label] == 1]
    if not any(mask_name(row) for _, row in positives.iterrows()):
        raise UserError(f"labels: no positive training study has a {MASK}; name one, or {instead}")


def mask_name(row: pd.Series) -> str:
    """What a row of the label table calls its mask; empty where it names none."""
    return row[MASK] if isinstance(row.get(MASK), str) else ""


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
