"""Presets of the train configs: what they state is what was published, and what they name can be built."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

import volssl.bundle.workflow as workflow
from volssl.bundle.config import bundle_config, read_config, resolved
from volssl.bundle.shipped import PRESETS, PRETRAINING, TASK_BUNDLES, bundle_folder, train_configs
from volssl.bundle.workflow import pretrain, refuse_changes
from volssl.data import Store
from volssl.encoders import PaperDenseNet
from volssl.engine import LARC, schedule
from volssl.errors import UsageError, UserError
from volssl.evaluation.history import read_history

FILES = sorted(
    file
    for file in (bundle_folder(PRETRAINING) / "configs" / PRESETS).glob("*_*.yaml")
    if not file.stem.endswith("_shipped")  # what a run did whose weights the recipe holds
)


def parsed(name: str, preset: str, store: Path, out: Path, **values: object) -> ConfigParser:
    given = {"dataset_dir": str(store), "output_dir": str(out), **values}
    return ConfigParser(resolved(read_config(bundle_config(PRETRAINING, name, preset=preset)), given))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_presets_views_look_at_a_scan(file: Path, store: Path, tmp_path: Path) -> None:
    name, preset = file.stem.split("_", 1)
    small = {"crop_size": [24, 24, 8], "small_crop_size": [16, 16, 4]}
    parser = parsed(name, preset, store, tmp_path, **small)
    views = parser.get_parsed_content("method").views
    opened = Store.open(store)
    crops = views(opened.scan(opened.rows["id"][0].as_py()), np.random.RandomState(0))
    assert [tuple(crop.shape) for crop in crops.values()] == [(1, 24, 24, 8), *[(1, 16, 16, 4)] * 4]


def test_the_papers_preset_is_its_table_1(store: Path, tmp_path: Path) -> None:
    parser = parsed("swav", "paper", store, tmp_path)
    method, contract = parser.get_parsed_content("method"), parser.get_parsed_content("contract")
    assert isinstance(method.encoder, PaperDenseNet)
    assert method.assigned == (0, 1)
    assert (method.temperature, method.epsilon, method.iterations) == (0.1, 0.03, 3)
    assert tuple(method.prototypes.shape) == (1, 1500, 128)
    assert (method.queue_length, method.queue_start_epoch, method.freeze_steps) == (1920, 3, 4000)
    assert tuple(method.queue.shape) == (1, 2, 1920, 128)
    assert method.projector[0].out_features == 2048  # of SwAV's own code; the paper names none
    assert contract.grid == (224, 224, 192)


def test_the_papers_preset_has_its_views(store: Path, tmp_path: Path) -> None:
    views = parsed("swav", "paper", store, tmp_path).get_parsed_content("method").views
    assert views.counts == [1, 4]
    assert [cropper.size for cropper in views.croppers] == [(224, 224, 192), (112, 112, 96)]
    for cropper in views.croppers:
        assert cropper.border == 0.1
        assert cropper.rescale.fraction == (0.1, 0.7)
        assert cropper.rescale.sizes == ((112, 112, 96), (250, 250, 200))
    assert (views.gamma, views.scale, views.shift) == ((1.8, 2.6), (0.9, 1.1), (-0.2, 0.2))
    assert (views.gamma_probability, views.energy_probability) == (0.5, 0.5)
    assert (views.flip, views.noise) == ((0.0, 0.0, 0.0), 0.0)
    trained = Store.open(store).rows["split"].to_pylist().count("train")
    assert views.energies.count == {"CT": trained}
    assert len(views.energies.mean["CT"]) == 5
    assert json.loads((tmp_path / "energies.json").read_text())["mean"] == views.energies.mean


@pytest.mark.parametrize("gpus", [1, 32])
def test_the_papers_preset_trains_as_its_table_1(
    gpus: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "world_size", lambda: gpus)
    parser = parsed("swav", "paper", store, tmp_path)
    assert (parser["max_epochs"], parser["batch_size"], parser["accumulate"]) == (100, 4, 1)  # 4 volumes a GPU
    assert parser["train::trainer::sync_batchnorm"] is True
    optimizer = parser.get_parsed_content("optimizer")
    assert isinstance(optimizer, LARC)
    assert optimizer.trust == 0.001
    assert {name: optimizer.defaults[name] for name in ("momentum", "weight_decay")} == {
        "momentum": 0.9,
        "weight_decay": 1e-6,
    }
    rate = optimizer.defaults["lr"]
    assert rate == pytest.approx({1: 0.01875, 32: 0.6}[gpus])  # .6 of 128 volumes a step
    course = parser.get_parsed_content("train::trainer::schedule")
    at = [rate * course.factor(step, steps_per_epoch=10, total_steps=1000) for step in (0, 500, 999)]
    middle = (0.6 + 0.0006) / 2
    assert np.array(at) / rate * 0.6 == pytest.approx([0.6, middle, 0.0006], abs=1e-5)  # no warm-up, then a cosine


def test_the_papers_preset_takes_a_step_on_small_crops(store: Path, tmp_path: Path) -> None:
    words = ["max_epochs=1", "workers=0", "crop_size=[24, 28, 8]", "small_crop_size=[16, 16, 4]"]
    pretrain("swav", store=store, out=tmp_path / "run", preset="paper", words=words)
    rows = read_history(tmp_path / "run" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 10 // 4
    # Codes of four rows are nearly flat over 1,500 prototypes, which are random: what a softmax of scores of variance
    # 1 / 128 over a temperature of .1 is from flat codes is ln K and half of that variance over it squared.
    assert losses[0] == pytest.approx(math.log(1500) + 0.5 / 128 / 0.1**2, abs=0.1)
    assert next(row["learning_rate"] for row in rows if "learning_rate" in row) == pytest.approx(0.01875)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["method"]
    assert int(state["step"]) == 2
    assert state["queue_filled"].tolist() == [0]  # from epoch 3 on


def test_the_default_preset_is_called_single() -> None:
    for name in train_configs(PRETRAINING):
        assert bundle_config(PRETRAINING, name, preset="single") == bundle_config(PRETRAINING, name)
    assert [path.name for path in bundle_config(PRETRAINING, "swav", preset="single")] == ["base.yaml", "swav.yaml"]


@pytest.mark.parametrize(
    ("task", "epochs", "grid"), [("hemorrhage", 16, [48, 56, 20]), ("metastasis", 3, [64, 80, 42])]
)
def test_a_finetuning_takes_the_settings_of_the_shipped_weights(
    task: str, epochs: int, grid: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Mock(side_effect=UserError("seen"))
    monkeypatch.setattr(workflow, "run_training", run)
    given: dict[str, Any] = {"store": tmp_path / "store", "labels": tmp_path / "labels.csv", "out": tmp_path / "run"}
    for preset in ("shipped", "single"):
        with pytest.raises(UserError, match="seen"):
            workflow.finetune(task, preset=preset, **given)
    shipped, single = (read_config(call.args[0]) for call in run.call_args_list)
    assert (shipped["max_epochs"], shipped["task"]["grid"]) == (epochs, grid)
    assert shipped["network_settings"]["growth"] == 7
    assert "grid" not in single["task"]
    labelled = "$earlier.labelled_patients(@encoder_path, @train::dataset.patients)"
    assert shipped["train"]["handlers"][2]["labelled"] == single["train"]["handlers"][2]["labelled"] == labelled
    for mode, preset in (("probe", "shipped"), ("full", "frozen")):
        with pytest.raises(UsageError, match=f"--preset {preset}: no preset for --mode {mode}; take --mode probe"):
            workflow.finetune("hemorrhage", mode=mode, preset=preset, **given)


def test_the_encoder_of_a_run_goes_before_that_of_a_preset_when_the_run_goes_on(tmp_path: Path) -> None:
    files, kept = bundle_config(TASK_BUNDLES["hemorrhage"], "train", preset="shipped"), tmp_path / "config.yaml"
    given = {"network_settings": {"growth": 5}}
    kept.write_text(yaml.safe_dump(resolved(read_config(files), given)))
    refuse_changes(kept, files, given)
    with pytest.raises(UserError, match=r"begun with network_settings \{'growth': 5\}, not \{'growth': 6\}"):
        refuse_changes(kept, files, {"network_settings": {"growth": 6}})
    with pytest.raises(UserError, match="begun with max_epochs 16, not 9"):
        refuse_changes(kept, files, {**given, "max_epochs": 9})


def test_a_preset_that_does_not_exist_lists_those_there_are() -> None:
    there = r"there are single \(the default\), generic_views, paper, paper_views$"
    with pytest.raises(UserError, match=rf"papr: no such preset of swav, did you mean paper\?; {there}"):
        bundle_config(PRETRAINING, "swav", preset="papr")
    with pytest.raises(UserError, match=r"paper: no such preset of moco; there are single \(the default\)$"):
        bundle_config(PRETRAINING, "moco", preset="paper")
