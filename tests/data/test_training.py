"""What training sees of a store: one side, one of each acquisition, one fold; and nothing that grows with the store."""

from __future__ import annotations

import hmac
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from tests.data.made_store import SECRET, hashed, row, write_store
from volssl.data import (
    Store,
    TrainingScans,
    join_labels,
    refuse_labelled,
    refuse_seen,
    tell_other_key,
    training_labels,
)
from volssl.data.manifest import Row
from volssl.data.store import StoredScan
from volssl.errors import UserError
from volssl.seen import Seen
from volssl.views.base import Scan


def no_views(scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
    raise AssertionError("nothing here is looked at")


def of(store: Path, **options: object) -> TrainingScans:
    return TrainingScans(store, views=no_views, **options)  # type: ignore[arg-type]


def studies(scans: TrainingScans, rows: list[Row]) -> list[int]:
    """Which of the rows, by their place in the list."""
    return sorted(index for index, one in enumerate(rows) if one["id"] in set(scans.ids))


@pytest.fixture
def grouped() -> list[Row]:
    """Twelve volumes; groups {0, 1, 2} and {3, 4} in training, {5, 6} and {7, 8} across, 9 alone, {10, 11} in test."""
    told = ["train"] * 6 + ["test", "validation", "train", "train", "test", "test"]
    rows = [row(f"S{i:02d}", f"P{i}", split=split) for i, split in enumerate(told)]
    for first, second in ((0, 1), (0, 2), (3, 4), (5, 6), (7, 8), (10, 11)):
        rows[second]["group"] = rows[first]["id"]
    return rows


def test_pretraining_takes_one_of_each_group_and_none_that_the_test_knows(
    tmp_path: Path, grouped: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_store(tmp_path / "store", grouped)
    assert studies(of(store), grouped) == [0, 3, 9]
    said = "5 of 8 volumes are near-duplicates and left out: 3 of one that stays, 2 of one in validation or test"
    assert " ".join(capsys.readouterr().err.split()) == said
    assert studies(of(store, unique=False), grouped) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert capsys.readouterr().err == ""


def test_evaluation_and_labelled_training_leave_no_study_out(tmp_path: Path, grouped: list[Row]) -> None:
    store = write_store(tmp_path / "store", grouped)
    assert studies(of(store, split="test"), grouped) == [6, 10, 11]
    assert studies(of(store, split="validation"), grouped) == [7]
    labels = pd.DataFrame(index=[one["id"] for one in grouped[:7]])
    assert studies(of(store, labels=labels), grouped) == [0, 1, 2, 3, 4, 5]
    assert studies(of(store, labels=labels, split="test"), grouped) == [6]
    assert studies(of(store, split="test", unique=True), grouped) == [6, 10]


def test_another_of_the_group_stands_in_where_its_own_is_of_another_kind(tmp_path: Path, grouped: list[Row]) -> None:
    grouped[0]["modality"] = "MR"
    scans = of(write_store(tmp_path / "store", grouped))
    second = min((1, 2), key=lambda index: str(grouped[index]["id"]))
    assert studies(scans, grouped) == [second, 3, 9]


def test_of_near_duplicates_a_preferred_one_is_kept(tmp_path: Path, grouped: list[Row]) -> None:
    store = write_store(tmp_path / "store", grouped)
    labels = pd.DataFrame(index=[grouped[i]["id"] for i in (2, 3, 4, 8, 9)])  # 8 is of a group that validation knows
    assert studies(of(store, preferred=labels), grouped) == [2, 3, 9]
    assert studies(of(store, preferred=labels[:1]), grouped) == [2, 3, 9]
    assert studies(of(store, preferred=labels[2:]), grouped) == [0, 4, 9]
    assert studies(of(store, preferred=labels[:0]), grouped) == studies(of(store), grouped)


def test_a_store_without_groups_leaves_nothing_out(tmp_path: Path, grouped: list[Row]) -> None:
    for one in grouped:
        one["group"] = None
    assert len(of(write_store(tmp_path / "store", grouped))) == 8


def test_a_fold_parts_who_is_not_test(tmp_path: Path) -> None:
    rows = [row(f"S{i}", f"P{i // 2}", split="train" if i < 4 else "validation", fold=i // 2 % 3) for i in range(8)]
    rows += [row("T", "PT", split="test")]
    store = write_store(tmp_path / "store", rows)
    assert studies(of(store), rows) == [0, 1, 2, 3]
    folds = [
        [studies(of(store, split=split, fold=i), rows) for split in ("train", "validation", "test")] for i in range(3)
    ]
    assert folds == [
        [[2, 3, 4, 5], [0, 1, 6, 7], [8]],
        [[0, 1, 4, 5, 6, 7], [2, 3], [8]],
        [[0, 1, 2, 3, 6, 7], [4, 5], [8]],
    ]
    with pytest.raises(UserError, match="has the folds 0 to 2, not fold 3"):
        of(store, fold=3)
    rows[0]["fold"] = None
    with pytest.raises(UserError, match="1 volumes have no fold"):
        of(write_store(tmp_path / "gap", rows), fold=0)
    with pytest.raises(UserError, match="has no folds, not fold 0"):
        of(write_store(tmp_path / "none", [one | {"fold": None} for one in rows]), fold=0)


def test_a_group_across_the_fold_is_left_out_of_training_on_the_others(tmp_path: Path) -> None:
    rows = [row(f"S{i}", f"P{i}", split="train", fold=i) for i in range(4)]
    rows[1]["group"] = rows[0]["id"]
    store = write_store(tmp_path / "store", rows)
    assert studies(of(store, fold=0), rows) == [2, 3]
    assert studies(of(store, fold=2), rows) == [0, 3]
    assert studies(of(store, fold=0, split="validation"), rows) == [0]


def test_patients_of_a_fold_that_were_seen_are_refused(tmp_path: Path) -> None:
    rows = [row(f"S{i}", f"P{i}", split=split, fold=fold) for i, (split, fold) in enumerate(
        [("train", 0), ("train", 1), ("validation", 1), ("test", None)]
    )]  # fmt: skip
    store = write_store(tmp_path / "store", rows)
    ids = [one["id"] for one in rows]
    refuse_seen(store, ids, [hashed("P0"), hashed("P1")])
    refuse_seen(store, ids, [hashed("P1"), hashed("P2")], fold=0)
    with pytest.raises(UserError, match="1 patients of validation and test were seen"):
        refuse_seen(store, ids, [hashed("P0"), hashed("P1")], fold=0)
    with pytest.raises(UserError, match="2 patients of validation and test were seen"):
        refuse_seen(store, ids, [hashed(f"P{i}") for i in range(3)], fold=1)
    refuse_seen(store, ids[:2], [hashed("P2")])


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([], ""),
        (["own"], ""),
        (["own", "f" * 24], "another key"),
        (["own", ""], "not by which key"),
        (["", "f" * 24], "another key"),
    ],
)
def test_patients_of_other_keys_or_of_none_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: list[str], told: str
) -> None:
    store = Store.open(write_store(tmp_path / "store", [row("S0", "P0")]))
    own = hmac.new(SECRET, b"check\0", "sha256").hexdigest()[:24]
    seen = Seen(frozenset([hashed("P0")]), frozenset(own if key == "own" else key for key in keys))
    assert tell_other_key(store, seen, what="model.pt") is (told == "")
    line = capsys.readouterr().err
    assert told in line
    assert line.count("cannot tell whether patients of") == (told != "")


def test_a_store_that_does_not_say_its_key_is_compared_with_nobody(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "store", [row("S0", "P0", split="train")]))
    record = store.path / "store.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "key_check": ""}))
    seen = Seen.of(of(store.path))
    assert seen == Seen(frozenset([hashed("P0")]), frozenset([""]))
    assert not tell_other_key(store, seen, what="model.pt")


