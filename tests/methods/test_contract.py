"""What every method keeps, found by its config, with every encoder: a new one is tested here without a line more."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils.data import default_collate

from volssl.bundle.config import bundle_config, read_config, resolved
from volssl.bundle.shipped import train_configs
from volssl.data.loader import ViewDataset
from volssl.data.training import TrainingScans
from volssl.encoders.build import ENCODERS
from volssl.methods import SwAV
from volssl.methods.base import Method, Progress

NAMES = train_configs("volume_pretraining")
SIZES: dict[str, Any] = {
    "crop_size": [24, 24, 8],
    "small_crop_size": [16, 16, 4],
    "spacing_mm": [7.0, 7.0, 14.0],
    "network": "PaperDenseNet",
    "learning_rate": 2e-3,
}
SMALL: dict[str, dict[str, Any]] = {  # settings that make an encoder fast; one that is not here has its own
    "DenseNet121": {"init_features": 8, "growth": 4},
    "SwinUNETR": {"feature_size": 12},
}
SLOW = {"SwinUNETR"}
OTHERS = [pytest.param(e, marks=[pytest.mark.slow] * (e in SLOW)) for e in ENCODERS if e != SIZES["network"]]
GIVEN = {"index", "modality", "supervised/target"}  # what a sample says of its scan; all else in it is drawn
VOLUMES = 8


@pytest.fixture(params=NAMES)
def parts(request: pytest.FixtureRequest, store: Path, cohort: Path, tmp_path: Path) -> ConfigParser:
    """A method's config, with small crops and the paper's network, on the training patients of a store."""
    torch.manual_seed(0)
    given = {"dataset_dir": str(store), "output_dir": str(tmp_path / "run"), "labels": str(cohort / "labels.csv")}
    return ConfigParser(resolved(read_config(bundle_config("volume_pretraining", request.param)), SIZES | given))


def built(parser: ConfigParser) -> tuple[Method, TrainingScans]:
    method, dataset = parser.get_parsed_content("method"), parser.get_parsed_content("train::dataset")
    assert isinstance(method, Method)
    assert dataset.views is method.views
    return method, dataset


def batch_of(dataset: TrainingScans, *, epoch: int = 0, count: int = VOLUMES) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = default_collate([dataset[epoch, i] for i in range(count)])
    return batch


def take_step(method: Method, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], step: int) -> float:
    loss = method.train()(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    method.on_step_end(Progress(step=step + 1, steps_per_epoch=10, total_steps=20))
    return float(loss.detach())


def test_the_loss_is_finite_and_its_gradient_reaches_every_parameter_of_the_encoder(parts: ConfigParser) -> None:
    method, dataset = built(parts)
    losses = method.train()(batch_of(dataset))
    assert losses["loss"].ndim == 0
    assert all(torch.isfinite(value).all() for value in losses.values())
    losses["loss"].backward()
    without = [name for name, p in method.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_all_its_state_is_in_the_state_dict(parts: ConfigParser) -> None:
    method, dataset = built(parts)
    batch = batch_of(dataset)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    for step in range(2):
        take_step(method, optimizer, batch, step)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    torch.manual_seed(7)
    mine = method.train()(batch)["loss"]
    again = ConfigParser(parts.get()).get_parsed_content("method")
    again.load_state_dict(state)
    torch.manual_seed(7)
    assert torch.equal(again.train()(batch)["loss"], mine)


def in_worker(dataset: ViewDataset, epoch: int, index: int, seed: int = 1) -> dict[str, Tensor]:
    """A sample as a worker process makes it, whose global generators begin like those of all workers."""
    copy = pickle.loads(pickle.dumps(dataset))
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    sample: dict[str, Tensor] = copy[epoch, index]
    return sample


def test_a_sample_is_the_same_in_every_worker(parts: ConfigParser) -> None:
    _, dataset = built(parts)
    first, second = in_worker(dataset, 0, 3, seed=1), in_worker(dataset, 0, 3, seed=2)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_all_that_is_in_a_sample_is_drawn_anew_in_every_epoch_and_for_every_index(parts: ConfigParser) -> None:
    _, dataset = built(parts)
    twice = ViewDataset(
        [dataset.scans[3]] * 2, dataset.views, seed=0
    )  # one scan: only the draws tell its samples apart
    samples = [in_worker(twice, epoch, index) for epoch in range(4) for index in range(2)]
    assert any(value.ndim == 4 for value in samples[0].values())
    for name in samples[0].keys() - GIVEN:
        values = {value.numpy().tobytes() for value in (sample[name] for sample in samples)}
        whole_number = samples[0][name].ndim == 0  # such as a turn, of which there are few
        assert len(values) > 1 if whole_number else len(values) == len(samples), name
    for name in samples[0].keys() & GIVEN - {"index"}:
        assert all(torch.equal(sample[name], samples[0][name]) for sample in samples), name


def test_twenty_steps_on_eight_fixed_volumes_lower_the_loss(parts: ConfigParser) -> None:
    method, dataset = built(parts)
    batch = batch_of(dataset)
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    torch.manual_seed(0)
    losses = [take_step(method, optimizer, batch, step) for step in range(20)]
    assert np.mean(losses[-4:]) < np.mean(losses[:2])


@pytest.mark.parametrize("encoder", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_every_other_encoder(
    name: str, encoder: str, store: Path, cohort: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given = {"dataset_dir": str(store), "output_dir": str(tmp_path / "run"), "labels": str(cohort / "labels.csv")}
    network = {"network": encoder, "network_settings": SMALL.get(encoder, {})}
    cube = {"crop_size": [32, 32, 32], "small_crop_size": [32, 32, 32], "spacing_mm": [7.0, 7.0, 7.0]}
    config = resolved(read_config(bundle_config("volume_pretraining", name)), SIZES | given | cube | network)
    method, dataset = built(ConfigParser(config))
    assert type(method.encoder).__name__ == encoder
    batch = batch_of(dataset, count=4)  # of two, batch statistics of one voxel let no gradient through
    before = {key: value.detach().clone() for key, value in method.encoder.named_parameters()}
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-2)
    losses = [take_step(method, optimizer, batch, step) for step in range(2)]
    assert np.isfinite(losses).all()
    assert losses[1] != losses[0]
    still = [key for key, value in method.encoder.named_parameters() if torch.equal(value, before[key])]
    assert still == []


@pytest.mark.parametrize("name", ["swav", "combined"])
def test_swav_has_prototypes_for_every_modality_of_the_run(name: str, store: Path) -> None:
    given = {"dataset_dir": str(store), "modality": "CT+MR"}
    config = ConfigParser(resolved(read_config(bundle_config("volume_pretraining", name)), SIZES | given))
    clustering = [part for part in config.get_parsed_content("method").modules() if isinstance(part, SwAV)]
    assert [part.modalities for part in clustering] == [("CT", "MR")]
