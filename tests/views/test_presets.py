"""The presets: Table 1 as it stands, and what each of them changes."""

from __future__ import annotations

import numpy as np
import torch

from tests.scans import ArrayScan, noise_scan
from volssl.views import generic, paper
from volssl.views.presets import table_1_sizes


def test_table_1_stands_in_the_defaults() -> None:
    views = paper()
    assert [cropper.size for cropper in views.croppers] == [(224, 224, 192), (112, 112, 96)]
    assert views.counts == [1, 4]
    assert all(cropper.border == 0.1 for cropper in views.croppers)
    rescale = views.croppers[0].rescale
    assert rescale is not None
    assert (rescale.fraction, rescale.sizes) == ((0.1, 0.7), ((112, 112, 96), (250, 250, 200)))
    assert (views.gamma, views.scale, views.shift) == ((1.8, 2.6), (0.9, 1.1), (-0.2, 0.2))


def test_the_image_size_range_goes_with_the_crops() -> None:
    assert table_1_sizes([(48, 56, 20), (24, 28, 10)]) == ((24, 28, 10), (54, 62, 21))


def test_the_paper_s_crops_see_what_their_scale_says() -> None:
    """A scan of 512 × 512 × 40 at s from .1 to .7: 112 to 250 columns, and 96 slices whatever s."""
    scan = ArrayScan(np.zeros((1, 1, 1), np.int16))
    scan.array = np.broadcast_to(np.int16(0), (512, 512, 40))
    rng, draws = np.random.RandomState(0), []
    for _ in range(60):
        draws += paper().draw(scan, rng)
    for crop in draws:
        size = (224, 224, 192) if crop.kind == 0 else (112, 112, 96)
        r, a, s = (n / (stop - start) for n, (start, stop) in zip(size, crop.box, strict=True))  # image over scan
        assert 112 - 1e-6 <= r * 512 <= 250 + 1e-6
        assert abs(r - a) < 1e-9
        assert round(s * 40, 6) == 96
        assert crop.flips == ()
        assert crop.reference is None


def test_the_paper_s_views_are_deterministic_without_noise_and_generic_ones_have_no_gamma() -> None:
    sizes = ((16, 18, 8), (8, 9, 4))
    scan = noise_scan(0)
    views = paper(sizes=sizes, fraction=(0.3, 1.0))
    (first, *_), (again, *_) = (views.make(scan, views.draw(scan, np.random.RandomState(0))) for _ in range(2))
    assert torch.equal(first, again)
    assert views.noise == 0
    drawn = [crop for seed in range(40) for crop in generic(sizes=sizes).draw(scan, np.random.RandomState(seed))]
    assert {crop.intensity["gamma"] for crop in drawn} == {1.0}
    assert {axis for crop in drawn for axis in crop.flips} == {1, 2, 3}
    assert max(crop.noise for crop in drawn) > 0.09
