"""Multi-crop: sizes, places, what is read, and that every draw comes from the generator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from tests.scans import ArrayScan, noise_scan
from volssl.transforms.crops import overlap
from volssl.transforms.intensity import add_noise
from volssl.views import MultiCrop
from volssl.views.energies import Spectrum, reference_energies

SMALL = {"sizes": ((24, 28, 8), (16, 16, 4)), "counts": (1, 3), "spacing_mm": (3.5, 3.5, 7.0)}
PLAIN = {
    "border": 0.0,
    "gamma_probability": 0.0,
    "scale": (1, 1),
    "shift": (0, 0),
    "flip": (0.0, 0.0, 0.0),
    "noise": 0.0,
}


def test_crops_have_their_sizes_and_lie_in_the_unit_range() -> None:
    views = MultiCrop(**SMALL)(noise_scan(0), np.random.RandomState(0))
    assert [tuple(views[f"crop{i}"].shape) for i in range(4)] == [(1, 24, 28, 8)] + 3 * [(1, 16, 16, 4)]
    assert all(float(v.min()) >= 0 and float(v.max()) <= 1 and v.dtype == torch.float32 for v in views.values())


def test_the_same_generator_state_gives_the_same_views_and_another_does_not() -> None:
    views = MultiCrop(**SMALL)
    a, b, c = (views(noise_scan(0), np.random.RandomState(seed)) for seed in (5, 5, 6))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


def test_a_plain_crop_at_the_scan_s_own_spacing_is_a_window_of_the_scan() -> None:
    scan = noise_scan(1)
    scan.array[:] = np.arange(scan.array.size).reshape(scan.shape) % 100
    crop = MultiCrop(sizes=((24, 28, 8),), counts=(1,), zoom=((1, 1),), spacing_mm=(3.5, 3.5, 7.0), **PLAIN)
    got = crop(scan, np.random.RandomState(3))["crop0"]
    whole = torch.from_numpy(((scan.array.astype(np.float32) + 45) / 200).clip(0, 1))
    rng = np.random.RandomState(3)
    rng.uniform(0, 0.0, size=6)
    rng.uniform(1, 1)
    starts = [rng.uniform() * (n - size) for n, size in zip(scan.shape, (24, 28, 8), strict=True)]
    axes = [torch.arange(size) + 0.5 + start for start, size in zip(starts, (24, 28, 8), strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    scaled = 2 * grid / torch.tensor(scan.shape) - 1
    expected = torch.nn.functional.grid_sample(
        whole[None, None], scaled.flip(-1)[None].float(), mode="bilinear", align_corners=False, padding_mode="border"
    )
    torch.testing.assert_close(got, expected[0], atol=2e-5, rtol=0)


def test_only_the_needed_box_is_read() -> None:
    scan = ArrayScan(np.zeros((200, 200, 60), dtype=np.int16))
    MultiCrop(sizes=((16, 16, 4),), counts=(1,), zoom=((0.5, 0.5),), spacing_mm=(3.5, 3.5, 7.0))(
        scan, np.random.RandomState(0)
    )
    box = scan.boxes[0]
    assert box is not None
    assert all(stop - start <= size * 0.5 + 4 for (start, stop), size in zip(box, (16, 16, 4), strict=True))


def test_a_crop_larger_than_the_scan_is_centred_and_padded_with_air() -> None:
    scan = ArrayScan(np.full((20, 20, 8), 155, dtype=np.int16))
    crop = MultiCrop(sizes=((32, 32, 16),), counts=(1,), zoom=((1, 1),), spacing_mm=(3.5, 3.5, 7.0), **PLAIN)
    got = crop(scan, np.random.RandomState(0))["crop0"][0]
    assert float(got.sum()) == pytest.approx(20 * 20 * 8, rel=1e-5)
    assert float(got[6:26, 6:26, 4:12].min()) == pytest.approx(1.0, abs=1e-5)


def test_what_was_drawn_can_be_made_again() -> None:
    scan, views = noise_scan(0), MultiCrop(**SMALL)
    crops = views.draw(scan, np.random.RandomState(5))
    made = views.make(scan, crops)
    assert all(torch.equal(a, b) for a, b in zip(made, views(scan, np.random.RandomState(5)).values(), strict=True))
    assert [crop.kind for crop in crops] == [0, 1, 1, 1]


def test_each_change_is_the_plain_function_s_in_its_order() -> None:
    scan = noise_scan(0)
    energies = reference_energies([scan, noise_scan(1)])
    views = MultiCrop(**SMALL, energies=energies, energy_probability=1.0, flip=(0.5, 0.5, 0.5))
    crops = views.draw(scan, np.random.RandomState(1))
    assert len({crop.flips for crop in crops}) > 1
    spectrum = Spectrum(scan, energies)
    for image, crop in zip(views.make(scan, crops), crops, strict=True):
        assert crop.reference is not None
        plain = spectrum.rebalance(views.croppers[crop.kind].cut(scan, crop.box), crop.box, crop.reference)
        for axis in crop.flips:
            plain = plain.flip(axis)
        changed = (plain ** crop.intensity["gamma"] * crop.intensity["scale"] + crop.intensity["shift"]).clamp(0, 1)
        expected = add_noise(changed, sigma=crop.noise, seed=crop.seed)
        torch.testing.assert_close(image, expected, atol=2e-6, rtol=0)


def test_crops_that_lie_together_are_read_as_one_box_and_others_alone() -> None:
    near, far = ArrayScan(np.zeros((40, 44, 16), np.int16)), ArrayScan(np.zeros((400, 44, 400), np.int16))
    views = MultiCrop(sizes=((8, 8, 4),), counts=(6,), zoom=((1, 1),), spacing_mm=(3.5, 3.5, 7.0), min_overlap=0.0)
    MultiCrop(**SMALL)(near, np.random.RandomState(0))
    views(far, np.random.RandomState(0))
    assert len(near.boxes) == 1
    assert len(far.boxes) == 6


def test_one_box_or_many_give_the_same_crops() -> None:
    scan, views = noise_scan(2), MultiCrop(**SMALL, **PLAIN)
    crops = views.draw(scan, np.random.RandomState(0))
    together = views.cut(scan, crops)
    assert len(scan.boxes) == 1
    for image, crop in zip(together, crops, strict=True):
        torch.testing.assert_close(image, views.croppers[crop.kind].cut(scan, crop.box), atol=1e-6, rtol=0)


def test_every_crop_overlaps_with_the_first_as_asked() -> None:
    scan = noise_scan(0, (120, 120, 60))
    views = MultiCrop(sizes=((12, 12, 6), (6, 6, 3)), counts=(2, 3), spacing_mm=(3.5, 3.5, 7.0), min_overlap=0.7)
    for seed in range(60):
        first, *others = views.draw(scan, np.random.RandomState(seed))
        assert min(overlap(first.box, crop.box) for crop in others) >= 0.7 - 1e-9


def test_flips_happen_as_often_as_asked() -> None:
    scan, views = noise_scan(0), MultiCrop(**SMALL, flip=(0.5, 0.0, 0.25))
    flips = [crop.flips for seed in range(300) for crop in views.draw(scan, np.random.RandomState(seed))]
    shares = [np.mean([axis in flip for flip in flips]) for axis in (1, 2, 3)]
    assert shares[1] == 0
    np.testing.assert_allclose(shares, [0.5, 0.0, 0.25], atol=4 * np.sqrt(0.25 / 1200))


def test_several_windows_and_mr_scans() -> None:
    views = MultiCrop(**SMALL, window_hu=[(55, 200), (40, 80)])
    assert tuple(views(noise_scan(0), np.random.RandomState(0))["crop0"].shape) == (2, 24, 28, 8)
    mr = ArrayScan(np.random.default_rng(0).gamma(2, 300, (40, 44, 16)).astype(np.float32), modality="MR")
    crop = views(mr, np.random.RandomState(0))["crop0"]
    assert tuple(crop.shape) == (2, 24, 28, 8)
    assert 0 <= float(crop.min()) < float(crop.max()) <= 1


def test_draws_are_as_many_whatever_the_scan_and_views_are_picklable() -> None:
    views = pickle.loads(pickle.dumps(MultiCrop(**SMALL, energies=reference_energies([noise_scan(0)]))))
    after = set()
    for scan in (noise_scan(0), noise_scan(1, (9, 70, 5))):
        rng = np.random.RandomState(0)
        views(scan, rng)
        after.add(rng.uniform())
    assert len(after) == 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="share of 0 to 1"):
        MultiCrop(min_overlap=1.5)
    with pytest.raises(ValueError, match="of no use to views"):
        MultiCrop(window_hu=(40, 80), energies=reference_energies([noise_scan(0)]))


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        MultiCrop(sizes=((16, 16, 4),), counts=(1, 2))


def test_the_user_is_told_how_many_scans_are_padded(capsys: pytest.CaptureFixture[str]) -> None:
    views = MultiCrop(sizes=((32, 32, 8),), counts=(1,), zoom=((1, 1),), spacing_mm=(3.5, 3.5, 7.0))
    views.say_padding([noise_scan(0), noise_scan(1, (20, 44, 16)), noise_scan(2, (40, 44, 7))])
    assert "2 of 3 volumes are smaller than a crop of 32×32×8" in capsys.readouterr().err
    views.say_padding([noise_scan(0)])
    assert capsys.readouterr().err == ""
