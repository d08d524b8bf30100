"""Two crops that belong together, and crops that are turned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.scans import ArrayScan, noise_scan
from volssl.transforms.masks import RandBlockMask
from volssl.views import MultiCrop, TurnedCrops, TurnedPair, TwoCrops
from volssl.views.base import PairViews

PLAIN = {"border": 0.0, "gamma_probability": 0.0, "scale": (1, 1), "shift": (0, 0), "flip": (0, 0, 0), "noise": 0.0}
AT = {"spacing_mm": (3.5, 3.5, 7.0), "zoom": [(1.0, 1.0)]}


def plain(count: int, size: tuple[int, int, int] = (24, 24, 8), **options: object) -> MultiCrop:
    return MultiCrop(sizes=[size], counts=[count], **{**AT, **PLAIN, **options})  # type: ignore[arg-type]


def rng(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


def even(hu: int, name: str) -> ArrayScan:
    return ArrayScan(np.full((40, 44, 16), hu, dtype=np.int16), id=name)


def test_of_two_scans_each_gives_one_crop() -> None:
    pair = TwoCrops(plain(2)).pair(even(5, "a"), even(105, "b"), rng(0))
    assert {name: crop.unique().tolist() for name, crop in pair.items()} == {
        "crop0": [pytest.approx(0.25)],
        "crop1": [pytest.approx(0.75)],
    }
    assert pair["crop1"].shape == (1, 24, 24, 8)


def test_a_scan_that_is_its_own_partner_gives_two_crops_of_it() -> None:
    views, scan = TwoCrops(plain(2)), noise_scan(1)
    alone, own = views(scan, rng(3)), views.pair(scan, scan, rng(3))
    assert all(torch.equal(alone[name], own[name]) for name in ("crop0", "crop1"))
    assert not torch.equal(alone["crop0"], alone["crop1"])


def test_only_the_crops_that_are_used_are_read() -> None:
    scan, partner = noise_scan(1), noise_scan(2)
    TwoCrops(plain(2)).pair(scan, partner, rng(0))
    assert (len(scan.boxes), len(partner.boxes)) == (1, 1)


def test_a_pair_is_two_crops_of_one_size() -> None:
    with pytest.raises(ValueError, match=r"counts is \[2\]"):
        TwoCrops(plain(3))
    assert isinstance(TwoCrops(), PairViews)
    assert not isinstance(TurnedCrops(), PairViews)


def test_a_turned_crop_is_the_crop_turned_from_right_to_anterior() -> None:
    scan = noise_scan(1)
    scan.array[:] = -1000
    scan.array[30:, 20:24] = 155  # bright on the right
    views = TurnedCrops(plain(1, size=(40, 40, 16)))
    for seed in range(12):
        sample = views(scan, rng(seed))
        r, a = (sample["rotated"][0].mean(dim=axes).argmax().item() for axes in ((1, 2), (0, 2)))
        assert [r >= 30, a >= 30, r < 10, a < 10] == [int(sample["turns"]) == turns for turns in range(4)]


def test_every_turn_is_as_likely() -> None:
    views, scan = TurnedCrops(plain(1)), noise_scan(0)
    counts = Counter(int(views(scan, rng(seed))["turns"]) for seed in range(800))
    assert set(counts) == {0, 1, 2, 3}
    assert max(abs(count - 200) for count in counts.values()) < 50  # four standard deviations


def test_half_turns_need_no_square() -> None:
    views, scan = TurnedCrops(plain(1, size=(20, 28, 8)), turns=2), noise_scan(0)
    crop = plain(1, size=(20, 28, 8))(scan, rng(1))["crop0"]
    samples = [views(scan, rng(1)), *(views(scan, rng(seed)) for seed in range(2, 20))]
    assert {int(sample["turns"]) for sample in samples} == {0, 1}
    assert {tuple(sample["rotated"].shape) for sample in samples} == {(1, 20, 28, 8)}
    turned = crop.flip(1, 2) if samples[0]["turns"] else crop
    assert torch.equal(samples[0]["rotated"], turned)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (20, 28, 8)}, "no quarter turns"),
        ({"spacing_mm": (3.5, 7.0, 7.0)}, "no quarter turns"),
        ({"flip": (0.5, 0.5, 0.0)}, "along A hides a half turn"),
        ({"count": 2}, r"counts is \[1\]"),
    ],
)
def test_what_would_tell_or_hide_the_turn_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TurnedCrops(plain(**{"count": 1, **options}))  # type: ignore[arg-type]


def test_swin_unetr_s_views_are_two_turns_of_one_crop_each_partly_hidden() -> None:
    views, scan = TurnedPair(plain(1), hide=RandBlockMask(share=(0.2, 0.3), fill=0.0)), noise_scan(4)
    turned = set()
    for seed in range(10):
        sample = views(scan, rng(seed))
        back = [sample[f"target{i}"].rot90(-int(sample[f"turns{i}"]), (1, 2)) for i in (0, 1)]
        assert torch.equal(*back)
        for i in (0, 1):
            hidden = (sample[f"crop{i}"] != sample[f"target{i}"]).float().mean()
            assert 0 < hidden <= 0.3
        turned.add((int(sample["turns0"]), int(sample["turns1"])))
    assert len(turned) > 4
    again, other = views(scan, rng(0)), views(scan, rng(0))
    assert all(torch.equal(again[name], other[name]) for name in again)
