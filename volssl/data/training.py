"""The scans of a store that training may see: one side of the split, one modality, all of it or what is labelled.

Nothing here grows with the store but a few columns: a scan is built when it is looked at, and a worker process is sent
keys alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from volssl.data.label_classes import HAS_LABEL
from volssl.data.loader import ViewDataset
from volssl.data.pairs import partners_of
from volssl.data.store import Store, StoredScan
from volssl.errors import UserError
from volssl.progress import say
from volssl.views.base import MODALITIES, PairViews, Views


class TrainingScans(ViewDataset):
    """The volumes of one side of the split, each sample a function of (seed, epoch, index).

    Args:
        store: folder of the store.
        views: turns a scan into tensors; under `pairs`, two scans (`views.pair`).
        seed: of the views.
        split: `train`, or another to evaluate on.
        modality: `CT`, `MR`, or `CT+MR` for both.
        labels: a joined label table; only the volumes in it are used, and for training only those of which a label is
            known.
        fraction: share of the patients to use; the patients of a smaller fraction lie within those of a larger one.
        draw: which of many orders the patients of a fraction are taken in: repeats learn from other patients.
        unique: take one volume of each group of near-duplicates, and for training none of a group that has a part in
            validation or test. None does so for training without labels: a labelled study is never left out.
        preferred: a joined label table: of near-duplicates, one in it is taken before one that is not.
        fold: train on the patients of the other folds, validate on those of this one; the test stays the test.
        pairs: what a sample is made of: `volume`, or two volumes that are `series` of a study, studies of a `patient`,
            or neighbours in `age` (see `volssl.data.pairs`). Both are among the volumes of this data set, so that
            another kernel of the same acquisition is a partner only where `unique` is False.
        age_years: largest difference between neighbours in age.

    Attributes:
        ids: keys of the volumes, sorted.
        patients: keyed hash of each volume's patient.
        strata: (volumes,) index of each one's modality in `MODALITIES`; None where one modality was asked for.
        store: where they lie, and `key_check` tells the key of its hashes.

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
        draw: int = 0,
        unique: bool | None = None,
        preferred: pd.DataFrame | None = None,
        fold: int | None = None,
        pairs: str = "volume",
        age_years: int = 2,
    ) -> None:
        opened = Store.open(store)
        rows = chosen_rows(
            opened,
            split=split,
            modality=modality,
            labels=labels,
            fraction=fraction,
            draw=draw,
            unique=unique,
            preferred=preferred,
            fold=fold,
        )
        self.ids: Sequence[str] = Texts(rows["id"])
        self.patients: Sequence[str] = Texts(rows["patient"])
        self.strata = strata_of(rows["modality"], modality)
        self.store, self.key_check = opened, opened.key_check
        super().__init__(LazyScans(opened, self.ids), views, seed=seed)
        self.partners = partners_of(opened, rows["id"], pairs, age_years=age_years, views=views)

    def look(self, index: int, rng: np.random.RandomState) -> Mapping[str, Tensor]:
        """What the views make of a volume, or of it and its partner; then with `kin` (3,), as `Partners` gives it."""
        if self.partners is None:
            return super().look(index, rng)
        partner = self.partners.partner_of(index, rng)
        views: PairViews = self.views  # type: ignore[assignment]
        return {
            **views.pair(self.scans[index], self.scans[partner], rng),
            "kin": torch.tensor(self.partners.kin(index)),
        }


def chosen_rows(
    store: Store,
    *,
    split: str = "train",
    modality: str = "CT",
    labels: pd.DataFrame | None = None,
    fraction: float = 1.0,
    draw: int = 0,
    unique: bool | None = None,
    preferred: pd.DataFrame | None = None,
    fold: int | None = None,
) -> pa.Table:
    """The rows of the manifest that `TrainingScans` takes, with `id`, `patient`, `modality` and `group`; see there.

    Raises:
        UserError: where nothing is left, or the store has no such fold.
    """
    rows = store.columns("id", "patient", "modality", "group")
    side = sides(store, fold)
    kinds = modalities(modality)
    chosen = equal(side, split) & np.any([equal(rows["modality"], kind) for kind in kinds], axis=0)
    if labels is not None:
        chosen &= within(rows["id"], known_rows(labels) if split == "train" else labels)
    if unique or (unique is None and labels is None and split == "train"):
        nowhere = np.zeros_like(chosen)
        outside = ~equal(side, "train") if split == "train" else nowhere
        chosen = one_of_each(rows, chosen, outside, nowhere if preferred is None else within(rows["id"], preferred))
    if not chosen.any():
        labelled, more = ("labelled ", "label or prepare") if labels is not None else ("", "prepare")
        raise UserError(
            f"{store.path}: no {labelled}{' or '.join(kinds)} volume of a {split} patient; {more} more studies, or "
            "give a split column with `volssl prepare --patients`"
        )
    rows = rows.filter(pa.array(chosen))
    if fraction != 1:
        some = chosen_patients(pc.unique(rows["patient"]).to_pylist(), fraction, draw=draw)
        rows = rows.filter(pc.is_in(rows["patient"], pa.array(sorted(some))))
    return rows


