"""A segmentation head that learns beside hemorrhage: from the label table to the log, and nothing in the answer."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import compute_dice

from tests.bundle.conftest import GRID, Line
from volssl.bundle.workflow import finetune
from volssl.data import Store, join_labels
from volssl.errors import UserError
from volssl.evaluation.marking import Marking
from volssl.tasks import Hemorrhage, TaskViews
from volssl.tensors import load_tensors

WORDS = ["max_epochs=1", "batch_size=4", f"task::grid={list(GRID)}"]


@pytest.fixture(scope="module")
def run(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    labels = line.cohort / "labels.csv"
    finetune("hemorrhage", store=line.store, labels=labels, out=out, words=[*WORDS, "task::segment=true"], ranges=False)
    return out


def logged(run: Path) -> dict[str, float]:
    rows = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return {key: value for row in rows for key, value in row.items()}


def test_masks_train_a_decoder_beside_the_answer(run: Path, line: Line) -> None:
    told = logged(run)
    assert told["loss"] == pytest.approx(
        told["loss_volume"] + told["loss_types"] + told["loss_slices"] + told["loss_segment"], rel=1e-5
    )
    assert 0 <= told["validation_dice"] <= 1
    plain, ours = (load_tensors(folder / "model.pt")["network"] for folder in (line.run, run))
    assert plain.keys() == ours.keys()
    assert any(not torch.equal(plain[key], ours[key]) for key in plain)
    assert not {"loss_segment", "validation_dice"} & logged(line.run).keys()
    assert not any("mask" in path.name for path in run.rglob("*"))


def test_the_mask_lies_where_the_blood_is(line: Line) -> None:
    store, table = Store.open(line.store), line.cohort / "labels.csv"
    task = Hemorrhage(grid=GRID, segment=True)
    labels = join_labels(store, table, task.label_columns)
    views = TaskViews(task, labels, masks=task.masks(labels, table))
    for key, row in labels.iterrows():
        sample = views(store.scan(str(key)), np.random.RandomState(0))
        assert bool(sample["mask"].any()) == (row["hemorrhage"] == 1)
        marked = sample["mask"][0].any(dim=0).any(dim=0)
        slices = sample["target"][-GRID[2] :] == 1
        assert not (marked & ~slices).any()  # nothing is marked in a slice without blood


def test_dice_is_that_of_the_scans_with_something_to_mark(line: Line) -> None:
    store, table = Store.open(line.store), line.cohort / "labels.csv"
    task = Hemorrhage(grid=GRID, segment=True)
    labels = join_labels(store, table, task.label_columns)
    views = TaskViews(task, labels, masks=task.masks(labels, table))
    scans = [store.scan(str(key)) for key in labels.index]

    class Bright(torch.nn.Module):
        decoder = torch.nn.Identity()

        def voxels(self, image: torch.Tensor) -> torch.Tensor:
            return image - 0.65

    found = Marking(Bright(), scans=scans, views=views).dice(torch.device("cpu"))
    each = []
    for scan in scans:
        sample = views(scan, np.random.RandomState(0))
        p, y = sample["image"] > 0.65, sample["mask"] == 1
        if y.any():
            each.append(float(2 * (p & y).sum() / (p.sum() + y.sum())))
            assert each[-1] == pytest.approx(float(compute_dice(p[None].float(), y[None].float())), abs=1e-6)
    assert len(each) > 2
    assert found == pytest.approx(np.mean(each), abs=1e-6)


def test_a_table_without_masks_and_a_mask_of_another_space_have_one_clear_line(line: Line, tmp_path: Path) -> None:
    words = [*WORDS, "task::segment=true"]
    table = pd.read_csv(line.cohort / "labels.csv")
    table.drop(columns="mask").to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(UserError, match="no column mask"):
        finetune("hemorrhage", store=line.store, labels=tmp_path / "labels.csv", out=tmp_path / "run", words=words)
    far = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 5000)
    nibabel.save(far, tmp_path / "far.nii.gz")
    table.assign(mask=str(tmp_path / "far.nii.gz")).to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(UserError, match="the mask lies beside its scan"):
        finetune("hemorrhage", store=line.store, labels=tmp_path / "labels.csv", out=tmp_path / "run", words=words)
