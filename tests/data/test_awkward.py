"""What archives and public data sets really hold: every case ends as it should, all prepared in one run."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import awkward_dicom, awkward_files
from tests.data.awkward import Case
from volssl.data import Store, prepare

CASES = [*awkward_dicom.CASES, *awkward_files.CASES]


@dataclass
class Outcome:
    """What became of a case: its rows, their voxels, and its refusals."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    voxels: list[np.ndarray] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    files: int = 0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("awkward")
    for case in CASES:
        (folder / "in" / case.name).mkdir(parents=True)
        case.build(folder / "in" / case.name)
    prepare([folder / "in"], folder / "store", workers=2)
    return by_case(folder / "in", folder / "store")


def by_case(root: Path, path: Path) -> dict[str, Outcome]:
    store = Store.open(path)
    rows = {row["id"]: row for row in store.rows.to_pylist()}
    refused = {record["key"]: record["reason"] for record in _records(path / "rejected.csv")}
    found: dict[str, Outcome] = {case.name: Outcome() for case in CASES}
    seen: set[tuple[str, str]] = set()
    for record in _records(path / "paths.csv"):
        name = Path(record["path"]).relative_to(root).parts[0]
        found[name].files += 1
        if (name, record["key"]) in seen:
            continue
        seen.add((name, record["key"]))
        if record["key"] in rows:
            found[name].rows.append(rows[record["key"]])
            found[name].voxels.append(store.read(record["key"]))
        else:
            found[name].reasons[refused[record["key"]]] += 1
    return found


def _records(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_there_are_many_of_them_each_with_a_name_of_its_own() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_as_it_should(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    told = [note for row in outcome.rows for note in row["notes"]]
    assert (len(outcome.rows), dict(outcome.reasons)) == (case.stored, dict(case.reasons)), told
    for note in case.notes:
        assert any(note in one for one in told), f"{note!r} is in none of {told}"
    if case.expect:
        case.expect(outcome.rows, outcome.voxels)
