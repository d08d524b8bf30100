"""Random crops: where they lie, that one box is read for all, what is padded, and that the generator decides alone."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from monai.transforms import RandSpatialCropSamples

from tests.scans import ArrayScan, Box
from volssl.views import RandomCrops
from volssl.views.random_crops import room

BODY: Box = ((10, 50), (20, 50), (4, 28))


@dataclass
class BodyScan(ArrayScan):
    """A scan with air around its foreground."""

    body: Box = BODY

    @property
    def foreground(self) -> Box:
        return self.body


def places() -> BodyScan:
    """Every voxel holds its own number, so that a crop tells where it lies."""
    return BodyScan(np.arange(64 * 60 * 30, dtype=np.int32).reshape(64, 60, 30))


def first_voxels(crops: torch.Tensor, shape: tuple[int, ...] = (64, 60, 30)) -> np.ndarray:
    return np.stack(np.unravel_index(crops[:, 0, 0, 0, 0].numpy().astype(int), shape), axis=1)


def test_crops_are_pieces_of_the_foreground_and_one_box_holds_them() -> None:
    scan = places()
    views = RandomCrops(size=(16, 12, 8), count=5, spread=0.5)
    for seed in range(40):
        scan.boxes.clear()
        image = views(scan, np.random.RandomState(seed))["image"]
        assert (tuple(image.shape), image.dtype, type(image)) == ((5, 1, 16, 12, 8), torch.float32, torch.Tensor)
        starts = first_voxels(image)
        for crop, start in zip(image, starts, strict=True):
            inside = tuple(slice(low, low + n) for low, n in zip(start, (16, 12, 8), strict=True))
            np.testing.assert_array_equal(crop[0].numpy(), scan.array[inside])
            assert all(a <= low and low + n <= b for (a, b), low, n in zip(BODY, start, (16, 12, 8), strict=True))
        assert (np.abs(starts - starts[0]) <= (8, 6, 4)).all()
        (box,) = scan.boxes
        assert box == tuple(zip(starts.min(0), starts.max(0) + np.array([16, 12, 8]), strict=True))


def test_the_first_crop_is_uniform_over_the_foreground() -> None:
    views = RandomCrops(size=(37, 30, 24))
    rng = np.random.RandomState(0)
    starts = [first_voxels(views(places(), rng)["image"])[0] for _ in range(800)]
    counts = np.bincount([start[0] - 10 for start in starts], minlength=4)
    assert counts.size == 4
    assert np.abs(counts - 200).max() < 4 * np.sqrt(200 * 0.75)
    assert {tuple(start[1:]) for start in starts} == {(20, 4)}


def test_without_spread_all_crops_are_one() -> None:
    image = RandomCrops(size=(16, 12, 8), count=3, spread=0.0)(places(), np.random.RandomState(0))["image"]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


def test_a_crop_wider_than_the_foreground_holds_all_of_it_and_stays_in_the_volume() -> None:
    views = RandomCrops(size=(50, 34, 26), count=4, spread=1.0)
    starts = np.concatenate([first_voxels(views(places(), np.random.RandomState(s))["image"]) for s in range(60)])
    assert starts[:, 0].min() == 0
    assert starts[:, 0].max() == 10
    assert (starts >= np.maximum(0, np.array([0, 16, 2]))).all()
    assert (starts <= (10, 20, 4)).all()
    assert (starts + np.array([50, 34, 26]) <= (64, 60, 30)).all()


def test_room_by_hand() -> None:
    assert room((10, 50), 64, 16) == (10, 34)
    assert room((10, 50), 64, 40) == (10, 10)
    assert room((10, 50), 64, 60) == (0, 4)
    assert room((10, 50), 64, 64) == (0, 0)
    assert room((10, 50), 64, 67) == (-2, -2)


def test_a_crop_larger_than_the_volume_is_centred_and_padded_with_air() -> None:
    scan = BodyScan(np.full((20, 30, 8), 40, np.int16), body=((0, 20), (0, 30), (0, 8)))
    image = RandomCrops(size=(24, 16, 12), count=2)(scan, np.random.RandomState(0))["image"]
    assert (image[:, :, 2:22, :, 2:10] == 40).all()
    assert int((image == -1024).sum()) == 2 * (24 * 16 * 12 - 20 * 16 * 8)
    assert float(RandomCrops(size=(24, 16, 12), pad=7.0)(scan, np.random.RandomState(0))["image"].min()) == 7
    assert RandomCrops(size=(24, 16, 12), window_hu=(40, 80))(scan, np.random.RandomState(0))[
        "image"
    ].unique().tolist() == [0.0, 0.5]
    scan.modality = "MR"
    assert RandomCrops(size=(24, 16, 12))(scan, np.random.RandomState(0))["image"].unique().tolist() == [0.0, 40.0]


def test_the_window_is_that_of_the_transforms() -> None:
    scan = BodyScan(np.random.RandomState(0).randint(-100, 200, (64, 60, 30)).astype(np.int16))
    plain = RandomCrops(size=(16, 12, 8), count=2)(scan, np.random.RandomState(1))["image"]
    seen = RandomCrops(size=(16, 12, 8), count=2, window_hu=(40, 80))(scan, np.random.RandomState(1))["image"]
    np.testing.assert_allclose(seen.numpy(), (plain.numpy() / 80).clip(0, 1), atol=1e-7)


def test_the_generator_alone_decides_also_after_a_pickle() -> None:
    views = RandomCrops(size=(16, 12, 8), count=2)
    same = [views(places(), np.random.RandomState(3))["image"] for _ in range(2)]
    sent = pickle.loads(pickle.dumps(views))(places(), np.random.RandomState(3))["image"]
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], sent)
    assert not torch.equal(same[0], views(places(), np.random.RandomState(4))["image"])


def test_the_draws_are_as_many_whatever_the_volume() -> None:
    after = []
    for scan in (places(), BodyScan(np.zeros((9, 9, 9), np.int16), body=((0, 9), (0, 9), (0, 9)))):
        rng = np.random.RandomState(0)
        RandomCrops(size=(16, 12, 8), count=3)(scan, rng)
        after.append(rng.uniform())
    assert after[0] == after[1]


def test_anywhere_in_the_volume_crops_are_those_that_monai_s_can_be() -> None:
    """Both reach every place along an axis with few of them, and no other."""
    views = RandomCrops(size=(62, 58, 29), in_foreground=False)
    monai = RandSpatialCropSamples(roi_size=(62, 58, 29), num_samples=200, random_size=False)
    monai.set_random_state(0)
    rng = np.random.RandomState(0)
    ours = first_voxels(torch.cat([views(places(), rng)["image"] for _ in range(200)]))
    theirs = first_voxels(torch.stack([crop.as_tensor() for crop in monai(places().array[None])]))
    assert {tuple(start) for start in ours} == {tuple(start) for start in theirs}
    assert len({tuple(start) for start in ours}) == 3 * 3 * 2


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="are none"):
        RandomCrops(count=0)
    with pytest.raises(ValueError, match="spread is 0 or more"):
        RandomCrops(spread=-0.1)
