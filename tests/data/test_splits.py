"""Splits and folds: by patient, balanced by label, and nobody moves when patients are added."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom
from sklearn.model_selection import StratifiedGroupKFold

from tests.data.made_store import SECRET, hashed, row, write_store
from tests.data.sources import write_cohort
from volssl.data import prepare
from volssl.data.manifest import Row, table_of
from volssl.data.patients import settle_splits
from volssl.data.split_store import split_store
from volssl.data.splits import SplitPlan, TwoSidesError, fold_of, read_split_plan, same_person, split_of
from volssl.data.store import Store
from volssl.data.strata import dealt, merged
from volssl.errors import UserError

FIVE = SplitPlan(folds=5)


def cohort(n: int) -> list[Row]:
    """`n` patients P0, P1 ... of one to three studies each: P0's are 0.0, 0.1 ..."""
    return [row(f"{i}.{j}", f"P{i}") for i in range(n) for j in range(1 + i % 3)]


def sides(rows: Sequence[Row], column: str = "split") -> dict[str, object]:
    """The side of each patient, one alone."""
    held: dict[str, set[object]] = {}
    for one in rows:
        held.setdefault(one["patient"], set()).add(one[column])
    assert {len(values) for values in held.values()} == {1}
    return {patient: values.pop() for patient, values in held.items()}


def stored(store: Path) -> list[Row]:
    return list(Store.open(store).rows.to_pylist())


def labelled(folder: Path, rows: Mapping[str, object], name: str = "hemorrhage") -> Path:
    folder.mkdir(exist_ok=True)
    lines = [f"{study},{value}" for study, value in rows.items()]
    (folder / "labels.csv").write_text("\n".join([f"study,{name}", *lines]) + "\n")
    return folder / "labels.csv"


def settled_store(tmp_path: Path, n: int) -> Path:
    rows = cohort(n)
    settle_splits(rows, SECRET)
    return write_store(tmp_path / "store", rows)


# By hash


def test_the_hash_keeps_its_shares_of_splits_and_folds() -> None:
    rows = cohort(3000)
    settle_splits(rows, SECRET, FIVE)
    splits, folds = Counter(sides(rows).values()), Counter(sides(rows, "fold").values())
    for name, share in zip(("train", "validation", "test"), (0.7, 0.15, 0.15), strict=True):
        low, high = binom.interval(0.999, 3000, share)
        assert low <= splits[name] <= high
    assert folds.pop(None) == splits["test"]
    assert sorted(folds) == [0, 1, 2, 3, 4]
    low, high = binom.interval(0.9998, folds.total(), 0.2)
    assert all(low <= count <= high for count in folds.values())


def test_split_and_fold_are_drawn_apart() -> None:
    """One draw for both would put all of validation into one fold."""
    validation = [p for p in map(str, range(4000)) if split_of(p, SECRET) == "validation"]
    assert all(80 < count < 160 for count in Counter(fold_of(p, SECRET, 5) for p in validation).values())


def test_adding_patients_moves_nobody() -> None:
    rows = cohort(200)
    settle_splits(rows, SECRET, FIVE)
    before = {one["id"]: (one["split"], one["fold"]) for one in rows}
    both = [row(f"new {i}", f"N{i}") for i in range(100)] + rows
    settle_splits(both, SECRET, FIVE)
    assert {one["id"]: (one["split"], one["fold"]) for one in both if one["id"] in before} == before
    assert all((one["fold"] is None) == (one["split"] == "test") for one in both)
    alone = [one | {"split": None, "fold": None} for one in both]
    settle_splits(alone, SECRET, FIVE)
    assert [(one["split"], one["fold"]) for one in alone] == [(one["split"], one["fold"]) for one in both]


def test_the_plans_fractions_are_those_of_the_draw() -> None:
    rows = cohort(400)
    settle_splits(rows, SECRET, SplitPlan((0.0, 0.5, 0.5)))
    counts = Counter(sides(rows).values())
    assert set(counts) == {"validation", "test"}
    assert 150 < counts["test"] < 250


# One side for each patient


def test_a_patient_on_two_sides_is_refused() -> None:
    rows = [row("a", "Ann", split="train"), row("b", "Ann", split="test"), row("c", "Bob", split="test")]
    with pytest.raises(TwoSidesError, match=f"the patient {hashed('Ann')} is on two sides of the split .split test"):
        settle_splits(rows, SECRET)
    rows = [row("a", "Ann", split="train", fold=0), row("b", "Ann", split="train", fold=3)]
    with pytest.raises(TwoSidesError, match="fold 0 and 3"):
        settle_splits(rows, SECRET, FIVE)


