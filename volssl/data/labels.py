"""The label table: joined to a store's volumes by hashed study names, which are never written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from volssl.data.keys import plain_name, study_alias
from volssl.data.label_classes import HAS_LABEL, UNKNOWN, class_indices, class_names
from volssl.data.manifest import Row
from volssl.data.slice_labels import SLICE_COLUMNS, slice_indices
from volssl.data.store import Store
from volssl.data.study_series import join_series
from volssl.data.user_table import read_texts, required
from volssl.errors import UserError
from volssl.progress import counted, say, say_once

# Columns that hold text; every other column is a label or a measure: numeric where it is asked for.
TEXT_COLUMNS = ("study", "patient", "split", "sex", "age_band", "scanner", "site", "mask", *SLICE_COLUMNS)


def join_labels(
    store: Store,
    csv: str | Path,
    required_columns: Sequence[str] = (),
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    slices: bool = False,
    join: str | None = None,
) -> pd.DataFrame:
    """Join a label table to the volumes of a store, by the name of the study.

    The table is keyed by `study`: folder or file name, StudyInstanceUID, AccessionNumber, or the store's hash of it. At
    most one column may mark
    slices: `slices` (indices counted from inferior), `slice_sops` (SOPInstanceUIDs) or `slice_positions_mm` (RAS z),
    each a list parted by `;`, blank where unknown.

    Args:
        required_columns: label columns that must be there.
        classes: of columns that hold classes (`volssl.data.label_classes`): a cell becomes its class's index.
        slices: whether marked slices are labels of themselves, as they are to a task that learns slices.
        join: the task's way to join two series of a study; a coronal one then stands in the row of the axial one
            (`volssl.data.study_series`).

    Returns:
        One row a volume in both, in the order of the store, indexed by volume id. The columns are the table's: those
        that were asked for, and others that hold numbers alone, as float with NaN for unknown; `study` and `patient`
        hold the store's keyed hashes, `split` the store's split, a column of slices gives `slice_indices`: the store's
        own indices along S, or None. `has_label` says whether any label that was asked for is known; it is True where
        none was.

    Raises:
        UserError: the table is missing, lacks a column, fits no study, names a study twice, or contradicts the store.
    """
    if not csv:
        raise UserError("labels are needed and no table is named: give --labels a CSV file keyed by `study`")
    path = Path(csv)
    table = _read(path, required_columns, classes or {})
    keys = table["study"].map(lambda name: study_alias(store.key, name))
    volumes = _volumes_by_name(store)
    found = [volumes.get(key) or volumes.get(name, []) for key, name in zip(keys, table["study"], strict=True)]
    if not any(found):
        raise UserError(_nothing_matches(path, store, table))
    for name, rows in zip(table["study"], found, strict=True):
        if len({row["study"] for row in rows}) > 1:
            raise UserError(f"{path}: the name {name!r} fits two studies of the store: name each by its file or UID")
    _check_studies(path, table, found)
    _check_patients(path, table, found)
    _say_absent(path, table, found)
    joined = _joined(path, store.key, table, found)
    asked = [*required_columns, *(classes or {})]
    joined[HAS_LABEL] = joined[asked].notna().any(axis=1) if asked else True
    if slices and "slice_indices" in joined:
        joined[HAS_LABEL] |= joined["slice_indices"].notna()
    return joined if join is None else join_series(store, joined)


def _read(path: Path, required_columns: Sequence[str], classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    table = read_texts(path, "label")
    required(path, table, ("study", *required_columns, *classes))
    marks = [column for column in SLICE_COLUMNS if column in table]
    if len(marks) > 1:
        raise UserError(f"{path} marks slices in {' and '.join(marks)}: leave one of these columns")
    blank = table["study"] == ""
    if blank.any():
        raise UserError(f"{path}: line {int(blank.argmax()) + 2} names no study")
    for column in table.columns:
        if column in classes:
            table[column] = class_indices(path, table[column], class_names(column, classes[column]))
        elif column not in TEXT_COLUMNS and (column in required_columns or _is_numeric(table[column])):
            table[column] = _numbers(path, table[column])
    return table


def _is_numeric(column: pd.Series) -> bool:
    """Whether a column that nobody asked for holds numbers; with a text in it, it stays text."""
    known = column[~column.str.lower().isin(UNKNOWN)]
    return bool(len(known)) and bool(pd.to_numeric(known, errors="coerce").notna().all())


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    known = ~column.str.lower().isin(UNKNOWN)
    values = pd.to_numeric(column.where(known), errors="coerce").astype(float)
    wrong = known & values.isna()
    if wrong.any():
        where = int(wrong.argmax())
        raise UserError(
            f"{path}: line {where + 2}: {column.name} holds {column.iloc[where]!r}, no number; blank is unknown"
        )
    return values


def _volumes_by_name(store: Store) -> dict[str, list[Row]]:
    columns = ["id", "patient", "study", "aliases", "split", "shape", "first_slice_z_mm", "slice_step_z_mm", "sop"]
    volumes: dict[str, list[Row]] = {}
    for row in store.rows.select(columns).to_pylist():
        for alias in (*row["aliases"], row["study"]):
            volumes.setdefault(alias, []).append(row)
    return volumes


def _check_studies(path: Path, table: pd.DataFrame, found: Sequence[list[Row]]) -> None:
    """A study may be called by several names, but has one line, also where the lines agree."""
    named: dict[str, int] = {}
    for line, (name, rows) in enumerate(zip(table["study"], found, strict=True)):
        for key in {plain_name(name), *(row["id"] for row in rows)}:
            if key in named:
                raise UserError(_named_twice(path, table, named[key], line))
        named |= dict.fromkeys([plain_name(name), *(row["id"] for row in rows)], line)


def _named_twice(path: Path, table: pd.DataFrame, first: int, second: int) -> str:
    """Which lines name one study, and whether they agree."""
    one, other = table.iloc[first], table.iloc[second]
    also = "" if one["study"] == other["study"] else f", as {one['study']!r} too"
    unlike = [name for name in table if name != "study" and str(one[name]) != str(other[name])]
    differ = f"and they differ in {unlike[0]}: leave the right one" if unlike else "alike: leave one of them"
    return f"{path} names the study {other['study']!r} twice{also}, in lines {first + 2} and {second + 2}, {differ}"


def _check_patients(path: Path, table: pd.DataFrame, found: Sequence[list[Row]]) -> None:
    """A patient of the table on two sides of the store's split would be trained on and tested on."""
    if "patient" not in table:
        return
    sides: dict[str, set[str]] = {}
    for patient, rows in zip(table["patient"], found, strict=True):
        sides.setdefault(patient, set()).update(row["split"] for row in rows)
    for patient, splits in sides.items():
        if patient and len(splits) > 1:
            raise UserError(
                f"{path}: the patient {patient!r} has studies in {' and '.join(sorted(splits))} of the store: "
                "prepare it again with --patients, so that each patient has one split"
            )


