"""Positive pairs by metadata: series of a study, studies of a patient, neighbours in age (Vu et al. 2021, MedAug).

Nothing here holds a list a volume: who may be paired with whom is a range of one order of all samples, so that a
million volumes take 24 MB.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from volssl.data.store import Store
from volssl.errors import UserError
from volssl.progress import say
from volssl.views.base import PairViews, Views

PAIRS = {
    "volume": "two crops of one volume",
    "series": "another series of the study",
    "patient": "another study of the patient",
    "age": "a neighbour in age, of the same sex",
}
COLUMNS = ("id", "modality", "study", "patient", "sex", "age_years")  # of the manifest


class Partners:
    """Who may be paired with whom, among the samples alone, and within one modality.

    `series` pairs a volume with the others of its study; `patient` with those of the patient's other studies; `age`
    with those at most `age_years` older or younger and of the same sex (unknown is a sex of its own): a head differs by
    sex in size and bone, and who is pulled together should differ in what does not matter. Who has no such partner, or
    whose age is unknown, is his own.

    Args:
        rows: the samples' rows of the manifest, with `COLUMNS`.
        kind: one of `PAIRS`, but `volume`.
        age_years: largest difference in age, whole years.

    Attributes:
        paired: how many samples have a partner.
    """

    def __init__(self, rows: pa.Table, kind: str, *, age_years: int = 2) -> None:
        modality, study, patient, sex = (codes(rows[name]) for name in ("modality", "study", "patient", "sex"))
        n = len(modality)
        if kind == "series":
            self.order = np.lexsort((study, modality))
            wide = runs(modality[self.order], study[self.order])
            own = np.arange(n), np.arange(n) + 1
        elif kind == "patient":
            self.order = np.lexsort((study, patient, modality))
            m, p, s = (column[self.order] for column in (modality, patient, study))
            wide, own = runs(m, p), runs(m, p, s)
        elif kind == "age":
            age = pc.cast(rows["age_years"], pa.int64()).fill_null(-1).to_numpy()
            self.order = np.lexsort((age, sex, modality))
            wide = neighbours(runs(modality[self.order], sex[self.order]), age[self.order], age_years)
            own = np.arange(n), np.arange(n) + 1
        else:
            raise ValueError(f"pairs {kind}: unknown; there are {', '.join(PAIRS)}")
        self.place = np.empty(n, np.int32)
        self.place[self.order] = np.arange(n)
        self.order = self.order.astype(np.int32)
        self.first, self.last = (edge[self.place].astype(np.int32) for edge in wide)  # last is one behind, as ever
        self.own_first, self.own_last = (edge[self.place].astype(np.int32) for edge in own)
        others = (self.last - self.first) - (self.own_last - self.own_first)
        self.paired = int((others > 0).sum())

    def partner_of(self, index: int, rng: np.random.RandomState) -> int:
        """A partner, each as likely; the sample itself where it has none. One number is drawn in any case."""
        drawn = rng.uniform()
        first, own_first, own_last = (int(edge[index]) for edge in (self.first, self.own_first, self.own_last))
        others = int(self.last[index]) - first - (own_last - own_first)
        if others <= 0:
            return index
        place = first + int(drawn * others)
        return int(self.order[place if place < own_first else place + own_last - own_first])

    def kin(self, index: int) -> tuple[int, int, int]:
        """The sample's place in the order, and the range of places of who is as near to it as its partners are."""
        return int(self.place[index]), int(self.first[index]), int(self.last[index])


def partners_of(store: Store, ids: pa.ChunkedArray, pairs: str, *, age_years: int, views: Views) -> Partners | None:
    """Who is paired with whom, None for crops of one volume; says how many have a partner.

    Raises:
        UserError: no volume has one, there is no such pairing, or the views make nothing of two volumes.
    """
    if pairs == "volume":
        return None
    if pairs not in PAIRS:
        raise UserError(f"pairs={pairs}: unknown; choose one of {', '.join(PAIRS)}")
    if not isinstance(views, PairViews):
        raise UserError(f"pairs={pairs}: {type(views).__name__} looks at one volume at a time; leave pairs=volume")
    rows = store.columns(*COLUMNS)
    partners = Partners(rows.filter(pc.is_in(rows["id"], ids)), pairs, age_years=age_years)
    if not partners.paired:
        raise UserError(f"{store.path}: no volume has {PAIRS[pairs]} to be paired with; take another `pairs`")
    say(f"{partners.paired} of {len(ids)} volumes have {PAIRS[pairs]} to be paired with; the others make two crops")
    return partners


def codes(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) whole numbers, equal where the texts are; unknown is a text of its own."""
    encoded = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
    numbers: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False)
    return numbers


def runs(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First place, and the one behind the last, of the run of equal rows that each row of sorted columns lies in."""
    n = len(columns[0])
    starts = np.ones(n, bool)
    if n:
        starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    first = np.flatnonzero(starts)
    last = np.append(first[1:], n)
    run = np.cumsum(starts) - 1
    return first[run], last[run]


def neighbours(bounds: tuple[np.ndarray, np.ndarray], age: np.ndarray, age_years: int) -> tuple[np.ndarray, np.ndarray]:
    """The places within `age_years` of each age, inside of its run; a row of unknown age (-1) alone.

    Args:
        bounds: of the run that each row lies in, by `runs`.
        age: (rows,) sorted within each run.
    """
    span = int(age.max(initial=0)) + age_years + 1  # so far apart that no window reaches the next run
    key = bounds[0].astype(np.int64) * 2 * span + age
    places = np.arange(len(age))
    unknown = age < 0
    lowest = np.maximum(age - age_years, 0) - age  # an unknown age is nobody's neighbour
    first = np.where(unknown, places, np.searchsorted(key, key + lowest, side="left"))
    last = np.where(unknown, places + 1, np.searchsorted(key, key + age_years, side="right"))
    return first, last
