"""One crop of a scan: its place, its scale, what is read, and the paper's rescaling."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from tests.scans import ArrayScan, Box, noise_scan
from volssl.errors import UserError
from volssl.transforms.crops import overlap
from volssl.transforms.resample import resample_box
from volssl.transforms.window import window
from volssl.views import Cropper, in_voxels
from volssl.views.cropper import Rescale

SPACING = (3.5, 3.5, 7.0)


def extents(cropper: Cropper, scan: ArrayScan, draws: int = 400) -> np.ndarray:
    """Extents of drawn boxes in voxels of the scan, (draws, 3)."""
    rng = np.random.RandomState(0)
    return np.array([[stop - start for start, stop in cropper.draw(scan, rng)] for _ in range(draws)])


def test_a_lazily_read_box_is_the_same_as_of_the_whole_volume_in_memory() -> None:
    scan = noise_scan(0)
    for zoom, seed in (((0.4, 0.4), 1), ((1.0, 1.3), 2), ((2.5, 3.0), 3)):
        cropper = Cropper(size=(17, 12, 9), spacing_mm=SPACING, zoom=zoom)
        box = cropper.draw(scan, np.random.RandomState(seed))
        whole = resample_box(window(torch.from_numpy(scan.array)[None], 55, 200), box, (17, 12, 9))
        torch.testing.assert_close(cropper.cut(scan, box), whole, atol=1e-6, rtol=0)
        assert torch.equal(cropper(scan, np.random.RandomState(seed)), cropper.cut(scan, box))


def test_only_what_the_box_needs_is_read() -> None:
    scan = ArrayScan(np.zeros((200, 200, 60), np.int16))
    Cropper(size=(16, 16, 4), spacing_mm=SPACING, zoom=(0.5, 0.5)).cut(scan, ((50.5, 58.5), (0, 8), (57, 59)))
    assert scan.boxes == [((49, 60), (0, 9), (56, 60))]


def test_a_crop_of_whole_voxels_is_cut_where_it_was_said() -> None:
    scan = ArrayScan(np.arange(20 * 18 * 10, dtype=np.int16).reshape(20, 18, 10) % 200 - 45)
    crop = Cropper(size=(5, 4, 3), spacing_mm=SPACING).cut(scan, ((7, 12), (2, 6), (4, 7)))
    np.testing.assert_allclose(crop[0].numpy() * 200 - 45, scan.array[7:12, 2:6, 4:7], atol=1e-3)


def test_an_extent_in_mm_becomes_voxels_of_the_spacing() -> None:
    assert in_voxels((100, 70, 50), unit="mm", spacing_mm=SPACING) == (29, 20, 7)  # 28.6, 20, 7.1
    assert in_voxels((84, 98.5, 56), unit="mm", spacing_mm=(3.5, 3.5, 7.0)) == (24, 28, 8)
    assert in_voxels([24, 28, 8], spacing_mm=(3.5, 3.5, 7.0)) == (24, 28, 8)


def test_the_voxel_size_is_uniform_on_the_zoom_and_of_one_factor() -> None:
    scan = ArrayScan(np.zeros((300, 300, 300), np.int16), spacing_mm=(1.0, 2.0, 0.5))
    found = extents(Cropper(size=(20, 20, 20), spacing_mm=(2.0, 2.0, 2.0), zoom=(0.5, 1.5)), scan)
    assert stats.kstest(found[:, 0] / 40, "uniform", args=(0.5, 1.0)).pvalue > 1e-3
    np.testing.assert_allclose(found / found[:, :1], np.broadcast_to([1.0, 0.5, 2.0], found.shape))


def test_crops_stay_off_the_border_that_is_cut() -> None:
    scan = ArrayScan(np.zeros((100, 100, 100), np.int16))
    cropper = Cropper(size=(10, 10, 10), spacing_mm=SPACING, border=0.1)
    boxes = np.array([cropper.draw(scan, np.random.RandomState(seed)) for seed in range(1500)])
    assert boxes[:, 0, 0].min() < 4  # a border near 0 is drawn too, alike on both sides
    assert boxes[:, 0, 1].max() > 96
    assert abs(boxes[:, 0].mean() - 50) < 2.5
    none = Cropper(size=(80, 10, 10), spacing_mm=SPACING, border=0.1)
    starts = np.array([none.draw(scan, np.random.RandomState(seed))[0] for seed in range(500)])
    assert starts.min() >= 0
    assert starts.max() <= 100


def test_a_crop_larger_than_what_is_left_looks_beyond_it_and_is_not_padded() -> None:
    scan = ArrayScan(np.full((20, 20, 20), 155, np.int16))
    cropper = Cropper(size=(20, 20, 20), spacing_mm=(3.5, 3.5, 7.0), border=0.1)
    for seed in range(20):
        assert float(cropper(scan, np.random.RandomState(seed)).min()) == pytest.approx(1, abs=1e-5)


def test_padding_is_where_the_scan_is_smaller_and_nowhere_else() -> None:
    scan = ArrayScan(np.full((20, 20, 8), 155, np.int16))
    crop = Cropper(size=(32, 12, 8), spacing_mm=SPACING)(scan, np.random.RandomState(0))[0]
    assert float(crop[6:26].min()) == pytest.approx(1, abs=1e-5)
    assert float(crop[:6].abs().max()) == float(crop[26:].abs().max()) == 0


def test_several_windows_are_channels_and_mr_goes_by_its_percentiles() -> None:
    scan = noise_scan(3)
    pairs = [(55, 200), (40, 80)]
    cropper = Cropper(size=(8, 8, 8), spacing_mm=SPACING, windows_hu=pairs)
    box = cropper.draw(scan, np.random.RandomState(0))
    got = cropper.cut(scan, box)
    assert tuple(got.shape) == (2, 8, 8, 8)
    for channel, pair in zip(got, pairs, strict=True):
        alone = Cropper(size=(8, 8, 8), spacing_mm=SPACING, windows_hu=pair).cut(scan, box)
        assert torch.equal(channel, alone[0])
    mr = ArrayScan(np.random.default_rng(0).gamma(2, 300, (20, 20, 20)).astype(np.float32), modality="MR")
    low, high = mr.intensity
    crop = Cropper(size=(20, 20, 20), spacing_mm=SPACING, windows_hu=None).cut(mr, ((0, 20), (0, 20), (0, 20)))
    np.testing.assert_allclose(crop[0].numpy(), ((mr.array - low) / (high - low)).clip(0, 1), atol=1e-5)


def test_a_second_crop_shares_what_is_asked_for() -> None:
    scan, rng = noise_scan(0, (60, 60, 60)), np.random.RandomState(0)
    cropper = Cropper(size=(20, 20, 20), spacing_mm=SPACING, zoom=(0.8, 1.2), border=0.0)
    pairs = [
        (first := cropper.draw(scan, rng), cropper.draw(scan, rng, near=first, min_overlap=0.4)) for _ in range(200)
    ]
    shared = [overlap(*pair) for pair in pairs]
    assert min(shared) >= 0.4
    assert min(overlap(pairs[i][0], pairs[i + 1][0]) for i in range(100)) < 0.1  # and others do not


def test_the_image_size_is_s_of_the_shape_held_in_the_range_axis_by_axis() -> None:
    rescale = Rescale()
    assert rescale.image_size((512, 512, 40), 0.4) == (205, 205, 96)  # 204.8; 16 slices become 96
    assert rescale.image_size((512, 512, 400), 0.1) == (112, 112, 96)
    assert rescale.image_size((512, 320, 250), 0.7) == (250, 224, 175)  # 358 columns become 250


def test_under_the_paper_s_rule_the_crop_is_a_piece_of_the_rescaled_image() -> None:
    """Against the literal order: the whole volume resized first, then cropped at the same place."""
    scan = noise_scan(4, (60, 50, 24))
    scan.array[:] = np.clip(scan.array, -40, 150)
    cropper = Cropper(size=(8, 8, 6), rescale=Rescale((0.4, 0.4), ((10, 10, 6), (40, 40, 40))))
    box = cropper.draw(scan, np.random.RandomState(0))
    resized = functional.interpolate(
        window(torch.from_numpy(scan.array)[None], 55, 200)[0].permute(2, 0, 1)[None],
        size=(24, 20),
        mode="bilinear",
        antialias=True,
    )[0].permute(1, 2, 0)  # in plane; along S from 24 to 10 slices by the same filter
    resized = functional.interpolate(resized.permute(0, 2, 1)[None], size=(10, 20), mode="bilinear", antialias=True)[
        0
    ].permute(0, 2, 1)
    place = [(start * m / n) for (start, _), m, n in zip(box, (24, 20, 10), scan.shape, strict=True)]
    whole = [round(x) for x in place]
    snapped = tuple(
        (k * n / m, (k + size) * n / m)
        for k, size, m, n in zip(whole, (8, 8, 6), (24, 20, 10), scan.shape, strict=True)
    )
    expected = resized[tuple(slice(k, k + size) for k, size in zip(whole, (8, 8, 6), strict=True))]
    torch.testing.assert_close(cropper.cut(scan, snapped)[0], expected, atol=1e-5, rtol=0)  # type: ignore[arg-type]
    np.testing.assert_allclose([b - a for a, b in box], [8 * 60 / 24, 8 * 50 / 20, 6 * 24 / 10])


@dataclass
class BodyScan(ArrayScan):
    """A scan that is air but for the middle of it."""

    @property
    def foreground(self) -> Box:
        return (40, 60), (40, 60), (40, 60)


def test_places_are_in_the_foreground_but_in_the_whole_image_under_the_paper_s_rule() -> None:
    scan, size = BodyScan(np.zeros((100, 100, 100), np.int16)), (10, 10, 10)
    starts = []
    for rescale in (None, Rescale((1.0, 1.0), ((100, 100, 100), (100, 100, 100)))):
        cropper = Cropper(size=size, spacing_mm=SPACING, border=0.0, rescale=rescale)
        boxes = np.array([cropper.draw(scan, np.random.RandomState(seed)) for seed in range(200)])
        starts.append((boxes[:, :, 0].min(), boxes[:, :, 0].max()))
    assert starts[0][0] >= 40
    assert starts[0][1] <= 50
    assert starts[1][0] < 5
    assert starts[1][1] > 85


def test_s_is_uniform_on_its_range() -> None:
    scan = ArrayScan(np.zeros((400, 400, 400), np.int16))
    cropper = Cropper(size=(10, 10, 10), rescale=Rescale((0.1, 0.7), ((1, 1, 1), (400, 400, 400))))
    s = 10 / extents(cropper, scan, 800)[:, 0]
    assert stats.kstest(s, "uniform", args=(0.1, 0.6)).pvalue > 1e-3


def test_which_scans_are_padded_whatever_is_drawn() -> None:
    zoomed = Cropper(size=(30, 30, 10), spacing_mm=SPACING, zoom=(0.5, 1.0))
    assert not zoomed.is_padded(noise_scan(0, (15, 15, 5)))
    assert zoomed.is_padded(noise_scan(0, (15, 15, 4)))
    rescaled = Cropper(size=(30, 30, 10), rescale=Rescale((0.1, 0.5), ((10, 10, 10), (40, 40, 40))))
    assert not rescaled.is_padded(noise_scan(0, (60, 60, 2)))
    assert rescaled.is_padded(noise_scan(0, (60, 58, 20)))


def test_a_cropper_is_picklable_and_always_draws_as_much() -> None:
    after = set()
    for scan in (noise_scan(0), noise_scan(1, (5, 60, 9))):
        for cropper in (Cropper(size=(9, 9, 9)), Cropper(size=(9, 9, 9), rescale=Rescale())):
            rng = np.random.RandomState(5)
            pickle.loads(pickle.dumps(cropper)).draw(scan, rng)
            after.add(rng.uniform())
    assert len(after) == 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="share of 0 to below"):
        Cropper(size=(8, 8, 8), border=0.5)


@pytest.mark.parametrize(
    ("size", "unit", "why"),
    [
        ((8, 8, 8), "cm", "unit cm: .* in voxels or in mm"),
        ((8, 8.5, 8), "voxels", "8×8.5×8 voxels: .* three whole numbers"),
        ((8, 8, 0), "voxels", "three whole numbers of voxels above 0"),
        ((8, 8, 1), "mm", "8×8×1 mm: .* above 0"),  # a third of a voxel
    ],
)
def test_a_size_that_is_no_crop_is_refused(size: tuple[float, ...], unit: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        in_voxels(size, unit=unit, spacing_mm=(2.0, 2.0, 3.0))


def test_millimetres_are_refused_where_a_voxel_has_none() -> None:
    with pytest.raises(UserError, match="a voxel has no millimetres"):
        in_voxels((80, 80, 80), unit="mm", spacing_mm=None)
