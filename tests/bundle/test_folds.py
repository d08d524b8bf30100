"""Folds and near-duplicates as the bundles wire them: who trains, who validates, and who is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from monai.bundle import ConfigParser

from volssl.bundle.config import bundle_config, parse_overrides, read_config
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.workflow import finetune
from volssl.data import Store, join_labels
from volssl.data.manifest import table_of
from volssl.data.split_store import split_store
from volssl.errors import UserError
from volssl.tensors import load_tensors

FINETUNING = ("max_epochs=1", "batch_size=4", "task::grid=[24, 28, 10]")


def test_a_run_of_a_fold_trains_on_the_others_and_is_evaluated_on_it(store: Path, cohort: Path, tmp_path: Path) -> None:
    folded = shutil.copytree(store, tmp_path / "store")
    labels = cohort / "labels.csv"
    split_store(folded, labels=labels, stratify=["hemorrhage"], folds=2)
    rows = Store.open(folded).columns("patient", "split", "fold").to_pandas()
    run = tmp_path / "run"
    finetune("hemorrhage", store=folded, labels=labels, out=run, words=(*FINETUNING, "fold=1"))
    assert set(load_tensors(run / "model.pt")["patients"]) == set(rows["patient"][rows["fold"] == 0])
    evaluate_run(run, store=folded, labels=labels, split="validation", out=tmp_path / "validation")
    predictions = pd.read_parquet(tmp_path / "validation" / "predictions.parquet")
    assert set(predictions["patient"]) == set(rows["patient"][rows["fold"] == 1])
    assert set(predictions["split"]) == {"validation"}
    evaluate_run(run, store=folded, labels=labels, split="test", out=tmp_path / "test")
    tested = set(pd.read_parquet(tmp_path / "test" / "predictions.parquet")["patient"])
    assert tested == set(rows["patient"][rows["split"] == "test"])
    with pytest.raises(UserError, match="were seen in training"):
        finetune(
            "hemorrhage",
            store=folded,
            labels=labels,
            out=tmp_path / "other",
            encoder=run,
            words=(*FINETUNING, "fold=0"),
        )


def test_labels_mixed_in_choose_the_volume_of_a_group_that_has_one(store: Path, cohort: Path, tmp_path: Path) -> None:
    grouped = shutil.copytree(store, tmp_path / "store")
    labels = pd.read_csv(cohort / "labels.csv")
    labels[:1].to_csv(tmp_path / "labels.csv", index=False)
    rows = Store.open(grouped).rows.to_pylist()
    (labelled,) = join_labels(Store.open(grouped), tmp_path / "labels.csv").index
    other = next(row["id"] for row in rows if row["id"] != labelled)
    for row in rows:
        row["split"], row["group"] = "train", other if row["id"] in (labelled, other) else row["id"]
    pq.write_table(table_of(rows), grouped / "manifest.parquet")
    taken = {}
    for method in ("swav", "hybrid"):
        config = read_config(bundle_config("volume_pretraining", method))
        given = {"dataset_dir": str(grouped), "labels": str(tmp_path / "labels.csv")}
        taken[method] = set(ConfigParser(config | given).get_parsed_content("train::dataset").ids)
    assert taken["swav"] - taken["hybrid"] == {other}
    assert taken["hybrid"] - taken["swav"] == {labelled}


@pytest.mark.parametrize(("words", "expected"), [((), 1), (("near_duplicates=true",), 3)])
def test_pretraining_takes_one_of_each_group_unless_told_otherwise(
    store: Path, tmp_path: Path, words: tuple[str, ...], expected: int
) -> None:
    grouped = shutil.copytree(store, tmp_path / "store")
    rows = Store.open(grouped).rows.to_pylist()
    for index, row in enumerate(rows):
        row["split"], row["group"] = "train" if index < 3 else "test", rows[0 if index < 3 else index]["id"]
    pq.write_table(table_of(rows), grouped / "manifest.parquet")
    config = read_config(bundle_config("volume_pretraining", "swav")) | {"dataset_dir": str(grouped)}
    parser = ConfigParser(config | parse_overrides(config, words))
    dataset = parser.get_parsed_content("train::dataset")
    assert len(dataset) == expected
    assert dataset.ids[0] == rows[0]["id"]
