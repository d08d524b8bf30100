"""Patients: told by a table or by the files, hashed, and each on one side of the split for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.made_store import SECRET, hashed, row
from tests.data.sources import write_cohort
from volssl.data import Store, prepare, split_of
from volssl.data.keys import keyed_hash, study_alias
from volssl.data.patients import find_patients, join_patients, read_patients, settle_splits
from volssl.data.splits import SplitPlan
from volssl.errors import UserError


def prepared(tmp_path: Path, table: str, n: int = 4) -> list[dict[str, object]]:
    cohort = write_cohort(tmp_path / "cohort", n)
    (tmp_path / "table.csv").write_text(table)
    prepare([cohort], tmp_path / "store", patients=tmp_path / "table.csv", workers=0)
    return list(Store.open(tmp_path / "store").rows.to_pylist())


def test_the_table_tells_what_files_do_not(tmp_path: Path) -> None:
    rows = prepared(
        tmp_path,
        "study,patient,sex,age,site,scanner,more\n"
        "S00.nii.gz, Ann ,F,61.7,A,X1,1\nS01,Ann,F,62,A,X2,2\nS02,Bob,,,,,\nS03,Cy,M,8,,,\n",
    )
    key = Store.open(tmp_path / "store").key
    ann = [row for row in rows if row["patient"] == keyed_hash(key, "patient", "Ann")]
    assert sorted((row["age_years"], row["scanner"], row["site"], row["age_band"]) for row in ann) == [
        (61, "X1", "A", "60-79"), (62, "X2", "A", "60-79")
    ]  # fmt: skip
    assert len({row["patient"] for row in rows}) == 3
    assert len({row["split"] for row in ann}) == 1
    assert sorted(str(row["sex"]) for row in rows) == ["F", "F", "M", "None"]
    assert not any("unknown" in note for row in rows for note in row["notes"])


def test_the_tables_of_all_source_folders_are_joined_and_may_not_contradict_each_other(tmp_path: Path) -> None:
    texts = ["study,patient,split\na,Ann,train\n", "study,patient,sex,split\nb,Bob,M,validation\n"]
    roots = [tmp_path / "first", tmp_path / "second"]
    for root, text in zip(roots, texts, strict=True):
        root.mkdir()
        (root / "patients.csv").write_text(text)
    table = find_patients([*roots, roots[0]], None)
    assert table is not None
    assert table.frame.to_dict("records") == [
        {"study": "a", "patient": "Ann", "split": "train", "sex": ""},
        {"study": "b", "patient": "Bob", "split": "validation", "sex": "M"},
    ]
    (roots[1] / "patients.csv").write_text("study,patient,split\nb,Ann,test\n")
    with pytest.raises(UserError, match="the patient 'Ann' on two sides"):
        find_patients(roots, None)
    (roots[1] / "patients.csv").write_text("study,patient\na,Ann\n")
    with pytest.raises(UserError, match=r"second.*names the study 'a', as .*first.* does"):
        find_patients(roots, None)


def test_words_of_a_table_are_taken_as_they_are_meant_and_no_free_text_for_a_sex(tmp_path: Path) -> None:
    rows = prepared(tmp_path, "study,patient,split,sex\nS00,Ann,Train,female\nS01,Bob,val,m\nS02,Cy,TEST,\n")
    told = {(row["split"], row["sex"]) for row in rows if "unknown" not in str(row["notes"])}
    assert told == {("train", "F"), ("validation", "M"), ("test", None)}
    (tmp_path / "wrong.csv").write_text("study,patient,sex\nS00,Ann,F\nS01,Bob,Robert Robson\n")
    with pytest.raises(UserError, match="line 3: the sex 'Robert Robson' is none of F, M and O"):
        read_patients(tmp_path / "wrong.csv")


def test_a_later_table_that_moves_a_patient_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, "study,patient,split\nS00,Ann,train\nS01,Ann,train\n")
    (tmp_path / "later.csv").write_text("study,patient,split\nS01,Ann,test\n")
    prepare([tmp_path / "cohort"], tmp_path / "store", patients=tmp_path / "later.csv", workers=0)
    assert "1 patient goes to another side, as later.csv says" in capsys.readouterr().err
    assert sorted(row["split"] for row in Store.open(tmp_path / "store").rows.to_pylist()).count("test") >= 2


def test_given_splits_are_honoured_and_reach_every_study_of_the_patient(tmp_path: Path) -> None:
    rows = prepared(tmp_path, "study,patient,split\nS00,Ann,test\nS01,Ann,\nS02,Bob,validation\nS03,Cy,train\n")
    assert sorted(row["split"] for row in rows) == ["test", "test", "train", "validation"]


def test_a_split_told_of_one_study_moves_the_patients_others_and_ends_their_folds(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("study,patient,split\nb,Ann,test\n")
    rows = [row(study, "Ann", split="train", fold=1) for study in "abc"] + [row("d", "Bob", split="train", fold=0)]
    join_patients(rows, read_patients(tmp_path / "table.csv"), SECRET)
    settle_splits(rows, SECRET)
    assert [(one["split"], one["fold"]) for one in rows] == [("test", None)] * 3 + [("train", 0)]


def test_a_study_named_under_two_of_its_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("study,patient,split\na,Ann,test\n1.2.3,Bob,train\n")
    rows = [row("a", aliases=[study_alias(SECRET, name) for name in ("a", "1.2.3")])]
    with pytest.raises(UserError, match=r"names one study twice, as 'a' and '1\.2\.3'"):
        join_patients(rows, read_patients(tmp_path / "table.csv"), SECRET)


def test_a_patient_who_becomes_known_takes_the_side_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("study,patient\na,Ann\n")
    rows = [row("a", split="validation", fold=2), row("b", "Ann", split="train", fold=4)]
    join_patients(rows, read_patients(tmp_path / "table.csv"), SECRET)
    settle_splits(rows, SECRET, SplitPlan(folds=5))
    assert [(one["patient"], one["split"], one["fold"]) for one in rows] == [(hashed("Ann"), "train", 4)] * 2


def test_a_table_that_comes_later_moves_both_studies_of_a_patient_together(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 12)
    prepare([cohort], tmp_path / "store", workers=0)
    before = {row["id"]: row["split"] for row in Store.open(tmp_path / "store").rows.to_pylist()}
    assert len(set(before.values())) > 1  # each study a patient of its own: they fell apart
    (cohort / "patients.csv").write_text("study,patient\n" + "".join(f"S{i:02d},Ann\n" for i in range(12)))
    prepare([cohort], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").rows.to_pylist()
    assert {row["split"] for row in rows} == {split_of(rows[0]["patient"], Store.open(tmp_path / "store").key)}


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("study,name\nS00,Ann\n", "no column 'patient'"),
        ("study,patient\nS00,\n", "line 2 has no patient"),
        ("study,patient\nS00,Ann\nS00,Bob\n", "names the study 'S00' twice"),
        ("study,patient,split\nS00,Ann,train\nS01,Ann,test\n", "'Ann' on two sides"),
        ("study,patient,split\nS00,Ann,dev\n", "'dev' is none of train, validation, test"),
        ("study,patient,age\nS00,Ann,old\n", "line 2: the age 'old'"),
        ("study,patient\nX1,Ann\nX2,Bob\n", "names no study of the store"),
        ("study,patient\nvolumes,Ann\n", "'volumes' fits two studies"),
    ],
)
def test_a_table_that_contradicts_itself_or_the_store_is_an_error(tmp_path: Path, table: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        prepared(tmp_path, table, n=2)


def test_a_missing_table_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 1)
    with pytest.raises(UserError, match=r"the patient table .*none.csv does not exist"):
        prepare([cohort], tmp_path / "store", patients=tmp_path / "none.csv", workers=0)
    assert list((tmp_path / "store" / "volumes").iterdir()) == []


def test_splits_have_their_shares_and_adding_patients_moves_nobody() -> None:
    key = b"k" * 32
    drawn = [split_of(str(patient), key) for patient in range(20000)]
    shares = [drawn.count(name) / len(drawn) for name in ("train", "validation", "test")]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.01)
    assert [split_of(str(patient), b"j" * 32) for patient in range(50)] != drawn[:50]
    assert split_of("x", key, (0, 0, 1)) == "test"
    with pytest.raises(ValueError, match="do not sum to one"):
        split_of("x", key, (0.5, 0.2, 0.2))
