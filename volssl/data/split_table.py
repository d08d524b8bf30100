"""What lies on each side of a store's splits and folds: patients, volumes, positives, and acquisitions on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from volssl.data.manifest import Row
from volssl.data.splits import SPLITS, SplitPlan
from volssl.data.strata import person_labels


@dataclass(frozen=True)
class Side:
    """What lies on one side: a split, a fold, or the whole store.

    Attributes:
        positives: for each label, the patients with a positive study.
        known: for each label, the patients of whom it is known.
    """

    name: str
    patients: int
    volumes: int
    positives: dict[str, int]
    known: dict[str, int]


@dataclass(frozen=True)
class SplitTable:
    """The sides of a store, counted.

    Attributes:
        divided: groups of near-duplicates that lie on two sides of the split.
        divided_folds: those that lie in two folds.
    """

    plan: SplitPlan
    splits: tuple[Side, ...]
    folds: tuple[Side, ...]
    whole: Side
    divided: tuple[str, ...]
    divided_folds: tuple[str, ...]

    def __str__(self) -> str:
        sides = [*self.splits, *self.folds, self.whole]
        columns: dict[str, list[str]] = {
            "patients": [_share(side.patients, self.whole.patients) for side in sides],
            "volumes": [_share(side.volumes, self.whole.volumes) for side in sides],
        }
        for label in self.whole.positives:
            columns[label] = [_share(side.positives[label], side.known[label]) for side in sides]
        text: str = pd.DataFrame(columns, index=[side.name for side in sides]).to_string()
        for groups, where in ((self.divided, "sides of the split"), (self.divided_folds, "folds")):
            if groups:
                text += (
                    f"\n{len(groups)} groups of near-duplicates lie on two {where} ({', '.join(groups[:3])}): one "
                    "patient under two names? --patients CSV with --redraw brings them together"
                )
        return text

    def as_dict(self) -> dict[str, object]:
        """The same for machines: plain values alone."""
        return {
            "plan": self.plan.as_dict(),
            "splits": [asdict(side) for side in self.splits],
            "folds": [asdict(side) for side in self.folds],
            "whole": asdict(self.whole),
            "divided": list(self.divided),
            "divided_folds": list(self.divided_folds),
        }


def count_sides(
    rows: Sequence[Row], plan: SplitPlan, table: pd.DataFrame | None = None, columns: Sequence[str] = ()
) -> SplitTable:
    """Count a manifest's patients, volumes and positives on each side, and the groups that lie on two.

    Args:
        table: a joined label table.
        columns: labels of it to count; empty counts every column of zeros and ones.
    """
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in ("id", "patient", "split", "fold")})
    names = (list(columns) or _binary(table)) if table is not None else []
    values = {}
    if table is not None and names:
        values = person_labels(table, dict(zip(frame["id"], frame["patient"], strict=True)), names)
    of_patient = pd.DataFrame.from_dict(values, orient="index", columns=names, dtype=float)

    def side(name: str, chosen: pd.DataFrame) -> Side:
        patients = chosen["patient"].unique()
        held = of_patient.loc[patients] if names else of_patient
        positives = {label: int((held[label] > 0).sum()) for label in names}
        known = {label: int(held[label].notna().sum()) for label in names}
        return Side(name, len(patients), len(chosen), positives, known)

    folds = range(plan.folds or 0)
    divided, divided_folds = _divided(rows)
    return SplitTable(
        plan,
        tuple(side(name, frame[frame["split"] == name]) for name in SPLITS),
        tuple(side(f"fold {fold}", frame[frame["fold"] == fold]) for fold in folds),
        side("all", frame),
        divided,
        divided_folds,
    )


def _binary(table: pd.DataFrame) -> list[str]:
    """The columns of a joined table that hold zeros, ones and unknowns alone."""
    numbers = table.select_dtypes("number")
    return [str(name) for name in numbers if numbers[name].notna().any() and numbers[name].dropna().isin((0, 1)).all()]


def _divided(rows: Sequence[Row]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The groups of near-duplicates in two splits, and those in two folds."""
    splits: dict[str, set[str]] = {}
    folds: dict[str, set[int | None]] = {}
    for row in rows:
        group = row["group"] or row["id"]
        splits.setdefault(group, set()).add(row["split"])
        folds.setdefault(group, set()).add(row["fold"])
    divided = sorted(group for group, sides in splits.items() if len(sides) > 1)
    return tuple(divided), tuple(sorted(group for group, sides in folds.items() if len(sides - {None}) > 1))


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "0"
