"""Who is paired with whom: against a plain search through all rows, and never across the split."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from tests.data.made_store import row, write_store
from volssl.data import Store, TrainingScans
from volssl.data.manifest import Row
from volssl.data.pairs import Partners
from volssl.data.training import training_labels
from volssl.errors import UserError
from volssl.views.base import Scan


class Names:
    """Views that tell which scans they were given."""

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        return self.pair(scan, scan, rng)

    def pair(self, scan: Scan, partner: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        return {name: torch.tensor(list(one.id.encode())) for name, one in (("crop0", scan), ("crop1", partner))}


def name(code: Tensor) -> str:
    return bytes(code.tolist()).decode()


def drawn_rows(n: int, seed: int) -> list[Row]:
    """Volumes of few studies, of fewer patients, of three sexes (one unknown) and some unknown ages."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        study = int(rng.integers(n // 2))
        who = study % (n // 5)
        known = rng.uniform() < 0.8
        rows.append(
            row(f"S{i}", f"P{who}", split=["train", "train", "test"][who % 3], modality=["CT", "MR"][i % 7 == 0])
            | {"study": f"{study:024d}", "sex": [None, "F", "M"][who % 3 - 1]}
            | {"age_years": int(rng.integers(20, 60)) if known else None}
        )
    return sorted(rows, key=lambda one: str(one["id"]))


def expected(rows: list[Row], kind: str, me: Row, years: int) -> set[str]:
    """The same by looking at everybody."""
    found = set()
    for other in rows:
        if other is me or other["modality"] != me["modality"]:
            continue
        series = other["study"] == me["study"]
        patient = other["patient"] == me["patient"] and not series
        ages = (other["age_years"], me["age_years"])
        age = None not in ages and abs(ages[0] - ages[1]) <= years and other["sex"] == me["sex"]
        if {"series": series, "patient": patient, "age": age}[kind]:
            found.add(str(other["id"]))
    return found or {str(me["id"])}


@pytest.mark.parametrize("kind", ["series", "patient", "age"])
def test_partners_are_those_that_a_search_through_all_training_rows_finds(tmp_path: Path, kind: str) -> None:
    rows = drawn_rows(60, seed=3)
    store = write_store(tmp_path / "store", rows)
    scans = TrainingScans(store, views=Names(), modality="CT+MR", pairs=kind, age_years=3)
    mine = [one for one in rows if one["split"] == "train"]
    assert list(scans.ids) == [one["id"] for one in mine]
    alone = 0
    for index, me in enumerate(mine):
        samples = [scans[epoch, index] for epoch in range(60)]
        assert {name(sample["crop0"]) for sample in samples} == {me["id"]}
        among = {name(sample["crop1"]) for sample in samples}
        wanted = expected(mine, kind, me, 3)
        assert among <= wanted
        assert len(wanted) > 6 or among == wanted  # 60 draws of up to six: a gap has a probability under 1e-3
        alone += wanted == {me["id"]}
    assert scans.partners is not None
    assert scans.partners.paired == len(mine) - alone
    assert 0 < alone < len(mine)


@pytest.mark.parametrize("kind", ["series", "patient", "age"])
def test_a_partner_is_kin_and_a_stranger_is_none(tmp_path: Path, kind: str) -> None:
    rows = [one | {"split": "train"} for one in drawn_rows(60, seed=4)]
    table = Store.open(write_store(tmp_path / "store", rows)).rows
    partners = Partners(table, kind, age_years=3)
    kin = np.array([partners.kin(i) for i in range(60)])
    near = (kin[:, 1:2] <= kin[:, 0]) & (kin[:, 0] < kin[:, 2:])  # (60, 60): row i holds who is kin to i
    assert near.diagonal().all()
    for i, me in enumerate(rows):
        allowed = expected(rows, kind, me, 3) | {me["id"]}
        if kind == "patient":  # the other series of one's own study are as near
            allowed |= {o["id"] for o in rows if o["patient"] == me["patient"] and o["modality"] == me["modality"]}
        assert {rows[j]["id"] for j in np.flatnonzero(near[i])} == allowed


def test_every_partner_is_as_likely() -> None:
    table = pa.table({"id": [*"abcde"], "modality": ["CT"] * 5, "study": ["s"] * 5, "patient": ["p"] * 5,
                      "sex": pa.array([None] * 5, pa.string()), "age_years": [40, 41, 42, 43, 44]})  # fmt: skip
    partners = Partners(table, "series")
    rng = np.random.RandomState(0)
    counts = np.bincount([partners.partner_of(2, rng) for _ in range(4000)], minlength=5)
    assert counts[2] == 0
    assert abs(counts[[0, 1, 3, 4]] - 1000).max() < 110  # four standard deviations


def test_one_volume_a_sample_unless_asked_and_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(f"S{i}", f"P{i // 2}", split="train") | {"age_years": 40 + 10 * (i // 2)} for i in range(4)]
    store = write_store(tmp_path / "store", rows)
    plain = TrainingScans(store, views=Names())
    assert plain.partners is None
    assert "kin" not in plain[0, 0]
    TrainingScans(store, views=Names(), pairs="patient")
    assert "4 of 4 volumes have another study of the patient" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="no volume has another series of the study"):
        TrainingScans(store, views=Names(), pairs="series")
    with pytest.raises(UserError, match="choose one of volume, series, patient, age"):
        TrainingScans(store, views=Names(), pairs="twins")
    with pytest.raises(UserError, match="looks at one volume at a time"):
        TrainingScans(store, views=lambda scan, rng: {}, pairs="patient")


def test_the_partner_is_a_function_of_seed_epoch_and_index_in_every_worker(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [row(f"S{i}", "P", split="train") for i in range(20)])
    scans = TrainingScans(store, views=Names(), pairs="patient")
    there: TrainingScans = pickle.loads(pickle.dumps(scans))
    first = [name(scans[0, i]["crop1"]) for i in range(20)]
    assert [name(there[0, i]["crop1"]) for i in range(20)] == first
    assert [name(scans[1, i]["crop1"]) for i in range(20)] != first


def test_a_million_volumes_take_bytes_and_no_objects() -> None:
    n = 200_000
    rng = np.random.default_rng(0)
    table = pa.table({"id": pa.nulls(n, pa.string()), "modality": ["CT"] * n, "study": np.arange(n).astype(str),
                      "patient": (np.arange(n) // 3).astype(str), "sex": rng.choice(["F", "M"], n),
                      "age_years": rng.integers(20, 90, n)})  # fmt: skip
    for kind in ("series", "patient", "age"):
        tracemalloc.start()
        partners = Partners(table, kind)
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert kept < 25 * n
        assert partners.paired == (0 if kind == "series" else n if kind == "age" else n - (n % 3 == 1))


def test_both_modalities_have_codes_and_one_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(f"S{i}", f"P{i}", split="train", modality=["CT", "CT", "MR"][i % 3]) for i in range(9)]
    store = write_store(tmp_path / "store", rows)
    both = TrainingScans(store, views=Names(), modality="CT+MR")
    kinds = {one["id"]: one["modality"] for one in rows}
    assert both.strata is not None
    assert both.strata.tolist() == [["CT", "MR"].index(kinds[volume_id]) for volume_id in both.ids]
    assert [int(both[0, i]["modality"]) for i in range(9)] == both.strata.tolist()
    assert TrainingScans(store, views=Names(), modality="MR").strata is None
    assert capsys.readouterr().err == ""
    only = write_store(tmp_path / "only", [one for one in rows if one["modality"] == "CT"])
    assert len(TrainingScans(only, views=Names(), modality="CT+MR")) == 6
    assert "no MR volume of CT+MR is there" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="choose CT, MR or CT\\+MR"):
        TrainingScans(store, views=Names(), modality="CT+PET")


@pytest.mark.parametrize(("fraction", "fold"), [(1.0, None), (0.4, None), (0.2, None), (0.4, 1)])
def test_mixed_in_labels_are_those_of_the_patients_whom_fine_tuning_trains_on(
    tmp_path: Path, fraction: float, fold: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row(f"S{i}", f"P{i // 2}", split=["train", "train", "validation", "test"][i // 2 % 4], fold=i // 2 % 3,
            modality=["CT", "CT", "CT", "MR"][i % 4])
        for i in range(80)
    ]  # fmt: skip
    rows[6]["group"] = rows[4]["id"]  # near-duplicates: fine-tuning takes both, whatever pretraining does
    store = Store.open(write_store(tmp_path / "store", [one | {"fold": None} if one["split"] == "test" else one for one in rows]))  # noqa: E501  # fmt: skip
    labels = pd.DataFrame({"y": 1.0}, index=[one["id"] for i, one in enumerate(rows) if i % 3])
    mixed = training_labels(store, labels, fraction=fraction, fold=fold)
    finetuned = TrainingScans(store.path, views=Names(), labels=labels, fraction=fraction, fold=fold)
    assert list(mixed.index) == list(finetuned.ids)
    side = {one["id"]: one for one in rows}
    assert {side[i]["split"] for i in mixed.index} == ({"train"} if fold is None else {"train", "validation"})
    assert fold is None or {side[i]["fold"] for i in mixed.index} <= {0, 2}
    people = len({side[i]["patient"] for i in mixed.index})
    said = " ".join(capsys.readouterr().err.split())
    assert f"labels of {len(mixed)} volumes of {people} training patients" in said
    smaller = training_labels(store, labels, fraction=fraction / 2, fold=fold)
    assert set(smaller.index) < set(mixed.index)