def training_labels(
    store: Store,
    labels: pd.DataFrame,
    *,
    fraction: float = 1.0,
    draw: int = 0,
    fold: int | None = None,
    modality: str = "CT",
) -> pd.DataFrame:
    """The rows of a label table that a training which mixes labels in may look at, and how many they are is said.

    They are those that fine-tuning with this fraction, draw and fold trains on: the same patients, nobody of
    validation or test.

    Args:
        labels: joined to the store by `join_labels`.
        fraction: share of the labelled training patients.
        draw: of the patients of the fraction, as of `TrainingScans`.

    Raises:
        UserError: no training patient has a label.
    """
    rows = chosen_rows(store, modality=modality, labels=labels, fraction=fraction, draw=draw, fold=fold)
    patients = len(pc.unique(rows["patient"]))
    say(f"labels of {len(rows)} volumes of {patients} training patients may be looked at, and no others")
    return labels.loc[rows["id"].to_pylist()]


def modalities(named: str) -> list[str]:
    """`CT`, `MR` or `CT+MR` -> the modalities.

    Raises:
        UserError: for any other.
    """
    kinds = named.split("+")
    if not set(kinds) <= set(MODALITIES):
        raise UserError(f"modality {named}: unknown; choose {', '.join(MODALITIES)} or {'+'.join(MODALITIES)}")
    return kinds


def strata_of(column: pa.ChunkedArray, named: str) -> np.ndarray | None:
    """(volumes,) index of each modality in `MODALITIES`; None where one was asked for."""
    kinds = modalities(named)
    if len(kinds) == 1:
        return None
    strata = np.zeros(len(column), np.uint8)
    for kind in kinds:
        here = equal(column, kind)
        strata[here] = MODALITIES.index(kind)
        if not here.any():
            say(f"no {kind} volume of {named} is there: every batch is of the other modality")
    return strata


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


def one_of_each(rows: pa.Table, chosen: np.ndarray, outside: np.ndarray, preferred: np.ndarray) -> np.ndarray:
    """Keep one of each group of near-duplicates among the chosen volumes, and say how many were left out.

    Args:
        rows: of the manifest, with `id` and `group`.
        chosen: (rows,) bool.
        outside: (rows,) bool: volumes whose groups are left out altogether.
        preferred: (rows,) bool: volumes that are kept before others of their group.

    Returns:
        (rows,) bool: of each group the volume that stands for it, where it was chosen, else the first; of those that
        are preferred, where the group has any.
    """
    group = pc.coalesce(rows["group"], rows["id"])
    stands_for_it = pc.equal(group, rows["id"])
    doubled = pc.unique(group.filter(pc.invert(stands_for_it)))
    places = np.flatnonzero(pc.is_in(group, doubled).to_numpy())
    few = pd.DataFrame({"place": places, "group": group.take(pa.array(places)).to_pylist()})
    few["second"] = ~stands_for_it.to_numpy()[places]
    few["other"] = ~preferred[places]
    leaked = few["group"].isin(few["group"][outside[places]])
    mine = few[chosen[places] & ~leaked].sort_values(["other", "second", "place"])
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


def known_rows(labels: pd.DataFrame) -> pd.DataFrame:
    """The rows of a joined label table of which a label is known; all of a table that does not say."""
    return labels[labels[HAS_LABEL]] if HAS_LABEL in labels else labels


def within(ids: pa.ChunkedArray, labels: pd.DataFrame) -> np.ndarray:
    """(rows,) bool: which volumes a joined label table has a row of."""
    held: np.ndarray = pc.is_in(ids, pa.array(list(labels.index), pa.string())).to_numpy()
    return held


def equal(column: pa.ChunkedArray, value: str) -> np.ndarray:
    """(rows,) bool: where a column holds a value; not where it is null."""
    held: np.ndarray = pc.equal(column, value).fill_null(False).to_numpy()
    return held


def chosen_patients(patients: Iterable[str], fraction: float, *, draw: int = 0) -> set[str]:
    """A fraction of the patients, at least one; fractions of one draw are nested, whatever the volumes.

    The order is that of a hash of the (keyed) patient hash, so that it has nothing to do with the split.

    Raises:
        UserError: where the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction={fraction}: give a share of the training patients, above 0 and at most 1")
    salt = f"fraction {draw}" if draw else "fraction"
    ordered = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{salt}:{patient}".encode()).digest())
    return set(ordered[: math.ceil(fraction * len(ordered))])
