"""`volssl split`: draw a store's splits and folds, by patient, and refuse what puts one on two sides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.data.keys import study_alias
from volssl.data.labels import join_labels
from volssl.data.ledger import writing
from volssl.data.manifest import Row
from volssl.data.patients import PatientTable, join_patients, read_patients
from volssl.data.split_table import SplitTable, count_sides
from volssl.data.splits import (
    SPLITS,
    Draw,
    SplitPlan,
    TwoSidesError,
    by_hash,
    drawn_number,
    one_side,
    read_split_plan,
    same_person,
    settle,
)
from volssl.data.store import JOURNAL, STORE_RECORD, Store
from volssl.data.strata import Stratum, dealt, merged, person_labels
from volssl.data.user_table import read_texts
from volssl.errors import UserError
from volssl.files import write_text
from volssl.progress import say


def split_store(
    store: str | Path,
    *,
    labels: str | Path | None = None,
    stratify: Sequence[str] = (),
    folds: int | None = None,
    fractions: Sequence[float] | None = None,
    patients: str | Path | None = None,
    redraw: bool = False,
    dry_run: bool = False,
) -> SplitTable:
    """Draw what is asked for, check that no patient lies on two sides, and count; without options, check and count.

    Patients who have a split or a fold keep it; those who have none are drawn, and so are those `prepare` adds later.
    Folds part the patients who are not test. Another number of folds than the store has draws the folds anew.

    Args:
        labels: a table keyed by `study`; its labels are counted on each side.
        stratify: labels of it by which to balance the draw, the most important first: a patient counts as positive
            where any study is; patients of whom a label is unknown are a stratum of their own.
        folds: how many.
        fractions: of train, validation and test; the store keeps them for patients to come.
        patients: a table of what files do not tell, whose column `split` goes before any draw.
        redraw: draw the split and fold of every patient anew, but for those that `patients` tells now; what a table
            told earlier is not kept apart from what was drawn.
        dry_run: count what would be, and write nothing.

    Raises:
        UserError: a patient on two sides, a table that contradicts itself or the store, fractions that do not sum to
            1, more folds than patients, or a store whose preparation is unfinished.
    """
    store = Path(store)
    opened = Store.open(store)
    before = read_split_plan(store)
    plan = SplitPlan(
        before.fractions if fractions is None else tuple(fractions),  # type: ignore[arg-type]  # it counts them
        before.folds if folds is None else folds,
        tuple(stratify) or before.stratify,
    )
    if stratify and labels is None:
        raise UserError(f"--stratify {' '.join(stratify)}: give the table that holds it with --labels CSV")
    anew = ("split", "fold") if redraw else ("fold",) if plan.folds != before.folds else ()
    told = read_patients(Path(patients)) if patients is not None else None
    table = join_labels(opened, labels, stratify) if labels is not None else None
    draw = partial(draw_sides, key=opened.key, plan=plan, table=table, stratify=stratify, patients=told, anew=anew)
    try:
        if stratify or folds is not None or fractions is not None or told is not None or redraw:
            rows = _drawn(opened, draw) if dry_run else _written(opened, draw, plan)
            if not redraw and (fractions is not None or (stratify and "fold" not in anew)):
                say("Patients who have a side keep it; --redraw draws all of them anew")
        else:
            rows = opened.columns("id", "patient", "split", "fold", "group").to_pylist()
        one_side(rows, "split")
        one_side(rows, "fold")
    except TwoSidesError as error:
        names = _studies(opened, error.patient, labels, told)
        raise UserError(
            f"{store}: {error}{names}: --redraw, or a column split in --patients CSV, settles it"
        ) from error
    return count_sides(rows, plan, table, stratify)


def draw_sides(
    rows: Sequence[Row],
    *,
    key: bytes,
    plan: SplitPlan,
    table: pd.DataFrame | None = None,
    stratify: Sequence[str] = (),
    patients: PatientTable | None = None,
    anew: Sequence[str] = (),
) -> None:
    """Settle the split and fold of a manifest's rows, in place.

    Splits are drawn from the patient's hash alone; where labels balance them, and for folds in any case, patients are
    dealt in the order of the hash, so that the sides are even.

    Args:
        table: a joined label table.
        stratify: columns of it.
        anew: `split` and `fold`, where nobody shall keep it.

    Raises:
        TwoSidesError: a patient has two sides.
        UserError: more folds than patients, or a table that does not fit.
    """
    for row in rows:
        row.update(dict.fromkeys(anew))
    if patients is not None:
        join_patients(rows, patients, key)
    people = same_person(rows)
    persons = {row["id"]: people[row["patient"]] for row in rows}
    labels: dict[str, Stratum] = dict.fromkeys(persons.values(), ())
    if table is not None and stratify:
        labels = person_labels(table, persons, stratify)
    split, _ = by_hash(key, plan)
    if stratify:
        split = _balanced(labels, dict(zip(SPLITS, plan.fractions, strict=True)), key, "split")
    folds = plan.folds or 1
    settle(rows, people, plan, split, _balanced(labels, dict.fromkeys(range(folds), 1 / folds), key, "fold"))
    parted = {people[row["patient"]] for row in rows if row["split"] != "test"}
    if folds > len(parted):
        raise UserError(f"{folds} folds of {len(parted)} patients who are not test: give fewer folds")


def _balanced(labels: Mapping[str, Stratum], shares: Mapping[Any, float], key: bytes, kind: str) -> Draw:
    """Deal in the order of the hash, in strata that have one for each side."""
    least = round(1 / min(share for share in shares.values() if share))

    def draw(due: Sequence[str], taken: Mapping[str, Any]) -> Mapping[str, Any]:
        drawn = [*due, *taken]
        strata = merged({person: labels[person] for person in drawn}, least)
        return dealt(sorted(due, key=lambda person: drawn_number(person, key, kind)), taken, strata, shares)

    return draw


def _drawn(store: Store, draw: partial[None]) -> list[Row]:
    rows: list[Row] = store.rows.to_pylist()
    draw(rows)
    return rows


def _written(store: Store, draw: partial[None], plan: SplitPlan) -> list[Row]:
    """Draw while nobody else writes; the plan comes last, so that a command that was killed is repeated as it was."""
    journal = store.path / JOURNAL
    if journal.exists() and journal.stat().st_size:
        raise UserError(f"{store.path}: a prepare is at work or was cut short: let it end, or repeat it, then split")
    with writing(store.path) as ledger:
        rows = list(ledger.rows.values())
        draw(rows)
        ledger.fold()
        record = json.loads((store.path / STORE_RECORD).read_text()) | {"splits": plan.as_dict()}
        write_text(store.path / STORE_RECORD, json.dumps(record, indent=2) + "\n")
    return rows


def _studies(store: Store, patient: str, labels: str | Path | None, told: PatientTable | None) -> str:
    """The names that the user's tables give to a patient's studies, for the message."""
    names = list(told.frame["study"]) if told is not None else []
    if labels is not None:
        names += list(read_texts(Path(labels), "label")["study"])
    rows = store.columns("patient", "aliases").to_pylist()
    aliases = {alias for row in rows if row["patient"] == patient for alias in row["aliases"]}
    found = [name for name in dict.fromkeys(names) if study_alias(store.key, name) in aliases]
    return f" (studies {', '.join(found[:5])})" if found else ""
