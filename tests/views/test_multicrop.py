"""Multi-crop: sizes, places, what is read, and that every draw comes from the generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.scans import ArrayScan, noise_scan
from volssl.views import MultiCrop

SMALL = {"sizes": ((24, 28, 8), (16, 16, 4)), "counts": (1, 3), "spacing_mm": (3.5, 3.5, 7.0)}
PLAIN = {"border": 0.0, "gamma_probability": 0.0, "scale": (1, 1), "shift": (0, 0), "flip": 0.0, "noise": 0.0}


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


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        MultiCrop(sizes=((16, 16, 4),), counts=(1, 2))


def test_the_user_is_told_how_many_scans_are_padded(capsys: pytest.CaptureFixture[str]) -> None:
    views = MultiCrop(sizes=((32, 32, 8),), counts=(1,), zoom=((1, 1),), spacing_mm=(3.5, 3.5, 7.0))
    views.say_padding([noise_scan(0), noise_scan(1, (20, 44, 16)), noise_scan(2, (40, 44, 7))])
    assert "2 of 3 volumes are smaller than a crop of 32×32×8" in capsys.readouterr().err
    views.say_padding([noise_scan(0)])
    assert capsys.readouterr().err == ""
