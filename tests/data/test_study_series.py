"""Which series of a study stands beside which, by their voxels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.data.made_store import row, write_store
from volssl.data import Store
from volssl.data.study_series import join_series, plane_of

AXIAL, CORONAL, THICK, SAGITTAL = [0.5, 0.5, 5.0], [0.5, 3.0, 0.5], [0.5, 6.0, 0.5], [4.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("spacing_mm", "plane"),
    [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal"), ([1, 1, 1], "axial"), ([0.5, 0.52, 0.5], "axial")],
)
def test_a_volume_is_of_the_plane_across_its_longest_voxels(spacing_mm: list[float], plane: str) -> None:
    assert plane_of(spacing_mm) == plane


def test_a_coronal_series_stands_beside_each_axial_one_of_its_study_and_for_itself_where_there_is_none(
    tmp_path: Path,
) -> None:
    volumes = {
        "one axial": ("one", AXIAL, "CT"),
        "one axial too": ("one", AXIAL, "CT"),
        "one coronal": ("one", CORONAL, "CT"),
        "one thick coronal": ("one", THICK, "CT"),
        "one sagittal": ("one", SAGITTAL, "CT"),
        "one MR": ("one", CORONAL, "MR"),
        "two coronal": ("two", CORONAL, "CT"),
        "three axial": ("three", AXIAL, "CT"),
        "four coronal": ("four", CORONAL, "CT"),  # not labelled
        "four axial": ("four", AXIAL, "CT"),
    }
    rows = [
        row(name, split="train") | {"study": study, "spacing_mm": spacing_mm, "modality": modality}
        for name, (study, spacing_mm, modality) in volumes.items()
    ]
    store = Store.open(write_store(tmp_path / "store", sorted(rows, key=lambda one: str(one["id"]))))
    called = {one["id"]: name for name, one in zip(volumes, rows, strict=True)}
    labelled = [one["id"] for one in rows if called[one["id"]] != "four coronal"]
    joined = join_series(store, pd.DataFrame({"hemorrhage": 1.0}, index=sorted(labelled)))
    beside = {called[key]: called.get(second) for key, second in joined["second_series"].items()}
    assert beside == {
        "one axial": "one coronal",
        "one axial too": "one coronal",
        "one sagittal": None,
        "one MR": None,
        "two coronal": None,
        "three axial": None,
        "four axial": None,
    }
    assert list(joined.index) == sorted(joined.index)
