"""The patient table: what the files do not tell, joined to the volumes; and one split for each patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from volssl.data.dicom.headers import AGE_CAP_YEARS
from volssl.data.keys import keyed_hash, study_alias
from volssl.data.manifest import Row, age_band
from volssl.data.splits import SPLITS, SplitPlan, by_hash, same_person, settle
from volssl.data.user_table import read_texts
from volssl.data.volume import PATIENT_UNKNOWN
from volssl.errors import UserError
from volssl.progress import counted, say

PATIENTS_FILE = "patients.csv"  # in the root of a source folder
SPLIT_WORDS = {name: name for name in SPLITS} | {"val": "validation", "valid": "validation"}
SEX_WORDS = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}


@dataclass(frozen=True)
class PatientTable:
    """A checked patient table: texts alone, empty where unknown."""

    path: Path
    frame: pd.DataFrame


def find_patients(roots: Sequence[Path], given: Path | None) -> PatientTable | None:
    """The table given, or the `patients.csv` of the source folders joined, or None.

    Raises:
        UserError: a table is missing, contradicts itself or another, or names a study that another names.
    """
    if given:
        return read_patients(given)
    found = [root / PATIENTS_FILE for root in dict.fromkeys(roots) if (root / PATIENTS_FILE).is_file()]
    if not found:
        return None
    say(f"Patients are read from {' and '.join(map(str, found))}")
    tables = [read_patients(path) for path in found]
    frame = pd.concat([table.frame for table in tables], ignore_index=True).fillna("")
    twice = frame["study"][frame["study"].duplicated()]
    if len(twice):
        first, second = [table.path for table in tables if (table.frame["study"] == twice.iloc[0]).any()][:2]
        raise UserError(f"{second} names the study {twice.iloc[0]!r}, as {first} does: leave one line of it")
    if "split" in frame:
        _check_splits(found[-1], frame)
    return PatientTable(found[0], frame)


def read_patients(path: Path) -> PatientTable:
    """Read a table with the columns study and patient, and optionally split, sex, age, site, scanner, age_band.

    Raises:
        UserError: it cannot be read, lacks a column, names a study twice, or puts a patient on two sides of the split.
    """
    frame = read_texts(path, "patient")
    for column in ("study", "patient"):
        if column not in frame:
            raise UserError(
                f"{path} has no column {column!r}: it needs study and patient; it has {', '.join(frame.columns)}"
            )
        if (frame[column] == "").any():
            raise UserError(f"{path}: line {int((frame[column] == '').argmax()) + 2} has no {column}: fill it in")
    twice = frame["study"][frame["study"].duplicated()]
    if len(twice):
        raise UserError(f"{path} names the study {twice.iloc[0]!r} twice: leave one line of it")
    if "split" in frame:
        frame["split"] = frame["split"].map(lambda word: SPLIT_WORDS.get(word.lower(), word))
        _check_splits(path, frame)
    if "sex" in frame:
        frame["sex"] = frame["sex"].map(lambda word: SEX_WORDS.get(word.upper(), word))
        _check_sex(path, frame)
    if "age" in frame:
        _check_ages(path, frame)
    return PatientTable(path, frame)


def join_patients(rows: Sequence[Row], table: PatientTable, key: bytes) -> None:
    """Fill what the table tells into the rows whose study it names.

    A split that it tells holds for every volume of the patient, whether the table names the study or not.

    Raises:
        UserError: it names no study of the store, a name fits two studies, or a study is named twice.
    """
    by_alias: dict[str, list[Row]] = {}
    for row in rows:
        for alias in row["aliases"]:
            by_alias.setdefault(alias, []).append(row)
    unmatched: list[str] = []
    named: dict[str, str] = {}
    told: dict[str, str] = {}
    for record in table.frame.to_dict("records"):
        name = record["study"]
        matches = by_alias.get(study_alias(key, name), [])
        studies = {row["study"] for row in matches}
        if len(studies) > 1:
            raise UserError(f"{table.path}: the name {name!r} fits two studies: name each by its file or UID")
        for study in studies:
            if named.setdefault(study, name) != name:
                raise UserError(f"{table.path} names one study twice, as {named[study]!r} and {name!r}: leave one line")
        for row in matches:
            _fill(row, record, key)
        if not matches:
            unmatched.append(name)
        elif record.get("split"):
            told[keyed_hash(key, "patient", record["patient"])] = record["split"]
    moved = {row["patient"] for row in rows if row["split"] and told.get(row["patient"], row["split"]) != row["split"]}
    if moved:
        go = f"{counted(len(moved), 'patient')} {'goes' if len(moved) == 1 else 'go'} to another side"
        say(f"{go}, as {table.path.name} says; earlier training has seen them there")
    for row in rows:
        row["split"] = told.get(row["patient"], row["split"])
    if len(unmatched) == len(table.frame):
        names = ", ".join(unmatched[:3])
        raise UserError(f"{table.path} names no study of the store ({names}): use the file or folder name, or the UID")
    if unmatched:
        say(f"{len(unmatched):,} of {counted(len(table.frame), 'study')} in {table.path.name} are not in the store")


def settle_splits(rows: Sequence[Row], key: bytes, plan: SplitPlan | None = None) -> None:
    """Give each row its age band, and each patient one split and fold: as told, else as kept, else by the hash.

    Near-duplicates have been grouped before: what they tell of unknown patients counts.

    Raises:
        TwoSidesError: the rows put a patient on two sides.
    """
    plan = plan or SplitPlan()
    settle(rows, same_person(rows), plan, *by_hash(key, plan))
    for row in rows:
        row["age_band"] = row["age_band"] or age_band(row["age_years"])


def _fill(row: Row, record: dict[str, str], key: bytes) -> None:
    patient = keyed_hash(key, "patient", record["patient"])
    if row["patient"] != patient:
        row["patient"], row["split"], row["fold"] = patient, None, None
    row["notes"] = [note for note in row["notes"] if note != PATIENT_UNKNOWN]
    for name in ("sex", "site", "scanner", "age_band"):
        row[name] = record.get(name) or row[name]
    if record.get("age"):
        row["age_years"] = min(int(float(record["age"])), AGE_CAP_YEARS)


def _check_splits(path: Path, frame: pd.DataFrame) -> None:
    for value in frame["split"]:
        if value and value not in SPLITS:
            raise UserError(f"{path}: the split {value!r} is none of {', '.join(SPLITS)}")
    told = frame[frame["split"] != ""]
    sides = told.groupby("patient")["split"].nunique()
    if (sides > 1).any():
        patient = sides.index[int((sides > 1).argmax())]
        raise UserError(
            f"{path} puts the patient {patient!r} on two sides of the split: give all studies of a patient one split"
        )


def _check_sex(path: Path, frame: pd.DataFrame) -> None:
    wrong = frame["sex"][~frame["sex"].isin(["", "F", "M", "O"])]
    if len(wrong):
        raise UserError(f"{path}: line {int(wrong.index[0]) + 2}: the sex {wrong.iloc[0]!r} is none of F, M and O")


def _check_ages(path: Path, frame: pd.DataFrame) -> None:
    told = frame["age"][frame["age"] != ""]
    years = pd.to_numeric(told, errors="coerce")
    wrong = told[years.isna() | (years < 0) | (years > 130)]
    if len(wrong):
        raise UserError(f"{path}: line {int(wrong.index[0]) + 2}: the age {wrong.iloc[0]!r} is no number of years")