def _say_absent(path: Path, table: pd.DataFrame, found: Sequence[list[Row]]) -> None:
    """Say how many studies of the table the store has not, as of wrong ids, or of scans that were refused."""
    absent = [name for name, rows in zip(table["study"], found, strict=True) if not rows]
    if absent:
        say_once(
            f"{len(absent)} of {counted(len(table), 'study')} of {path.name} are in no volume of the store "
            f"(first: {absent[0]})"
        )


def _joined(path: Path, key: bytes, table: pd.DataFrame, found: Sequence[list[Row]]) -> pd.DataFrame:
    records = []
    for record, rows in zip(table.to_dict("records"), found, strict=True):
        told = {name: value for name, value in record.items() if name not in SLICE_COLUMNS}
        records += [told | {name: row[name] for name in ("id", "study", "patient", "split")} for row in rows]
    joined = pd.DataFrame.from_records(records)
    marks = next((column for column in SLICE_COLUMNS if column in table), None)
    if marks:
        joined["slice_indices"] = pd.Series(_slices(path, key, table, found, marks), dtype=object)
    return joined.set_index("id").sort_index()


def _slices(
    path: Path, key: bytes, table: pd.DataFrame, found: Sequence[list[Row]], marks: str
) -> list[list[int] | None]:
    """The store's slice indices for each volume, in the order of `found`; None where unknown."""
    indices: list[list[int] | None] = []
    lost = 0
    for study, cell, rows in zip(table["study"], table[marks], found, strict=True):
        if cell.lower() in UNKNOWN:
            indices += [None for _ in rows]
        else:
            told, missed = slice_indices(f"{path}: study {study!r}", marks, cell, rows, key)
            indices += told
            lost += missed
    if lost and not any(indices):
        raise UserError(f"{path}: no slice that {marks} names is in the store: are these its SOPInstanceUIDs?")
    if lost:
        say(f"{lost} slices that {marks} of {path.name} names are in no volume of the store")
    return indices


def _nothing_matches(path: Path, store: Store, table: pd.DataFrame) -> str:
    names = ", ".join(table["study"].head(3))
    hashed = ", ".join(keyed for keyed in store.rows["id"].slice(0, 3).to_pylist())
    return (
        f"{path}: none of its {len(table)} studies is in the store {store.path}: the table has {names}; the store has "
        f"{hashed} (paths.csv says what these are); name studies by file, folder, StudyInstanceUID or AccessionNumber"
    )
