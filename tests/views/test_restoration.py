"""A crop and its corruption: probabilities, order, and that the target is the crop alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from tests.scans import ArrayScan, noise_scan
from volssl.transforms.paint import RandInPaint, RandOutPaint
from volssl.views import Cropper, RestorationViews

CROPS = Cropper(size=(24, 28, 12), spacing_mm=(3.5, 3.5, 7.0), border=0.0)
NOTHING = {"flip": 0.0, "shuffle": 0.0, "non_linear": 0.0, "paint": 0.0}


def views(**options: float) -> RestorationViews:
    return RestorationViews(crops=CROPS, **options)  # type: ignore[arg-type]


def test_input_and_target_have_the_crop_s_size_and_lie_in_the_unit_range() -> None:
    for seed in range(5):
        made = views(swap=0.5, mask=0.5)(noise_scan(0), np.random.RandomState(seed))
        assert {name: tuple(value.shape) for name, value in made.items()} == dict.fromkeys(
            ("input", "target"), (1, 24, 28, 12)
        )
        assert all(v.dtype == torch.float32 and 0 <= float(v.min()) <= float(v.max()) <= 1 for v in made.values())


def test_the_target_is_the_crop_and_with_nothing_done_the_input_too() -> None:
    made = views(**NOTHING)(noise_scan(0), np.random.RandomState(3))
    expected = CROPS(noise_scan(0), np.random.RandomState(3))
    assert torch.equal(made["target"], expected)
    assert torch.equal(made["input"], expected)
    corrupted = views(**(NOTHING | {"shuffle": 1.0}))(noise_scan(0), np.random.RandomState(3))
    assert torch.equal(corrupted["target"], expected)
    assert not torch.equal(corrupted["input"], expected)


def test_input_and_target_are_flipped_alike() -> None:
    flipped = views(**(NOTHING | {"flip": 1.0}))(noise_scan(0), np.random.RandomState(3))
    assert torch.equal(flipped["input"], flipped["target"])
    crop = CROPS(noise_scan(0), np.random.RandomState(3))
    turned = [crop.flip(axes) for axes in ((1,), (2,), (3,), (1, 2, 3))]
    assert any(torch.equal(flipped["target"], one) for one in turned)


def test_changes_come_as_often_as_in_the_paper_and_in_its_order() -> None:
    rng, chosen = np.random.RandomState(0), views()
    drawn = [chosen.draw(rng, (8, 8, 8)) for _ in range(1500)]
    done = [[type(change).__name__ for change, how in one if how is not None] for one in drawn]
    share = {name: np.mean([name in one for one in done]) for name in {n for one in done for n in one}}
    expected = {"RandLocalShuffle": 0.5, "RandBezierIntensity": 0.9, "RandOutPaint": 0.72, "RandInPaint": 0.18}
    assert share == pytest.approx(expected, abs=0.04)
    assert not any({"RandOutPaint", "RandInPaint"} <= set(one) for one in done)
    order = ["RandLocalShuffle", "RandBezierIntensity", "RandOutPaint", "RandInPaint"]
    assert all(one == [name for name in order if name in one] for one in done)


def test_noise_is_painted_last_so_that_no_curve_bends_it() -> None:
    scan = ArrayScan(np.full((40, 44, 16), 55, dtype=np.int16))  # everything .5
    made = views(**(NOTHING | {"non_linear": 1.0, "paint": 1.0, "outer": 1.0}))(scan, np.random.RandomState(1))
    painted = made["input"][made["input"] != made["input"][:, 12, 14, 6].item()]
    assert abs(float(painted.mean()) - 0.5) < 0.03
    assert abs(float(painted.std()) - 12**-0.5) < 0.02


def test_always_as_many_numbers_are_drawn_whatever_is_done() -> None:
    ends = []
    for options in ({}, NOTHING, {"swap": 1.0, "mask": 1.0, "outer": 0.0}):
        rng = np.random.RandomState(7)
        views(**options)(noise_scan(0), rng)
        ends.append(rng.uniform())
    assert len(set(ends)) == 1


def test_masked_cells_hide_three_quarters_as_in_masked_autoencoders() -> None:
    made = RestorationViews(
        crops=Cropper(size=(24, 28, 12), spacing_mm=(3.5, 3.5, 7.0)),
        mask=1.0,
        mask_share=(0.75, 0.75),
        mask_grid=(6, 7, 3),
        mask_fill=0.0,
        **NOTHING,  # type: ignore[arg-type]
    )(ArrayScan(np.full((40, 44, 16), 55, dtype=np.int16)), np.random.RandomState(1))
    assert float((made["input"] == 0).float().mean()) == 0.75
    assert float((made["target"] == 0).float().mean()) == 0.0


def test_every_channel_is_corrupted_alike() -> None:
    two = Cropper(size=(24, 28, 12), spacing_mm=(3.5, 3.5, 7.0), windows_hu=[(55.0, 200.0), (55.0, 200.0)])
    made = RestorationViews(crops=two, swap=1.0)(noise_scan(0), np.random.RandomState(5))
    assert made["input"].shape[0] == 2
    assert torch.equal(made["input"][0], made["input"][1])


def test_the_same_generator_gives_the_same_sample_after_pickling_too() -> None:
    one = views(swap=0.5, mask=0.5)
    other = pickle.loads(pickle.dumps(one))
    a, b, c = (v(noise_scan(0), np.random.RandomState(seed)) for v, seed in ((one, 5), (other, 5), (one, 6)))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["input"], c["input"])


def test_painting_can_be_all_of_one_kind() -> None:
    for outer, kind in ((1.0, RandOutPaint), (0.0, RandInPaint)):
        done = views(**(NOTHING | {"paint": 1.0, "outer": outer})).draw(np.random.RandomState(0), (24, 24, 24))
        assert [type(change) for change, how in done if how is not None] == [kind]


def test_the_user_is_told_how_many_scans_are_padded(capsys: pytest.CaptureFixture[str]) -> None:
    views().say_padding([noise_scan(0), noise_scan(1, (20, 44, 16)), noise_scan(2, (40, 44, 7))])
    assert "2 of 3 volumes are smaller than a crop of 24×28×12" in capsys.readouterr().err