def test_a_second_study_goes_where_its_patient_is_and_leaves_the_folds_with_it() -> None:
    rows = [
        row("a", "Ann", split="test"),
        row("b", "Ann", fold=2),
        row("c", "Bob", split="train", fold=4),
        row("d", "Bob"),
    ]
    settle_splits(rows, SECRET, FIVE)
    assert [(one["split"], one["fold"]) for one in rows] == [("test", None)] * 2 + [("train", 4)] * 2


def test_near_duplicates_of_an_unknown_patient_go_where_the_known_one_is() -> None:
    stands = row("a", "Ann", split="test")["id"]
    rows = [row("a", "Ann", split="test"), row("again"), row("third"), row("other"), row("b", "Bob", split="train")]
    for one in rows[1:3]:
        one["group"] = stands
    rows[4]["group"] = rows[3]["id"]
    settle_splits(rows, SECRET)
    assert [one["split"] for one in rows] == ["test", "test", "test", "train", "train"]


def test_whom_two_sides_claim_goes_to_training_which_leaves_such_groups_out() -> None:
    rows = [row("a", split="test"), row("b", split="train"), row("c")]
    for one in rows:
        one["group"] = rows[0]["id"]
    settle_splits(rows, SECRET)
    assert [one["split"] for one in rows] == ["test", "train", "train"]


def test_two_named_patients_stay_two_whatever_their_groups() -> None:
    ann, bob, nobody = row("a", "Ann"), row("b", "Bob"), row("c")
    bob["group"] = ann["id"]
    assert same_person([ann, bob, nobody]) == {one["patient"]: one["patient"] for one in (ann, bob, nobody)}
    nobody["group"] = ann["id"]
    people = same_person([ann, bob, nobody])
    assert set(people.values()) == {min(hashed("Ann"), hashed("Bob"))}


def test_persons_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = [row(f"s{i}") for i in range(40)]
    for first, second in ((0, 1), (1, 2), (7, 9), (9, 30), (30, 2)):
        rows.append(rows[second] | {"id": f"x{first}", "group": rows[first]["id"]})
    people = same_person(rows)
    assert people == same_person(rows[::-1])
    one = {people[rows[i]["patient"]] for i in (0, 1, 2, 7, 9, 30)}
    assert len(one) == 1
    assert len(set(people.values())) == 35


# Balanced by label


def test_dealt_shares_are_exact_but_for_rounding() -> None:
    rng = np.random.RandomState(0)
    for shares in ({"a": 0.7, "b": 0.15, "c": 0.15}, dict.fromkeys("abcde", 0.2), {"a": 1.0, "b": 0.0}):
        strata = {f"p{i}": (float(rng.geometric(0.4)),) for i in range(rng.randint(50, 500))}
        placed = dealt(strata, {}, strata, shares)
        counts = Counter((strata[person], side) for person, side in placed.items())
        sizes = Counter(strata.values())
        assert placed.keys() == strata.keys()
        assert all(
            abs(counts[s, side] - share * n) < 1 + 1e-9 for s, n in sizes.items() for side, share in shares.items()
        )
        overall = Counter(placed.values())
        assert all(abs(overall[side] - share * len(strata)) < 2 for side, share in shares.items())