def test_fractions_are_nested_and_keep_whole_patients(tmp_path: Path) -> None:
    rows = [row(f"S{i}", f"P{i // 2}", split="train") for i in range(200)]
    rows[199]["group"] = rows[0]["id"]
    store = write_store(tmp_path / "store", rows)
    chosen = [set(of(store, fraction=fraction).ids) for fraction in (0.1, 0.25, 1.0)]
    assert [len(ids) for ids in chosen[1:]] == [50 - (rows[198]["id"] in chosen[1]), 199]
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(set(of(store, fraction=0.1).patients)) == 10
    with pytest.raises(UserError, match="above 0"):
        of(store, fraction=0)


def test_another_draw_takes_other_patients_and_is_nested_too(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [row(f"S{i}", f"P{i}", split="train") for i in range(200)])
    first, second = (set(of(store, fraction=0.1, draw=draw).ids) for draw in (0, 1))
    assert len(first) == len(second) == 20
    assert len(first & second) < 10  # of two draws of 20 in 200, 2 are expected in both
    assert first == set(of(store, fraction=0.1).ids)
    assert second < set(of(store, fraction=0.25, draw=1).ids)
    assert set(of(store, draw=1).ids) == set(of(store).ids)


def test_scans_are_built_when_looked_at_and_behave_as_a_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(f"S{i}", f"P{i}", split="train", shape=[24, 20, 10 + i]) for i in range(6)]
    store = write_store(tmp_path / "store", rows)
    built: list[str] = []
    scan = Store.scan

    def counted(self: Store, volume_id: str) -> StoredScan:
        built.append(volume_id)
        return scan(self, volume_id)

    monkeypatch.setattr(Store, "scan", counted)
    scans = of(store)
    assert built == []
    ordered = sorted(rows, key=lambda one: str(one["id"]))
    assert [one.shape for one in scans.scans[1:3]] == [tuple(one["shape"]) for one in ordered[1:3]]
    assert built == [one["id"] for one in ordered[1:3]]
    assert scans.scans[-1].id == ordered[5]["id"]
    assert scans.ids == [one["id"] for one in ordered]
    assert list(scans.patients) == [one["patient"] for one in ordered]
    assert (scans.ids[2], scans.ids[4:], len(scans.ids)) == (ordered[2]["id"], scans.ids[-2:], 6)
    assert ordered[3]["id"] in scans.ids
    table = pd.DataFrame({"y": range(6)}, index=[one["id"] for one in ordered[::-1]])
    assert list(table.loc[scans.ids]["y"]) == [5, 4, 3, 2, 1, 0]
    with pytest.raises(IndexError):
        scans.scans[6]


