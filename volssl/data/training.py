"""The scans of a store that training may see: one split, one modality, all of it or only what is labelled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from volssl.data.loader import ViewDataset
from volssl.data.store import Store, StoredScan
from volssl.errors import UserError
from volssl.views.base import Views


class TrainingScans(ViewDataset):
    """The volumes of a split, each sample a function of (seed, epoch, index).

    Args:
        store: folder of the store.
        views: turns a scan into tensors.
        seed: of the views.
        split: `train`, or another to evaluate on.
        modality: `CT` or `MR`.
        labels: a joined label table; only the volumes in it are used.
        fraction: share of the patients to use; the patients of a smaller fraction lie within those of a larger one.

    Attributes:
        ids: keys of the volumes, sorted.
        patients: keyed hash of each volume's patient.

    Raises:
        UserError: where nothing is left.
    """

    def __init__(
        self,
        store: str | Path,
        *,
        views: Views,
        seed: int = 0,
        split: str = "train",
        modality: str = "CT",
        labels: pd.DataFrame | None = None,
        fraction: float = 1.0,
    ) -> None:
        opened = Store.open(store)
        rows = opened.rows.select(["id", "patient", "split", "modality"]).to_pandas()
        rows = rows[(rows["split"] == split) & (rows["modality"] == modality)].sort_values("id")
        if labels is not None:
            rows = rows[rows["id"].isin(labels.index)]
        if rows.empty:
            labelled = "labelled " if labels is not None else ""
            raise UserError(
                f"{store}: no {labelled}{modality} volume of a {split} patient; prepare more studies, or give a split "
                "column with `volssl prepare --patients`"
            )
        rows = rows[rows["patient"].isin(chosen_patients(rows["patient"], fraction))]
        scans: list[StoredScan] = [opened.scan(volume_id) for volume_id in rows["id"]]
        super().__init__(scans, views, seed=seed)
        self.ids: list[str] = list(rows["id"])
        self.patients: list[str] = list(rows["patient"])


class ScanViews:
    """Views of scans in order, drawn once with a fixed seed: for evaluation.

    Args:
        scans: to look at.
        views: applied with the generator of the scan's place in the sequence.
    """

    def __init__(self, scans: Sequence[StoredScan], views: Views) -> None:
        self.scans, self.views = scans, views

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.views(self.scans[index], np.random.RandomState(index))


def chosen_patients(patients: Iterable[str], fraction: float) -> set[str]:
    """A fraction of the patients, at least one; fractions are nested, whatever the volumes.

    The order is that of a hash of the (keyed) patient hash, so that it has nothing to do with the split.

    Raises:
        ValueError: where the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction lies above 0 and at most at 1, not at {fraction}")
    ordered = sorted(set(patients), key=lambda patient: hashlib.sha256(f"fraction:{patient}".encode()).digest())
    return set(ordered[: math.ceil(fraction * len(ordered))])


def refuse_seen(
    store: str | Path, ids: Iterable[str], seen: Iterable[str], *, splits: Sequence[str] = ("validation", "test")
) -> None:
    """Raise a UserError where the volumes hold a patient of these splits whom training has seen."""
    rows = Store.open(store).rows.select(["id", "patient", "split"]).to_pandas()
    rows = rows[rows["id"].isin(list(ids)) & rows["split"].isin(list(splits))]
    known = sorted(set(rows["patient"]) & set(seen))
    if known:
        raise UserError(
            f"{store}: {len(known)} patients of {' and '.join(splits)} were seen in training (first: {known[0]}); what "
            "they would show is no evidence. Use another encoder, or a store with the splits it was trained with"
        )
