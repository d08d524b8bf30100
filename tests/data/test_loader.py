"""Batches are a function of (seed, epoch, index): not of workers, nor of where the run began."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.sources import block, write_cohort
from tests.scans import ArrayScan
from volssl.data import StepSampler, Store, TrainingScans, ViewDataset, prepare, step_loader
from volssl.data.sampler import epoch_order, sample_rng
from volssl.errors import UserError


def crop(scan: ArrayScan, rng: np.random.RandomState) -> dict[str, Tensor]:
    """A crop at a random place, and a mean: its last bits depend on the number of threads."""
    corner = [rng.randint(n - 7) for n in scan.shape]
    image = torch.from_numpy(scan.read(tuple((low, low + 8) for low in corner)).astype(np.float32))
    return {
        "image": image + rng.rand(),
        "mean": torch.fft.fftn(image).abs().mean(),
        "threads": torch.tensor(torch.get_num_threads()),
    }


def dataset(n: int = 10, seed: int = 5) -> ViewDataset:
    return ViewDataset([ArrayScan(block(i)) for i in range(n)], crop, seed, extras=[{"y": i / 2} for i in range(n)])


def batches(start: int, stop: int, workers: int, seed: int = 3) -> list[dict[str, Tensor]]:
    return list(step_loader(dataset(), batch_size=4, seed=seed, start_step=start, total_steps=stop, workers=workers))


def equal(a: list[dict[str, Tensor]], b: list[dict[str, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in zip(a, b, strict=True)
    )


def test_batches_are_bit_equal_with_0_1_and_2_workers() -> None:
    torch.set_num_threads(2)
    try:
        alone = batches(0, 5, 0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all((batch["threads"] == 1).all() for batch in alone)
    assert equal(alone, batches(0, 5, 1))
    assert equal(alone, batches(0, 5, 2))


def test_starting_at_step_7_is_running_to_it() -> None:
    assert equal(batches(0, 11, 0)[7:], batches(7, 11, 0))


def test_batches_are_plain_tensors_with_index_and_extras() -> None:
    (batch,) = batches(0, 1, 0)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image": (4, 1, 8, 8, 8),
        "mean": (4,),
        "threads": (4,),
        "y": (4,),
        "index": (4,),
    }
    assert all(type(value) is Tensor for value in batch.values())
    assert torch.equal(batch["y"], batch["index"].double() / 2)


def test_draws_differ_between_epochs_samples_and_seeds() -> None:
    data = dataset()
    same = [data[epoch, index]["image"] for epoch, index in ((0, 2), (1, 2), (0, 3))]
    assert not torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    assert not torch.equal(same[0], dataset(seed=6)[0, 2]["image"])
    assert torch.equal(same[0], dataset()[0, 2]["image"])


def test_an_epoch_holds_each_sample_once_but_for_the_dropped_rest() -> None:
    steps = list(StepSampler(10, 4, seed=0, start_step=0, total_steps=6))
    assert [{epoch for epoch, _ in step} for step in steps] == [{0}, {0}, {1}, {1}, {2}, {2}]
    for first in (0, 2, 4):
        drawn = [index for step in steps[first : first + 2] for _, index in step]
        assert len(set(drawn)) == 8
    assert sorted(epoch_order(10, 0, 0)) == list(range(10))
    assert list(epoch_order(10, 0, 0)) != list(epoch_order(10, 0, 1))
    assert len(StepSampler(10, 4, 0, 2, 6)) == 4


def test_the_order_of_an_epoch_is_no_samples_stream() -> None:
    """SeedSequence([s, e]) and SeedSequence([s, e, 0]) are one stream: the order must not share it."""
    assert list(epoch_order(50, 1, 2)) != list(sample_rng(1, 2, 0).permutation(50))


def test_a_batch_larger_than_the_dataset_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 11 cannot be drawn from 10 volumes"):
        step_loader(dataset(), batch_size=11, seed=0, start_step=0, total_steps=1, workers=0)


def test_training_scans_are_the_training_patients_of_a_modality(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 8)
    lines = [f"S{i:02d},P{i // 2},{'train' if i < 4 else 'test' if i < 6 else 'validation'}" for i in range(8)]
    (cohort / "patients.csv").write_text("\n".join(["study,patient,split", *lines]))
    prepare([cohort], tmp_path / "store", workers=0)
    scans = TrainingScans(tmp_path / "store", views=crop, modality="CT")
    rows = {row["id"]: row for row in Store.open(tmp_path / "store").rows.to_pylist()}
    assert len(scans) == 4
    assert {rows[volume_id]["split"] for volume_id in scans.ids} == {"train"}
    assert scans.patients == [rows[volume_id]["patient"] for volume_id in scans.ids]
    assert len(set(scans.patients)) == 2
    assert torch.equal(pickle.loads(pickle.dumps(scans))[1, 2]["image"], scans[1, 2]["image"])
    with pytest.raises(UserError, match="no MR volume of a train patient"):
        TrainingScans(tmp_path / "store", views=crop, modality="MR")