def test_a_worker_is_sent_keys_alone(tmp_path: Path) -> None:
    rows = [row(f"S{i}", f"P{i}", split="train" if i % 2 else "test") for i in range(4000)]
    scans = of(write_store(tmp_path / "store", rows))
    assert scans.scans[7].shape == (24, 20, 12)  # looked at: what the store has read by now must stay behind
    sent = pickle.dumps(scans)
    assert len(sent) < 2000 * 60 + 2000
    there: TrainingScans = pickle.loads(sent)
    assert there.ids == scans.ids
    assert there.scans[1999].id == scans.ids[1999]


def test_labels_that_are_mixed_in_are_those_of_a_fine_tuning_with_the_same_fraction_and_draw(tmp_path: Path) -> None:
    rows = [row(f"S{i:02d}", f"P{i}", split="train" if i < 16 else "test") for i in range(20)]
    store = write_store(tmp_path / "store", rows)
    table = pd.DataFrame({"patient": [one["patient"] for one in rows]}, index=[one["id"] for one in rows]).sort_index()
    mixed = [training_labels(Store.open(store), table, fraction=0.25, draw=draw) for draw in (0, 1)]
    tuned = [of(store, labels=table, fraction=0.25, draw=draw) for draw in (0, 1)]
    assert [len(part) for part in mixed] == [4, 4]
    assert [set(part["patient"]) for part in mixed] == [set(scans.patients) for scans in tuned]
    assert set(mixed[0]["patient"]) != set(mixed[1]["patient"])


def test_a_share_is_of_the_studies_of_which_a_label_is_known(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [row(f"S{i:02d}", f"P{i}", split="train") for i in range(20)])
    (tmp_path / "labels.csv").write_text(
        "study,bleed,other\n" + "".join(f"S{i:02d},{i % 2 if i < 8 else ''},1\n" for i in range(20))
    )
    opened = Store.open(store)
    table = join_labels(opened, tmp_path / "labels.csv", ["bleed"])
    known = {hashed(f"P{i}") for i in range(8)}
    assert len(table) == 20
    assert set(of(store, labels=table).patients) == known
    half = of(store, labels=table, fraction=0.5)
    assert len(half.ids) == 4
    assert set(half.patients) < known
    assert set(training_labels(opened, table, fraction=0.5)["patient"]) == set(half.patients)
    both = join_labels(opened, tmp_path / "labels.csv", ["bleed", "other"])
    assert len(of(store, labels=both, fraction=0.5).ids) == 10
    with pytest.raises(UserError, match="no labelled CT volume of a train patient; label or prepare more"):
        of(store, labels=table.assign(has_label=False))


def test_those_of_whom_nothing_is_known_are_still_looked_at_in_validation(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [row(f"S{i}", f"P{i}", split="validation") for i in range(4)])
    (tmp_path / "labels.csv").write_text("study,bleed\nS0,1\nS1,\nS2,0\nS3,\n")
    table = join_labels(Store.open(store), tmp_path / "labels.csv", ["bleed"])
    assert len(of(store, labels=table, split="validation").ids) == 4


def test_labels_beyond_a_share_are_refused_and_those_of_another_store_are_not(tmp_path: Path) -> None:
    store = Store.open(write_store(tmp_path / "store", [row(f"S{i}", f"P{i}", split="train") for i in range(6)]))
    everyone = [hashed(f"P{i}") for i in range(6)]
    refuse_labelled(store, everyone[:3], everyone[:3], what="e", instead="i")
    refuse_labelled(store, everyone[:3], [everyone[0], hashed("a stranger")], what="e", instead="i")
    with pytest.raises(UserError, match=f"^e: .* labels of 1 patients more .first: {everyone[3]}.*; i$"):
        refuse_labelled(store, everyone[:3], [everyone[0], everyone[3]], what="e", instead="i")
