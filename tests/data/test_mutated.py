"""Five hundred damaged files, each from its seed: every one ends as a volume or with its reason, and is named."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.mutations import write_mutated_file, write_mutated_series
from volssl.data import Store, prepare
from volssl.data.inventory import inventory

SERIES, FILES = 42, 248  # 42 series of six files, and 248 files: 500


@pytest.fixture(scope="module")
def mutated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A store made of damaged files, and the files."""
    folder = tmp_path_factory.mktemp("mutated")
    paths = [path for seed in range(SERIES) for path in write_mutated_series(folder / "in" / f"d{seed:03d}", seed)]
    paths += [path for seed in range(FILES) for path in write_mutated_file(folder / "in" / f"f{seed:03d}", seed + 1000)]
    prepare([folder / "in"], folder / "store", workers=2)
    return folder / "store", paths


def test_each_is_in_the_manifest_or_among_the_refused_and_the_counts_add_up(mutated: tuple[Path, list[Path]]) -> None:
    store, paths = mutated
    stored = {row["id"]: row["files"] for row in Store.open(store).rows.to_pylist()}
    refused = {record["key"]: int(record["files"]) for record in _records(store / "rejected.csv")}
    named: dict[str, set[str]] = {}
    for record in _records(store / "paths.csv"):
        named.setdefault(record["key"], set()).add(record["path"])
    assert len(paths) == 500
    assert set().union(*named.values()) == {str(path) for path in paths}
    assert named.keys() == stored.keys() | refused.keys()
    assert {key: len(files) for key, files in named.items()} == stored | refused
    assert sum(stored.values()) + sum(refused.values()) == 500
    assert len(stored) >= 20  # a byte of noise does not ruin a scan
    assert len(refused) >= 200


def test_the_list_for_the_terminal_names_each(mutated: tuple[Path, list[Path]]) -> None:
    store, paths = mutated
    lines = list(inventory(store))
    assert {line[-1] for line in lines} == {str(path) for path in paths}
    printed = subprocess.run(
        [sys.executable, "-m", "volssl.cli", "inspect", str(store), "--paths"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(str(path) in printed for path in paths)


def test_what_is_stored_can_be_read(mutated: tuple[Path, list[Path]]) -> None:
    store = Store.open(mutated[0])
    for row in store.rows.to_pylist():
        assert store.read(row["id"]).shape == (1, *row["shape"])


def _records(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))
