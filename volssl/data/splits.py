"""Training, validation, test and folds, by patient, from a keyed hash: adding data moves nobody."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volssl.data.manifest import Row
from volssl.data.store import STORE_RECORD
from volssl.data.volume import PATIENT_UNKNOWN
from volssl.errors import UserError

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.15, 0.15)

Draw = Callable[[Sequence[str], Mapping[str, Any]], Mapping[str, Any]]  # (persons due, sides taken) -> sides


class TwoSidesError(UserError):
    """A patient on two sides of the split: what a network saw in training would be asked in the test."""

    def __init__(self, patient: str, sides: Sequence[Any], column: str) -> None:
        where = " and ".join(map(str, sides))
        super().__init__(f"the patient {patient} is on two sides of the split ({column} {where})")
        self.patient = patient


@dataclass(frozen=True)
class SplitPlan:
    """How a store's patients are parted; `store.json` keeps it under `splits`.

    Attributes:
        fractions: of train, validation and test, of the patients.
        folds: parts of the patients who are not test; None where there are none.
        stratify: the labels by which the last draw was balanced.

    Raises:
        UserError: fractions that are no three shares of a whole, or fewer than two folds.
    """

    fractions: tuple[float, float, float] = FRACTIONS
    folds: int | None = None
    stratify: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = " ".join(map(str, self.fractions))
        if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(f"the fractions {given} are no shares of train, validation and test: three that sum to 1")
        if self.folds is not None and self.folds < 2:
            raise UserError(f"{self.folds} folds part nothing: give two or more")

    def as_dict(self) -> dict[str, Any]:
        """The same for `store.json`."""
        return {"fractions": list(self.fractions), "folds": self.folds, "stratify": list(self.stratify)}


def read_split_plan(store: Path) -> SplitPlan:
    """The plan that a store keeps; the default one where it keeps none."""
    record = store / STORE_RECORD
    kept = json.loads(record.read_text()).get("splits") if record.exists() else None
    if not kept:
        return SplitPlan()
    train, validation, test = kept["fractions"]
    return SplitPlan((train, validation, test), kept["folds"], tuple(kept["stratify"]))


def split_of(patient: str, key: bytes, fractions: tuple[float, float, float] = FRACTIONS) -> str:
    """The split a patient falls into, a function of the arguments and of nothing else.

    Args:
        patient: the patient's keyed hash.
        fractions: of train, validation and test; they sum to one.
    """
    if abs(sum(fractions) - 1) > 1e-6 or min(fractions) < 0:
        raise ValueError(f"the fractions {fractions} do not sum to one")
    drawn = drawn_number(patient, key, "split")
    if drawn < fractions[0]:
        return "train"
    return "validation" if drawn < fractions[0] + fractions[1] else "test"


def fold_of(patient: str, key: bytes, folds: int) -> int:
    """The fold a patient falls into, a function of the arguments and of nothing else."""
    return int(drawn_number(patient, key, "fold") * folds)


def drawn_number(patient: str, key: bytes, kind: str) -> float:
    """A number in [0, 1) that belongs to the patient; draws of two kinds have nothing to do with each other."""
    return int.from_bytes(hmac.new(key, f"{kind}\0{patient}".encode(), hashlib.sha256).digest()[:8], "big") / 2**64


def settle(rows: Sequence[Row], people: Mapping[str, str], plan: SplitPlan, split: Draw, fold: Draw) -> None:
    """Give every row a split, and where the plan has folds a fold: the one its patient has, else one drawn.

    Args:
        rows: of a manifest; changed in place.
        people: the person of each patient, as `same_person` tells.
        split, fold: draw the sides of persons who have none yet.

    Raises:
        TwoSidesError: the rows put a patient on two sides.
    """
    _place(rows, "split", people, SPLITS.index, split)
    for row in rows:
        row["fold"] = None if row["split"] == "test" else row["fold"]
    if plan.folds is not None:
        _place([row for row in rows if row["split"] != "test"], "fold", people, int, fold)


def by_hash(key: bytes, plan: SplitPlan) -> tuple[Draw, Draw]:
    """The draws of split and fold that look at the patient alone."""

    def split(due: Sequence[str], _taken: Mapping[str, Any]) -> Mapping[str, Any]:
        return {person: split_of(person, key, plan.fractions) for person in due}

    def fold(due: Sequence[str], _taken: Mapping[str, Any]) -> Mapping[str, Any]:
        return {person: fold_of(person, key, plan.folds or 1) for person in due}

    return split, fold


def one_side(rows: Sequence[Row], column: str) -> dict[str, Any]:
    """The split or fold of each patient who has one.

    Raises:
        TwoSidesError: a patient has two.
    """
    sides: dict[str, Any] = {}
    for row in rows:
        side = row[column]
        if side is not None and sides.setdefault(row["patient"], side) != side:
            raise TwoSidesError(row["patient"], sorted({sides[row["patient"]], side}), column)
    return sides


def same_person(rows: Sequence[Row]) -> dict[str, str]:
    """The person of each patient: patients are one where near-duplicates join them and one of them is unknown.

    An acquisition that was exported twice, once without its patient, would else be trained on and tested on. Two named
    patients stay two: then the grouping, or the archive, is in doubt, and `volssl split` tells of it.

    Returns:
        Patient to person; a person is called by the first of its named patients, or of all where none is named.
    """
    person = {row["patient"]: row["patient"] for row in rows}
    unknown = {row["patient"] for row in rows if PATIENT_UNKNOWN in row["notes"]}
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["group"] or row["id"], set()).add(row["patient"])

    def first(patient: str) -> str:
        while person[patient] != patient:
            person[patient] = person[person[patient]]
            patient = person[patient]
        return patient

    for patients in groups.values():
        if len(patients) > 1 and patients & unknown:
            heads = sorted({first(patient) for patient in patients}, key=lambda head: (head in unknown, head))
            person.update(dict.fromkeys(heads, heads[0]))
    return {patient: first(patient) for patient in person}


def _place(
    rows: Sequence[Row], column: str, people: Mapping[str, str], order: Callable[[Any], int], draw: Draw
) -> None:
    settled = one_side(rows, column)
    taken: dict[str, Any] = {}
    for patient in sorted(settled, key=lambda patient: order(settled[patient])):
        taken.setdefault(people[patient], settled[patient])  # training where a person has two: it leaves such out
    due = sorted({people[row["patient"]] for row in rows} - taken.keys())
    sides = taken | dict(draw(due, taken))
    for row in rows:
        row[column] = settled.get(row["patient"], sides[people[row["patient"]]])
