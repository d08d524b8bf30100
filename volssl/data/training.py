"""The scans of a store that training may see: one side of the split, one modality, all of it or what is labelled.

Nothing here grows with the store but a few columns: a scan is built when it is looked at, and a worker process is sent
keys alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from volssl.data.loader import ViewDataset
from volssl.data.store import Store, StoredScan
from volssl.errors import UserError
from volssl.progress import say
from volssl.views.base import Views


class TrainingScans(ViewDataset):
    """The volumes of one side of the split, each sample a function of (seed, epoch, index).

    Args:
        store: folder of the store.
        views: turns a scan into tensors.
        seed: of the views.
        split: `train`, or another to evaluate on.
        modality: `CT` or `MR`.
        labels: a joined label table; only the volumes in it are used.
        fraction: share of the patients to use; the patients of a smaller fraction lie within those of a larger one.
        unique: take one volume of each group of near-duplicates, and for training none of a group that has a part in
            validation or test. None does so for training without labels: a labelled study is never left out.
        fold: train on the patients of the other folds, validate on those of this one; the test stays the test.

    Attributes:
        ids: keys of the volumes, sorted.
        patients: keyed hash of each volume's patient.

    Raises:
        UserError: where nothing is left, or the store has no such fold.
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
        unique: bool | None = None,
        fold: int | None = None,
    ) -> None:
        opened = Store.open(store)
        rows = opened.columns("id", "patient", "modality", "group")
        side = sides(opened, fold)
        chosen = equal(side, split) & equal(rows["modality"], modality)
        if labels is not None:
            chosen &= pc.is_in(rows["id"], pa.array(list(labels.index), pa.string())).to_numpy()
        if unique or (unique is None and labels is None and split == "train"):
            chosen = one_of_each(rows, chosen, ~equal(side, "train") if split == "train" else np.zeros_like(chosen))
        if not chosen.any():
            labelled = "labelled " if labels is not None else ""
            raise UserError(
                f"{store}: no {labelled}{modality} volume of a {split} patient; prepare more studies, or give a split "
                "column with `volssl prepare --patients`"
            )
        rows = rows.filter(pa.array(chosen))
        if fraction != 1:
            within = chosen_patients(pc.unique(rows["patient"]).to_pylist(), fraction)
            rows = rows.filter(pc.is_in(rows["patient"], pa.array(sorted(within))))
        self.ids: Sequence[str] = Texts(rows["id"])
        self.patients: Sequence[str] = Texts(rows["patient"])
        super().__init__(LazyScans(opened, self.ids), views, seed=seed)


class LazyScans(Sequence[StoredScan]):
    """Scans of a store, each built when it is asked for."""

    def __init__(self, store: Store, ids: Sequence[str]) -> None:
        self.store, self.ids = store, ids

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> StoredScan: ...
    @overload
    def __getitem__(self, index: slice) -> LazyScans: ...
    def __getitem__(self, index: int | slice) -> StoredScan | LazyScans:
        if isinstance(index, slice):
            return LazyScans(self.store, self.ids[index])
        return self.store.scan(self.ids[index])


class Texts(Sequence[str]):
    """Texts in one block of memory: a million keys take 28 MB, where a list of them takes 80."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = pa.concat_arrays(column.chunks)

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self.column[index].to_pylist())
        return str(self.column[index])

    def __iter__(self) -> Iterator[str]:
        return iter(self.column.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def sides(store: Store, fold: int | None = None) -> pa.ChunkedArray:
    """What each volume of a store is for, in the order of its rows: its split, or what a fold makes of it.

    Raises:
        UserError: the store has no such fold.
    """
    rows = store.columns("split", "fold")
    if fold is None:
        return rows["split"]
    test = pc.equal(rows["split"], "test")
    last = pc.max(rows["fold"]).as_py()
    if last is None or not 0 <= fold <= last:
        there = "no folds" if last is None else f"the folds 0 to {last}"
        raise UserError(f"{store.path} has {there}, not fold {fold}: `volssl split {store.path} --folds K` draws K")
    without = pc.sum(pc.and_(pc.is_null(rows["fold"]), pc.invert(test))).as_py()
    if without:
        raise UserError(f"{store.path}: {without} volumes have no fold: `volssl split {store.path} --folds {last + 1}`")
    return pc.if_else(test, "test", pc.if_else(pc.equal(rows["fold"], fold), "validation", "train"))


def one_of_each(rows: pa.Table, chosen: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Keep one of each group of near-duplicates among the chosen volumes, and say how many were left out.

    Args:
        rows: of the manifest, with `id` and `group`.
        chosen: (rows,) bool.
        outside: (rows,) bool: volumes whose groups are left out altogether.

    Returns:
        (rows,) bool: of each group the volume that stands for it, where it was chosen, else the first.
    """
    group = pc.coalesce(rows["group"], rows["id"])
    stands_for_it = pc.equal(group, rows["id"])
    doubled = pc.unique(group.filter(pc.invert(stands_for_it)))
    places = np.flatnonzero(pc.is_in(group, doubled).to_numpy())
    few = pd.DataFrame({"place": places, "group": group.take(pa.array(places)).to_pylist()})
    few["second"] = ~stands_for_it.to_numpy()[places]
    leaked = few["group"].isin(few["group"][outside[places]])
    mine = few[chosen[places] & ~leaked].sort_values(["second", "place"])
    kept = chosen.copy()
    kept[places] = False
    kept[mine.drop_duplicates("group")["place"]] = True
    left_out = int(chosen.sum() - kept.sum())
    if left_out:
        elsewhere = int((chosen[places] & leaked.to_numpy()).sum())
        say(
            f"{left_out} of {int(chosen.sum())} volumes are near-duplicates and left out: {left_out - elsewhere} of "
            f"one that stays, {elsewhere} of one in validation or test"
        )
    return kept


def equal(column: pa.ChunkedArray, value: str) -> np.ndarray:
    """(rows,) bool: where a column holds a value; not where it is null."""
    held: np.ndarray = pc.equal(column, value).fill_null(False).to_numpy()
    return held


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
    store: str | Path,
    ids: Iterable[str],
    seen: Iterable[str],
    *,
    splits: Sequence[str] = ("validation", "test"),
    fold: int | None = None,
) -> None:
    """Raise a UserError where the volumes hold a patient of these sides whom training has seen."""
    opened = Store.open(store)
    rows = opened.columns("id", "patient").to_pandas()
    rows["side"] = sides(opened, fold).to_pandas()
    rows = rows[rows["id"].isin(list(ids)) & rows["side"].isin(list(splits))]
    known = sorted(set(rows["patient"]) & set(seen))
    if known:
        raise UserError(
            f"{store}: {len(known)} patients of {' and '.join(splits)} were seen in training (first: {known[0]}); what "
            "they would show is no evidence. Use another encoder, or a store with the splits it was trained with"
        )
