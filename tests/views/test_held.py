"""A held scan gives each voxel once; the parts of combined views read and draw apart from one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.scans import ArrayScan, Box
from volssl.views import Cropper, MultiCrop, RestorationViews, TwoCrops
from volssl.views.base import Scan
from volssl.views.combined import CombinedViews
from volssl.views.held import HeldScan


def numbered(shape: tuple[int, int, int] = (100, 90, 50)) -> ArrayScan:
    return ArrayScan(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), modality="MR")


def voxels(boxes: list[Box | None]) -> int:
    return sum(int(np.prod([last - first for first, last in box])) for box in boxes if box is not None)


def drawn_box(rng: np.random.RandomState, shape: tuple[int, int, int]) -> Box:
    first = [int(rng.randint(n)) for n in shape]
    sides = [(low, int(rng.randint(low + 1, n + 1))) for low, n in zip(first, shape, strict=True)]
    return sides[0], sides[1], sides[2]


def test_whatever_boxes_are_read_in_whatever_order_the_voxels_are_the_scan_s() -> None:
    for seed in range(20):
        rng, scan = np.random.RandomState(seed), numbered()
        held = HeldScan(scan)
        for _ in range(8):
            box = drawn_box(rng, scan.shape)
            assert np.array_equal(held.read(box), scan.array[tuple(slice(*side) for side in box)][None])
        assert np.array_equal(held.read(), scan.array[None])
        assert not scan.boxes.count(None)


def test_a_box_inside_of_what_was_read_is_not_read_again() -> None:
    scan = numbered()
    held = HeldScan(scan)
    held.read(((10, 60), (10, 60), (3, 30)))
    assert scan.boxes == [((0, 64), (0, 64), (0, 32))]  # in whole blocks
    held.read(((12, 60), (20, 40), (3, 20)))
    held.read(((10, 60), (10, 60), (3, 30)))
    assert len(scan.boxes) == 1


def test_no_voxel_is_read_twice_when_boxes_grow() -> None:
    scan = numbered((96, 96, 48))
    held = HeldScan(scan)
    held.read(((0, 96), (0, 96), (0, 10)))
    held.read(((0, 96), (0, 96), (8, 30)))
    held.read()
    assert voxels(scan.boxes) == 96 * 96 * 48
    assert len(scan.boxes) == 3


def test_a_small_crop_reads_little_of_a_large_volume() -> None:
    scan = numbered((256, 256, 128))
    HeldScan(scan).read(((100, 132), (100, 132), (50, 66)))
    assert voxels(scan.boxes) == 64 * 64 * 32


def test_a_held_scan_says_of_itself_what_the_scan_says_and_refuses_as_it_does() -> None:
    scan = numbered()
    held: Scan = HeldScan(scan)
    for name in ("id", "shape", "spacing_mm", "modality", "foreground", "intensity"):
        assert getattr(held, name) == getattr(scan, name)
    assert np.array_equal(held.affine, scan.affine)

    class Strict(ArrayScan):
        def read(self, box: Box | None = None) -> np.ndarray:
            raise ValueError("leaves the volume")

    with pytest.raises(ValueError, match="leaves the volume"):
        HeldScan(Strict(scan.array)).read(((0, 101), (0, 90), (0, 50)))


CROPS = MultiCrop(sizes=((24, 28, 8),), counts=(2,), zoom=((0.8, 1.0),), spacing_mm=(3.5, 3.5, 7.0))


def whole(scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
    return {"image": torch.from_numpy(scan.read().copy()), "draw": torch.tensor(rng.uniform())}


def test_the_parts_of_a_sample_read_the_volume_once() -> None:
    scan = numbered((96, 96, 48))
    sample = CombinedViews({"task": whole, "swav": CROPS, "again": whole})(scan, np.random.RandomState(0))
    assert voxels(scan.boxes) == 96 * 96 * 48
    assert set(sample) == {"task/image", "task/draw", "swav/crop0", "swav/crop1", "again/image", "again/draw"}
    assert torch.equal(sample["task/image"], sample["again/image"])
    alone = numbered((96, 96, 48))
    CROPS(alone, np.random.RandomState(0))
    assert len(alone.boxes) == 1  # crops that lie together are read as one box


def test_a_part_draws_the_same_whatever_the_others_draw() -> None:
    few = CombinedViews({"swav": CROPS, "task": whole})(numbered(), np.random.RandomState(3))
    many = MultiCrop(sizes=((24, 28, 8),), counts=(5,), zoom=((0.8, 1.0),), spacing_mm=(3.5, 3.5, 7.0))
    other = CombinedViews({"swav": many, "task": whole})(numbered(), np.random.RandomState(3))
    assert torch.equal(few["task/draw"], other["task/draw"])
    assert torch.equal(few["swav/crop1"], other["swav/crop1"])
    third = CombinedViews({"swav": CROPS, "task": whole})(numbered(), np.random.RandomState(4))
    assert not torch.equal(few["task/draw"], third["task/draw"])
    assert not torch.equal(few["swav/crop0"], third["swav/crop0"])


class Pair:
    """Views of two scans: the lowest value of each."""

    def __call__(self, scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        return self.pair(scan, scan, rng)

    def pair(self, scan: Scan, partner: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
        return {"crop0": torch.tensor(scan.read().min()), "crop1": torch.tensor(partner.read().min())}


def test_a_part_that_looks_at_pairs_gets_both_and_the_others_the_first() -> None:
    first, second = numbered((32, 32, 16)), numbered((32, 32, 16))
    second.array += 7
    sample = CombinedViews({"simclr": Pair(), "task": whole}).pair(first, second, np.random.RandomState(0))
    assert (float(sample["simclr/crop0"]), float(sample["simclr/crop1"])) == (0, 7)
    assert sample["task/image"].min() == 0
    assert (len(first.boxes), len(second.boxes)) == (1, 1)
    with pytest.raises(TypeError, match="leave pairs=volume"):
        CombinedViews({"task": whole}).pair(first, second, np.random.RandomState(0))


def test_every_part_tells_of_its_padding_and_parts_of_equal_crops_tell_once(capsys: pytest.CaptureFixture[str]) -> None:
    crops = {"size": (64, 64, 16), "spacing_mm": (3.5, 3.5, 7.0), "zoom": (0.8, 1.0)}
    swav = MultiCrop(
        sizes=((64, 64, 16), (24, 28, 8)), counts=(1, 2), zoom=((0.8, 1.0), (0.5, 0.8)), spacing_mm=(3.5, 3.5, 7.0)
    )
    parts = {"a": swav, "b": whole, "c": RestorationViews(crops=Cropper(**crops)), "d": TwoCrops(CROPS)}
    views = CombinedViews(parts)
    views.say_padding([numbered((48, 48, 48))] * 3)
    views.say_padding([numbered((48, 48, 48)), numbered((48, 48, 48)), numbered((9, 9, 9))])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" voxels")[0] for line in lines] == [
        "3 of 3 volumes are smaller than a crop of 64×64×16",
        "3 of 3 volumes are smaller than a crop of 64×64×16",
        "1 of 3 volumes is smaller than a crop of 24×28×8",
    ]
