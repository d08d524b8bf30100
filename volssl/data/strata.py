"""Draws balanced by label: strata of patients, dealt so that each side of a split gets its share of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import pandas as pd

from volssl.errors import UserError

Side = TypeVar("Side", str, int)
Stratum = tuple[float | None, ...]  # a value for each label, None for unknown; shorter where labels were merged
VALUES_MAX = 20  # a label of more values is a measure: no stratum would hold two patients


def person_labels(table: pd.DataFrame, persons: Mapping[str, str], columns: Sequence[str]) -> dict[str, Stratum]:
    """The labels of each person: the highest that any study has, None where no study's is known.

    Args:
        table: a joined label table, indexed by volume id.
        persons: volume id to person, for every volume; those outside of the table are unknown.

    Raises:
        UserError: a column holds a measure and no label.
    """
    for column in columns:
        values = table[column].nunique()
        if values > VALUES_MAX:
            raise UserError(f"{column} has {values} values: stratify by labels of {VALUES_MAX} values at most")
    known = table[list(columns)].groupby([persons[volume_id] for volume_id in table.index]).max()
    labels = {
        str(person): tuple(None if math.isnan(value) else float(value) for value in values)
        for person, *values in known.itertuples()
    }
    unknown = (None,) * len(columns)
    return {person: labels.get(person, unknown) for person in sorted(set(persons.values()))}


def merged(labels: Mapping[str, Stratum], least: int) -> dict[str, Stratum]:
    """Strata of at least so many persons: those of rarer ones lose their last label, until nothing is left to lose."""
    strata: dict[str, Stratum] = {}
    rest = dict(labels)
    for length in range(max(map(len, labels.values()), default=0), 0, -1):
        counts = Counter(values[:length] for values in rest.values())
        strata |= {person: values[:length] for person, values in rest.items() if counts[values[:length]] >= least}
        rest = {person: values for person, values in rest.items() if person not in strata}
    return strata | dict.fromkeys(rest, ())


def dealt(
    due: Iterable[str], taken: Mapping[str, Side], strata: Mapping[str, Stratum], shares: Mapping[Side, float]
) -> dict[str, Side]:
    """Deal persons to sides: in each stratum, each goes to the side that is most below its share.

    Where nobody was placed before, a side's count in a stratum is its share rounded up or down. What rounding leaves
    over goes to the side that is most below its share of all strata so far, so that rare strata do not add up.

    Args:
        due: persons to place, in an order that has nothing to do with their labels.
        taken: sides of persons placed before; they stay, and count.
        shares: of each side; they sum to one.
    """
    waiting: dict[Stratum, list[str]] = {}
    for person in due:
        waiting.setdefault(strata[person], []).append(person)
    placed = Counter((strata[person], side) for person, side in taken.items())
    overall = dict.fromkeys(shares, 0.0)
    sides: dict[str, Side] = {}
    for stratum in sorted(waiting, key=lambda stratum: (len(waiting[stratum]), str(stratum))):
        persons = waiting[stratum]
        total = len(persons) + sum(placed[stratum, side] for side in shares)
        below = {side: share * total - placed[stratum, side] for side, share in shares.items()}
        overall = {side: overall[side] + below[side] for side in shares}
        for person in persons:
            side = _most_below(below, overall)
            sides[person] = side
            below[side] -= 1
            overall[side] -= 1
    return sides


def _most_below(below: Mapping[Side, float], overall: Mapping[Side, float]) -> Side:
    """The side that lacks most in this stratum; where none lacks a whole person, the one that lacks most overall."""
    almost = 1e-9  # shares such as .7 * 10 are not whole in binary
    whole = [side for side in below if below[side] >= 1 - almost]
    if whole:
        return max(whole, key=lambda side: below[side])
    return max((side for side in below if below[side] > almost), key=lambda side: overall[side])