def test_many_small_strata_do_not_all_round_the_same_way() -> None:
    strata = {f"p{i}": (float(i // 3),) for i in range(300)}
    placed = Counter(dealt(strata, {}, strata, {"train": 0.7, "validation": 0.15, "test": 0.15}).values())
    assert placed == {"train": 210, "validation": 45, "test": 45}


def test_newcomers_fill_what_is_most_under_its_share() -> None:
    strata = {f"p{i}": (1.0,) for i in range(20)}
    taken = {f"p{i}": "train" for i in range(8)} | {"p8": "test"}
    placed = dealt([f"p{i}" for i in range(9, 20)], taken, strata, {"train": 0.5, "test": 0.5})
    assert Counter(placed.values()) == {"test": 9, "train": 2}


def test_rare_strata_lose_their_last_label_first() -> None:
    labels = {f"a{i}": (1.0, 0.0) for i in range(6)} | {"b": (1.0, 1.0), "c": (1.0, None), "d": (0.0, 1.0)}
    strata = merged(labels, 2)
    assert {strata[f"a{i}"] for i in range(6)} == {(1.0, 0.0)}
    assert (strata["b"], strata["c"], strata["d"]) == ((1.0,), (1.0,), ())


def test_folds_are_as_even_as_scikit_learns_and_no_patient_is_in_two(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 300)
    rng = np.random.RandomState(1)
    y = {one["id"]: int(rng.rand() < 0.2) for one in stored(store)}
    names = {row(f"{i}.{j}")["id"]: f"{i}.{j}" for i in range(300) for j in range(3)}
    table = split_store(
        store, labels=labelled(tmp_path, {names[i]: v for i, v in y.items()}), stratify=["hemorrhage"], folds=5
    )
    rows = [one for one in stored(store) if one["split"] != "test"]
    folds = sides(rows, "fold")
    positive = {p: max(y[one["id"]] for one in rows if one["patient"] == p) for p in folds}
    counts = [Counter(folds[p] for p in folds if positive[p] == value) for value in (0, 1)]
    assert all(max(count.values()) - min(count.values()) <= 1 for count in counts)
    assert [side.positives["hemorrhage"] for side in table.folds] == [counts[1][i] for i in range(5)]

    groups = [one["patient"] for one in rows]
    drawn = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(rows, [positive[p] for p in groups], groups)
    theirs = [Counter(positive[p] for p in {groups[i] for i in test}) for _, test in drawn]

    def spread(shares: Sequence[float]) -> float:
        return max(shares) - min(shares)

    ours = [counts[1][i] / (counts[0][i] + counts[1][i]) for i in range(5)]
    assert spread(ours) <= spread([count[1] / count.total() for count in theirs])
    assert spread(ours) <= 1 / min(counts[0][i] + counts[1][i] for i in range(5))


def test_a_stratified_redraw_balances_the_splits_where_the_hash_does_not(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 120)
    labels = labelled(tmp_path, {f"{i}.0": int(i % 6 == 0) for i in range(120)})
    table = split_store(store, labels=labels, stratify=["hemorrhage"], redraw=True)
    assert [side.patients for side in table.splits] == [84, 18, 18]
    assert [side.positives["hemorrhage"] for side in table.splits] == [14, 3, 3]
    again = split_store(store, labels=labels, stratify=["hemorrhage"], redraw=True)
    assert again == table


def test_a_patient_is_positive_where_any_study_is_and_unknown_is_a_stratum(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 90)
    cells: dict[str, object] = {f"{i}.{j}": 0 for i in range(60) for j in range(1 + i % 3)}
    cells |= {f"{i}.{i % 3}": 1 for i in range(20)}  # the last study of these alone
    cells |= {f"{i}.0": "" for i in range(60, 75)}  # blank; the rest has no line
    table = split_store(
        store, labels=labelled(tmp_path, cells), stratify=["hemorrhage"], redraw=True, fractions=(0.8, 0.1, 0.1)
    )
    assert [side.positives["hemorrhage"] for side in table.splits] == [16, 2, 2]
    assert [side.known["hemorrhage"] for side in table.splits] == [48, 6, 6]
    assert [side.patients for side in table.splits] == [72, 9, 9]


# The command


def test_without_options_nothing_is_written_and_everything_counted(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 50)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir() if path.is_file()}
    table = split_store(store, labels=labelled(tmp_path, {f"{i}.0": i % 2 for i in range(50)}))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.iterdir() if path.is_file()} == files
    expected = Counter(sides(stored(store)).values())
    assert {side.name: side.patients for side in table.splits} == expected
    assert sum(side.volumes for side in table.splits) == table.whole.volumes == sum(1 + i % 3 for i in range(50))
    assert (table.whole.positives, table.whole.known) == ({"hemorrhage": 25}, {"hemorrhage": 50})
    assert "hemorrhage" in str(table)
    assert "25 (50.0%)" in str(table)
    assert json.loads(json.dumps(table.as_dict()))["whole"]["patients"] == 50


def test_folds_partition_who_is_not_test_and_stay_for_those_who_come(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 60)
    before = sides(stored(store))
    table = split_store(store, folds=4)
    rows = stored(store)
    assert sides(rows) == before
    assert sum(side.patients for side in table.folds) == 60 - table.splits[2].patients
    assert max(side.patients for side in table.folds) - min(side.patients for side in table.folds) <= 1
    assert {one["fold"] for one in rows if one["split"] == "test"} == {None}
    assert read_split_plan(store) == SplitPlan(folds=4)

    more = rows + [row(f"new {i}", f"N{i}") for i in range(100)]
    settle_splits(more, SECRET, read_split_plan(store))
    assert {one["id"]: one["fold"] for one in more[: len(rows)]} == {one["id"]: one["fold"] for one in rows}
    assert {one["fold"] for one in more[len(rows) :] if one["split"] != "test"} == {0, 1, 2, 3}

    assert split_store(store, folds=4) == table
    assert split_store(store, folds=4, redraw=True) == table
    pq.write_table(table_of([one | {"fold": one["fold"] and 1} for one in rows]), store / "manifest.parquet")
    assert split_store(store) != table
    assert split_store(store, redraw=True) == table
    other = split_store(store, folds=3)
    assert sides(stored(store)) == before
    assert len(other.folds) == 3
    assert {one["fold"] for one in stored(store)} == {None, 0, 1, 2}


def test_what_prepare_adds_keeps_to_the_plan_and_moves_nobody(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "cohort", 10)], tmp_path / "store", workers=0)
    split_store(tmp_path / "store", folds=3, fractions=(0.5, 0.0, 0.5), redraw=True)
    before = {one["id"]: (one["split"], one["fold"]) for one in stored(tmp_path / "store")}
    prepare([write_cohort(tmp_path / "cohort", 30)], tmp_path / "store", workers=0)
    rows = stored(tmp_path / "store")
    assert {one["id"]: (one["split"], one["fold"]) for one in rows if one["id"] in before} == before
    new = [one for one in rows if one["id"] not in before]
    assert len(new) == 20
    for one in new:
        assert one["split"] == split_of(one["patient"], SECRET, (0.5, 0.0, 0.5))
        assert one["fold"] == (None if one["split"] == "test" else fold_of(one["patient"], SECRET, 3))


