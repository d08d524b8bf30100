"""What is told of a scan unlike the training data, and how often of one that is like them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from volssl.bundle.ranges import FeatureSpace, Measured, PooledFeature, TrainingRanges, feature_space, learn, measure
from volssl.encoders import PaperDenseNet
from volssl.heads import TaskNetwork
from volssl.transforms.head_box import BoxInfo

VALUES = {"mean": -300.0, "p5": -1000.0, "median": 10.0, "p95": 800.0}


def scan(feature: torch.Tensor | None = None, **values: float) -> Measured:
    return Measured((0.5, 0.5, 4.0), (200.0, 200.0, 160.0), VALUES | values, feature)


def ranges(*, distance: float | None = None) -> TrainingRanges:
    return TrainingRanges(
        spacing_mm=((0.4, 0.6), (0.4, 0.6), (3.0, 5.0)),
        extent_mm=((200.0, 250.0), (200.0, 250.0), (120.0, 180.0)),
        volumes=9,
        values={"median": (0.0, 20.0, 4.0), "p95": (700.0, 900.0, 100.0)},
        distance=distance,
    )


def geometry(spacing_mm: tuple[float, ...], shape: tuple[int, ...]) -> Measured:
    return Measured(spacing_mm, tuple(n * mm for n, mm in zip(shape, spacing_mm, strict=True)), VALUES)


def test_geometry_may_leave_its_range_by_five_percent() -> None:
    assert ranges().left_by(geometry((0.41, 0.41, 4.0), (500, 500, 40)), modality="CT") == []
    assert ranges().left_by(geometry((0.625, 0.5, 5.2), (400, 400, 32)), modality="CT") == []  # .63 and 5.25 would fit
    assert ranges().left_by(geometry((0.5, 0.5, 8.0), (400, 400, 24)), modality="CT") == [
        "voxels measure 8 mm along S, in the training data 3 to 5 mm",
        "the field of view measures 192 mm along S, in the training data 120 to 180 mm",
    ]


def test_values_may_leave_their_range_by_a_standard_deviation_or_by_what_air_differs() -> None:
    for inside in ({"p95": 999.0}, {"p95": 601.0}, {"median": 44.0}, {"median": -24.0}):
        assert ranges().left_by(scan(**inside), modality="CT") == []
    assert ranges().left_by(scan(p95=1001.0, median=46.0), modality="CT") == [
        "the median of the values in the box is 46 HU, in the training data 0 to 20 HU",
        "the 95th percentile of the values in the box is 1001 HU, in the training data 700 to 900 HU",
    ]


def test_a_distance_is_told_with_what_is_usual() -> None:
    assert ranges(distance=5.0).left_by(scan(), modality="CT", distance=5.0) == []
    (told,) = ranges(distance=5.0).left_by(scan(), modality="CT", distance=7.25)
    assert told == "its features lie 7.25 from the middle of the training scans', usual are 5"
    assert len(ranges(distance=5.0).left_by(scan(), modality="CT", distance=float("nan"))) == 1


def test_the_distance_is_that_of_mahalanobis() -> None:
    space = FeatureSpace(torch.tensor([1.0, 2.0]), torch.linalg.inv(torch.tensor([[4.0, 0.0], [0.0, 9.0]])))
    assert space.distance(torch.tensor([3.0, 2.0])) == pytest.approx(1.0)  # two, in standard deviations of two
    assert space.distance(torch.tensor([3.0, 8.0])) == pytest.approx(5**0.5)


def test_of_many_scans_the_precision_is_that_of_the_sample() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(20_000, 3)) @ np.array([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 3.0, 5.0]])
    space = feature_space(torch.from_numpy(table))
    assert space.precision.numpy() == pytest.approx(np.linalg.inv(np.cov(table.T, bias=True)), rel=0.02)
    assert space.mean.numpy() == pytest.approx(table.mean(axis=0), abs=1e-5)


def test_at_most_one_in_twenty_new_scans_is_beyond_the_usual_and_all_that_are_shifted() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(64, 64)) / 8

    def drawn(count: int, shift: float = 0.0) -> list[Measured]:
        rows = (rng.normal(size=(count, 64)) @ mixing + shift).astype(np.float32)
        noise = rng.normal(scale=10, size=count)
        return [scan(torch.from_numpy(row), p95=800 + float(d)) for row, d in zip(rows, noise, strict=True)]

    found, space = learn(drawn(40), drawn(400))  # fewer scans than features, as in life
    assert space is not None
    new, other = drawn(1000), drawn(50, shift=3.0)

    def warned(scans: list[Measured]) -> int:
        distances = [space.distance(one.feature) for one in scans if one.feature is not None]
        pairs = zip(scans, distances, strict=True)
        return sum(bool(found.left_by(one, modality="CT", distance=apart)) for one, apart in pairs)

    assert 5 <= warned(new) <= 50
    assert warned(other) == 50


def test_no_training_scan_is_beyond_the_usual() -> None:
    training = [scan(torch.randn(8, generator=torch.Generator().manual_seed(seed))) for seed in range(12)]
    found, space = learn(training, [])
    assert space is not None
    for one in training:
        assert one.feature is not None
        assert found.left_by(one, modality="CT", distance=space.distance(one.feature)) == []


def test_ranges_come_back_from_json() -> None:
    made = ranges(distance=3.5)
    assert TrainingRanges.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    with pytest.raises(KeyError):
        TrainingRanges.from_dict(made.as_dict() | {"values": {"mode": (0, 1, 1)}})


def test_hu_are_measured_in_the_box_alone_and_padding_does_not_drown_them() -> None:
    hu = np.full((1, 4, 4, 4), -5000.0)
    hu[:, 1:3, 1:3, 1:3] = 40.0
    hu[0, 1, 1, 1] = 60_000.0
    box = ((1.0, 3.0), (1.0, 3.0), (1.0, 3.0))
    info = BoxInfo(box, (2, 2, 2), (4, 4, 4), (1.0, 1.0, 2.0))
    taken = []

    def read(sides: tuple[tuple[int, int], ...]) -> np.ndarray:
        taken.append(sides)
        return hu[(slice(None), *(slice(*side) for side in sides))]

    found = measure(read, info=info, image=torch.zeros(1, 2, 2, 2), modality="CT")
    assert taken == [((1, 3), (1, 3), (1, 3))]
    assert found.values["median"] == 40
    assert found.values["mean"] == (7 * 40 + 3071) / 8
    assert found.extent_mm == (4, 4, 8)


def test_the_feature_is_the_encoders_own_also_where_the_mirror_image_is_looked_at() -> None:
    torch.manual_seed(0)
    network = TaskNetwork(PaperDenseNet(), slices=4, flips=True).eval()
    pooled, image = PooledFeature(network), torch.rand(1, 1, 16, 16, 4)
    with torch.no_grad():
        network(image)
        wanted = network.encoder.pooled(image)[0]
    assert torch.equal(pooled.take(), wanted)
    assert pooled.seen == []
