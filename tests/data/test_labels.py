"""A label table joins by every name of a study, and its slices stay the same slices in the store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset

from tests.data.sources import ROOT_UID, block, write_cohort, write_nifti, write_series
from volssl.data import Store, join_labels, prepare
from volssl.data.keys import study_alias
from volssl.errors import UserError
from volssl.progress import SAID


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare([write_cohort(tmp_path / "cohort", 4)], tmp_path / "store", workers=0)
    return Store.open(tmp_path / "store")


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "labels.csv").write_text(text)
    return tmp_path / "labels.csv"


def test_rows_of_both_are_joined_and_the_names_are_hashed(store: Store, tmp_path: Path) -> None:
    joined = join_labels(
        store, table(tmp_path, "study,patient,bleed,sex\nS02,Ann,1,F\nS00.nii.gz,Bob,,M\nS99,Cy,0,M\n"), ["bleed"]
    )
    rows = {row["id"]: row for row in store.rows.to_pylist()}
    assert list(joined.index) == sorted(joined.index)
    assert len(joined) == 2
    bleeding = joined[joined["bleed"] == 1].iloc[0]
    np.testing.assert_array_equal(store.read(str(bleeding.name))[0], block(2))
    assert joined["bleed"].isna().sum() == 1
    for volume_id, row in joined.iterrows():
        assert (row["study"], row["patient"], row["split"]) == tuple(
            rows[volume_id][n] for n in ("study", "patient", "split")
        )
    text = joined.to_csv()
    assert not any(name in text for name in ("S02", "S00", "Ann", "Bob"))


@pytest.mark.parametrize("name", ["D1", f"{ROOT_UID}.1.1", "ACC-1", "in"])
def test_a_dicom_study_goes_by_folder_uid_and_accession_number(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "in" / "D1", block(0))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    joined = join_labels(Store.open(tmp_path / "store"), table(tmp_path, f"study,bleed\n{name},1\n"), ["bleed"])
    assert list(joined["bleed"]) == [1.0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("study,bled\nS00,1\n", "no column 'bleed': is 'bled' meant"),
        ("name,bleed\nS00,1\n", "no column 'study'"),
        ("study,bleed\nX1,1\nX2,0\nX3,0\nX4,0\n", r"of its 4 .* has X1, X2, X3; the store has \w{24}, \w{24}, \w{24} "),
        ("study,bleed\nS00,1\nS01,0\nS00,0\n", "'S00' twice, in lines 2 and 4, and they differ in bleed: leave"),
        ("study,bleed\nS00,\nS00,\n", "'S00' twice, in lines 2 and 3, alike: leave one of them"),
        ("study,bleed\nX9,1\nX9,1\nS00,0\n", "'X9' twice"),
        ("study,bleed\nS00,1\nS00.nii.gz,0\n", "'S00.nii.gz' twice, as 'S00' too"),
        ("study,bleed\nvolumes,1\n", "'volumes' fits two studies"),
        ("study,bleed\nS00,yes\n", "line 2: bleed holds 'yes'"),
        ("study,bleed, bleed\nS00,1,0\n", "has 2 columns 'bleed': leave one"),
        ("study;bleed\nS00;0,5\n", "parted by semicolons: save it with commas"),
        ("study\tbleed\nS00\t1\n", "parted by tabs: save it with commas"),
        ("study,bleed\n,1\n", "line 2 names no study"),
        ("study,bleed,slices,slice_sops\nS00,1,1,2\n", "slices and slice_sops"),
        ("study,bleed,slices\nS00,1,3;12\n", "the slice 12 of slices is not in 0 to 11"),
        ("study,bleed,slices\nS00,1,2.5\n", "whole numbers"),
        ("study,bleed,slices\nS00,1,a;b\n", "no numbers"),
        ("study,bleed,slice_positions_mm\nS00,1,-9\n", "-9 of slice_positions_mm is not in 0.0 to 33.0 mm"),
        ("study,bleed,slice_positions_mm\nS00,1,nan;3\n", "no numbers"),
        ("study,bleed,slice_sops\nS00,1,1.2.3\n", "no slice that slice_sops names"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_an_error_that_shows_why(
    store: Store, tmp_path: Path, text: str, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        join_labels(store, table(tmp_path, text), ["bleed"])


def test_a_missing_table_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        join_labels(store, tmp_path / "none.csv")


def test_a_patient_of_the_table_on_two_sides_of_the_split_is_refused(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 2)
    (cohort / "patients.csv").write_text("study,patient,split\nS00,Ann,train\nS01,Bob,test\n")
    prepare([cohort], tmp_path / "store", workers=0)
    text = "study,patient,bleed\nS00,Eve,1\nS01,Eve,0\n"
    with pytest.raises(UserError, match="'Eve' has studies in test and train"):
        join_labels(Store.open(tmp_path / "store"), table(tmp_path, text))


def test_text_nobody_asked_for_stays_text(store: Store, tmp_path: Path) -> None:
    joined = join_labels(store, table(tmp_path, "study,bleed,remark\nS00,1,seen twice\nS01,0,\n"), ["bleed"])
    assert sorted(joined["remark"]) == ["", "seen twice"]
    assert joined["bleed"].dtype == float


def test_a_text_among_the_numbers_of_a_column_is_refused_where_the_column_is_asked_for(
    store: Store, tmp_path: Path
) -> None:
    path = table(tmp_path, "study,bleed,age,dose\nS00,1,60,1.5\nS01,1,70,?\nS02,0,old,2\n")
    joined = join_labels(store, path, ["bleed"])
    assert sorted(joined["age"]) == ["60", "70", "old"]
    assert sorted(joined["dose"].dropna()) == [1.5, 2.0]
    with pytest.raises(UserError, match="line 4: age holds 'old'"):
        join_labels(store, path, ["bleed", "age"])


def test_columns_without_a_name_are_left_out_and_a_table_that_is_not_utf8_is_told(store: Store, tmp_path: Path) -> None:
    joined = join_labels(store, table(tmp_path, ",study,bleed,,\n0,S00,1,,\n1,S01,0,,\n"), ["bleed"])
    assert sorted(joined["bleed"]) == [0.0, 1.0]
    assert "" not in joined
    (tmp_path / "labels.csv").write_bytes("study,bleed,remark\nS00,1,Schädel\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8, .* save it again as `CSV UTF-8`"):
        join_labels(store, tmp_path / "labels.csv", ["bleed"])


def test_studies_that_the_store_has_not_are_said_once(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SAID, raising=False)
    path = table(tmp_path, "study,bleed\nS00,1\nX7,0\nS01,0\nX3,\nX5,1\n")
    for _ in range(3):
        join_labels(store, path, ["bleed"])
    said = "3 of 5 studies of labels.csv are in no volume of the store (first: X7)"
    assert capsys.readouterr().err.splitlines() == [said]
    join_labels(store, table(tmp_path, "study,bleed\nS00,1\nS01,0\n"), ["bleed"])
    assert capsys.readouterr().err == ""
    # What a command has said, its processes do not: a comparison's jobs keep logs, and names are written nowhere.
    job = "import sys; from volssl.progress import say_once; say_once(sys.argv[1]); say_once('new')"
    for inherited, heard in ((True, ["new"]), (False, [said, "new"])):
        env = dict(os.environ) if inherited else {k: v for k, v in os.environ.items() if k != SAID}
        done = subprocess.run([sys.executable, "-c", job, said], env=env, capture_output=True, text=True, check=True)
        assert done.stderr.splitlines() == heard


def test_a_row_has_a_label_where_anything_that_was_asked_for_is_known(store: Store, tmp_path: Path) -> None:
    path = table(tmp_path, "study,bleed,grade,age,slices\nS00,1,,60,\nS01,,low,61,2\nS02,,?,62,3\nS03,na,,63,\n")
    names = {study_alias(store.key, f"S0{i}"): i for i in range(4)}
    rows = store.columns("id", "aliases").to_pylist()
    of_id = {row["id"]: names[alias] for row in rows for alias in row["aliases"] if alias in names}

    def known(*columns: str, **options: Any) -> list[int]:
        joined = join_labels(store, path, columns, **options)
        return sorted(of_id[key] for key in joined.index[joined["has_label"]])

    assert known("bleed") == [0]
    assert known("bleed", classes={"grade": ["low", "high"]}) == [0, 1]
    assert known("bleed", slices=True) == [0, 1, 2]
    assert known() == [0, 1, 2, 3]


def marked_block() -> tuple[np.ndarray, list[int]]:
    """A volume whose slices 2, 3 and 7, counted from inferior, hold the value 1500."""
    hu = block(0)
    for index in (2, 3, 7):
        hu[8:12, 8:12, index] = 1500
    return hu, [2, 3, 7]


def bright_slices(store: Store, volume_id: str) -> list[int]:
    return sorted({int(index) for index in np.argwhere(store.read(volume_id)[0] == 1500)[:, 2]})


def joined_slices(store: Store, path: Path) -> dict[str, list[int] | None]:
    column: pd.Series = join_labels(store, path)["slice_indices"]
    return {str(volume_id): cell for volume_id, cell in column.items()}


@pytest.mark.parametrize("column", ["slices", "slice_sops", "slice_positions_mm"])
@pytest.mark.parametrize("flip", [False, True])
def test_three_ways_mark_the_same_slices_of_a_shuffled_series(tmp_path: Path, column: str, flip: bool) -> None:
    hu, bright = marked_block()

    def downward(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]  # the normal points down: files sort from superior

    sops = write_series(
        tmp_path / "in", hu, order=np.random.RandomState(1).permutation(12), edit=downward if flip else None
    )
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    marks = {
        "slices": "2;3;7",
        "slice_sops": ";".join(sops[index] for index in (7, 2, 3)),
        "slice_positions_mm": "-94; -91; -79",  # from -100 in steps of 3
    }
    store = Store.open(tmp_path / "store")
    ((volume_id, indices),) = joined_slices(
        store, table(tmp_path, f"study,bleed,{column}\nin,1,{marks[column]}\n")
    ).items()
    assert indices == bright == bright_slices(store, volume_id)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LPI", "SAR", "IRP"])
@pytest.mark.parametrize(("column", "marks"), [("slices", "2;3;7"), ("slice_positions_mm", "-94;-91;-79.4")])
def test_index_and_position_mark_the_same_slices_of_a_turned_nifti(
    tmp_path: Path, codes: str, column: str, marks: str
) -> None:
    hu, bright = marked_block()
    ras = np.array([[2.0, 0, 0, -7], [0, 2, 0, 5], [0, 0, 3, -100], [0, 0, 0, 1]])
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    affine = ras @ nib.orientations.inv_ornt_aff(turn, hu.shape)
    write_nifti(tmp_path / "in" / "S.nii.gz", nib.orientations.apply_orientation(hu, turn), affine)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    ((volume_id, indices),) = joined_slices(store, table(tmp_path, f"study,bleed,{column}\nS,1,{marks}\n")).items()
    assert indices == bright == bright_slices(store, volume_id)


@pytest.mark.parametrize("gantry", [False, True])
def test_the_position_of_a_tilted_slice_is_its_image_position(tmp_path: Path, gantry: bool) -> None:
    """Oblique planes: z of ImagePositionPatient and of a slice's centre differ by more than a slice.

    With a tilted gantry the table moves along z and not along the normal: the volume is resampled, slices keep count.
    """
    tilt = np.radians(15)
    hu, bright = marked_block()
    z_mm: list[float] = []

    def oblique(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
        along = np.array([0, 0, 1]) if gantry else np.array([0, -np.sin(tilt), np.cos(tilt)])
        position = np.array([-20, -30, -100]) + 3 * index * along
        dataset.ImagePositionPatient = [round(float(x), 6) for x in position]
        z_mm.append(round(float(position[2]), 6))

    sops = write_series(tmp_path / "in", hu, edit=oblique)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    assert store.rows["shape"][0].as_py()[1] == (25 if gantry else 20)  # 33 mm of table, 8.5 mm of shear, 2 mm voxels
    for column, marks in (("slice_positions_mm", [str(z) for z in z_mm]), ("slice_sops", sops)):
        cell = ";".join(marks[index] for index in bright)
        path = table(tmp_path, f"study,bleed,{column}\nin,1,{cell}\n")
        assert list(joined_slices(store, path).values()) == [bright]


def test_blank_is_unknown_and_a_study_of_two_series_takes_each_slice_to_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def second(dataset: Dataset, index: int) -> None:
        dataset.SeriesInstanceUID = f"{ROOT_UID}.1.20"
        dataset.SOPInstanceUID = f"{ROOT_UID}.1.30.{index + 1}"

    one = write_series(tmp_path / "in" / "a", block(1))
    two = write_series(tmp_path / "in" / "b", block(2), edit=second)
    write_series(tmp_path / "in" / "c", block(3), study=5)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    text = f"study,bleed,slice_sops\n{ROOT_UID}.1.1,1,{one[4]};{two[9]};1.2.3\nc,0,\n"
    marked = joined_slices(store, table(tmp_path, text))
    found = {
        int(np.abs(store.read(i)[0] - block(n)).max() == 0) * n: cell
        for n in (1, 2, 3)
        for i, cell in marked.items()
        if (store.read(i)[0] == block(n)).all()
    }
    assert found == {1: [4], 2: [9], 3: None}
    assert "1 slices that slice_sops" in capsys.readouterr().err
    with pytest.raises(UserError, match="has 2 volumes, and an index does not tell which"):
        join_labels(store, table(tmp_path, f"study,bleed,slices\n{ROOT_UID}.1.1,1,4\n"))


def test_a_study_goes_by_the_stores_own_hash_too(store: Store, tmp_path: Path) -> None:
    row = store.rows.to_pylist()[1]
    joined = join_labels(store, table(tmp_path, f"study,bleed\n{row['study']},1\n"), ["bleed"])
    assert list(joined.index) == [row["id"]]


def test_a_cell_becomes_the_index_of_its_class_and_blank_is_unknown(store: Store, tmp_path: Path) -> None:
    text = "study,grade\nS00,severe\nS01,none\nS02,\nS03,n/a\n"
    joined = join_labels(store, table(tmp_path, text), classes={"grade": ["none", "severe"]})
    by_volume = {
        int(np.argmax([(store.read(str(i))[0] == block(n)).all() for n in range(4)])): g
        for i, g in joined["grade"].items()
    }
    assert (by_volume[0], by_volume[1]) == (1.0, 0.0)  # `none` is a class where it is named as one
    assert np.isnan([by_volume[2], by_volume[3]]).all()


def test_a_cell_of_no_class_is_an_error_that_names_the_line(store: Store, tmp_path: Path) -> None:
    path = table(tmp_path, "study,grade\nS00,severe\nS01,sever\n")
    with pytest.raises(UserError, match="line 3: grade holds 'sever', which is none of none, severe; blank is unknown"):
        join_labels(store, path, classes={"grade": ["none", "severe"]})