def test_what_is_settled_stays_unless_redrawn(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 200)
    before = sides(stored(store))
    split_store(store, fractions=(0.5, 0.25, 0.25))
    assert sides(stored(store)) == before
    assert read_split_plan(store).fractions == (0.5, 0.25, 0.25)
    would = split_store(store, redraw=True, dry_run=True)
    assert sides(stored(store)) == before
    assert split_store(store, redraw=True) == would
    after = sides(stored(store))
    assert after == {patient: split_of(patient, SECRET, (0.5, 0.25, 0.25)) for patient in before}
    assert after != before


def test_the_users_split_goes_before_every_draw(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 30)
    told = {f"{i}.0": "test" if i < 10 else "train" for i in range(20)}
    lines = [f"{study},P{study.split('.')[0]},{side}" for study, side in told.items()]
    (tmp_path / "patients.csv").write_text("\n".join(["study,patient,split", *lines]))
    before = sides(stored(store))
    split_store(store, patients=tmp_path / "patients.csv", folds=3)
    after = sides(stored(store))  # all studies of a patient, though the table names the first alone
    assert [after[hashed(f"P{i}")] for i in range(20)] == ["test"] * 10 + ["train"] * 10
    assert all(after[hashed(f"P{i}")] == before[hashed(f"P{i}")] for i in range(20, 30))
    split_store(store, patients=tmp_path / "patients.csv", redraw=True)
    assert [sides(stored(store))[hashed(f"P{i}")] for i in range(20)] == ["test"] * 10 + ["train"] * 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fractions": (0.5, 0.2, 0.2)}, "0.5 0.2 0.2 are no shares"),
        ({"fractions": (0.5, 0.5)}, "three that sum to 1"),
        ({"fractions": (1.2, -0.1, -0.1)}, "three that sum to 1"),
        ({"folds": 1}, "1 folds part nothing"),
        ({"folds": 21}, "21 folds of [0-9]+ patients who are not test"),
        ({"stratify": ["hemorrhage"]}, "--labels CSV"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_changes(
    tmp_path: Path, options: dict[str, object], match: str
) -> None:
    store = settled_store(tmp_path, 20)
    before = (store / "manifest.parquet").read_bytes()
    with pytest.raises(UserError, match=match):
        split_store(store, **options)  # type: ignore[arg-type]
    assert (store / "manifest.parquet").read_bytes() == before
    assert not read_split_plan(store).folds


def test_a_store_with_a_patient_on_two_sides_is_refused_by_its_studies_names(tmp_path: Path) -> None:
    rows = [row("S1", "Ann", split="train"), row("S2", "Ann", split="test"), row("S3", "Bob", split="train")]
    store = write_store(tmp_path / "store", rows)
    with pytest.raises(UserError, match=rf"the patient {hashed('Ann')} is on two sides"):
        split_store(store)
    with pytest.raises(UserError, match=r"\(studies S2, S1\)"):
        split_store(store, labels=labelled(tmp_path, {"S3": 0, "S2": 1, "S1": 1}))
    assert [side.patients for side in split_store(store, redraw=True, folds=2).folds] == [1, 1]


def test_a_measure_is_no_stratum(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 40)
    with pytest.raises(UserError, match="volume_ml has 40 values"):
        split_store(
            store, labels=labelled(tmp_path, {f"{i}.0": i for i in range(40)}, "volume_ml"), stratify=["volume_ml"]
        )


def test_groups_on_two_sides_are_told(tmp_path: Path) -> None:
    rows = [row("a", "Ann", split="train"), row("b", "Bob", split="test"), row("c", "Cy", split="train")]
    rows[1]["group"] = rows[0]["id"]
    table = split_store(write_store(tmp_path / "store", rows))
    assert table.divided == (rows[0]["id"],)
    assert f"1 groups of near-duplicates lie on two sides of the split ({rows[0]['id']})" in str(table)


def test_an_unfinished_prepare_is_not_split(tmp_path: Path) -> None:
    store = settled_store(tmp_path, 20)
    (store / "journal.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="a prepare is at work or was cut short"):
        split_store(store, folds=3)
