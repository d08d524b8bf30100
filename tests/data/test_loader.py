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
from volssl.views import RandomCrops


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


def test_crops_read_as_one_box_are_bit_equal_with_0_1_and_4_workers(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "cohort", 6, (40, 36, 20))], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    scans = [store.scan(volume_id) for volume_id in store.rows["id"].to_pylist()]
    data = ViewDataset(scans, RandomCrops(size=(16, 16, 8), count=3, window_hu=(40, 400)), seed=1)
    loaders = [
        step_loader(data, batch_size=2, seed=0, start_step=1, total_steps=5, workers=workers, prefetch_factor=3)
        for workers in (0, 1, 4)
    ]
    alone, one, four = ([*loader] for loader in loaders)
    assert tuple(alone[0]["image"].shape) == (2, 3, 1, 16, 16, 8)
    assert equal(alone, one)
    assert equal(alone, four)
    assert equal(alone, [*loaders[2]])  # its workers stay for the next pass


@pytest.mark.parametrize("pinned", [True, False])
def test_memory_is_pinned_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, pinned: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pinned)
    loader = step_loader(dataset(), batch_size=4, seed=0, start_step=0, total_steps=1, workers=2, prefetch_factor=5)
    assert (loader.pin_memory, loader.prefetch_factor, loader.persistent_workers) == (pinned, 5, True)
    alone = step_loader(dataset(), batch_size=4, seed=0, start_step=0, total_steps=1, workers=0)
    assert (alone.prefetch_factor, alone.persistent_workers) == (None, False)


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
        "modality": (4,),
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


@pytest.mark.parametrize(("batch_size", "world_size"), [(12, 1), (6, 2), (4, 3), (1, 12)])
def test_the_ranks_share_one_order_whatever_their_number(batch_size: int, world_size: int) -> None:
    whole = [sorted(step) for step in StepSampler(50, 12, seed=4, start_step=0, total_steps=9)]
    ranks = [list(StepSampler(50, batch_size, 4, 0, 9, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, expected in enumerate(whole):
        shares = [batches[step] for batches in ranks]
        assert [len(share) for share in shares] == [batch_size] * world_size
        assert sorted(one for share in shares for one in share) == expected
        assert len({index for share in shares for _, index in share}) == 12


def test_a_rank_that_starts_later_goes_on_as_if_it_had_run() -> None:
    def steps(start: int) -> list[list[tuple[int, int]]]:
        return list(StepSampler(50, 4, 4, start, 20, rank=2, world_size=3))

    assert steps(0)[7:] == steps(7)
    assert StepSampler(50, 4, 4, 0, 20, rank=2, world_size=3).steps_per_epoch == 4


def test_a_loader_of_a_rank_gives_its_share() -> None:
    shares = [
        step_loader(dataset(), batch_size=2, seed=3, start_step=0, total_steps=5, workers=0, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    both = [{name: torch.cat([a[name], b[name]]) for name in a} for a, b in zip(*shares, strict=True)]
    assert equal(both, batches(0, 5, 0))


STRATA = np.array([0] * 20 + [1] * 7)  # 20 CT and 7 MR


def stratified(batch_size: int, *, start: int = 0, stop: int = 30, rank: int = 0, world_size: int = 1) -> StepSampler:
    return StepSampler(27, batch_size, 4, start, stop, rank=rank, world_size=world_size, strata=STRATA)


def test_a_batch_is_split_evenly_over_the_modalities_by_turns() -> None:
    sampler = stratified(6)
    assert sampler.steps_per_epoch == 27 // 6
    for step in sampler:
        assert [int(STRATA[index]) for _, index in step] == [0, 1] * 3
        assert len({index for _, index in step}) == 6


def test_each_modality_is_passed_over_at_its_own_pace_and_drawn_anew_in_each_pass() -> None:
    # three of each a step: a pass over 20 takes 6 steps and leaves two out, one over 7 takes 2 and leaves one out
    steps = list(stratified(6, stop=12))
    passes = [[step[stratum][0] for step in steps] for stratum in (0, 1)]
    assert passes == [[0] * 6 + [1] * 6, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]
    drawn = [sample for step in steps for sample in step]
    assert len(set(drawn)) == len(drawn) == 72
    assert len({index for cycle, index in drawn if cycle == 0 and STRATA[index] == 0}) == 18
    assert {index for _, index in drawn} >= set(range(20, 27))


def test_ranks_share_every_modality_and_a_later_start_goes_on() -> None:
    whole = [sorted(step) for step in stratified(12)]
    ranks = [list(stratified(4, rank=rank, world_size=3)) for rank in range(3)]
    for expected, *shares in zip(whole, *ranks, strict=True):
        assert sorted(sample for share in shares for sample in share) == expected
        assert all([int(STRATA[index]) for _, index in share] == [0, 1, 0, 1] for share in shares)
    assert list(stratified(4, start=7, rank=1, world_size=3)) == ranks[1][7:]


def test_one_stratum_is_none() -> None:
    plain = StepSampler(10, 4, 0, 0, 6)
    assert list(StepSampler(10, 4, 0, 0, 6, strata=[1] * 10)) == list(plain)


def test_batches_that_modalities_cannot_share_are_refused() -> None:
    with pytest.raises(UserError, match="a batch of 3 cannot be split evenly over 2 modalities: take a multiple of 2"):
        stratified(3)
    with pytest.raises(UserError, match="takes 8 volumes of each of 2 modalities, and of one there are only 7"):
        stratified(8, world_size=2)
    with pytest.raises(ValueError, match="codes of strata for 10 samples"):
        StepSampler(10, 2, 0, 0, 1, strata=[0])


def test_the_loader_splits_over_the_strata_of_its_dataset() -> None:
    data = dataset(12)
    data.strata = np.arange(12) % 3
    (batch,) = step_loader(data, batch_size=6, seed=0, start_step=0, total_steps=1, workers=0)
    assert (batch["index"] % 3).tolist() == [0, 1, 2] * 2


def test_ranks_that_cannot_be_are_refused() -> None:
    with pytest.raises(
        UserError, match="a batch of 6 on each of 2 ranks cannot be drawn from 10 volumes: take a batch "
    ):
        StepSampler(10, 6, 0, 0, 1, rank=0, world_size=2)
    with pytest.raises(UserError, match="at most 10 ranks"):
        StepSampler(10, 1, 0, 0, 1, rank=0, world_size=11)
    with pytest.raises(ValueError, match="rank 2 is none of 2"):
        StepSampler(10, 1, 0, 0, 1, rank=2, world_size=2)


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
