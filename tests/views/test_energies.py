"""Reference energies of a store: estimated the same every time, drawn near their mean, laid onto whole scans."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from tests.scans import ArrayScan, noise_scan
from volssl.errors import UserError
from volssl.views import energies as module
from volssl.views.energies import Energies, Spectrum, decompose, reference_energies, spread

BANDS = {"sigmas_mm": (3.0, 6.0), "grid_mm": 1.0}  # the grid is the scan's own: it is coarser


def some(mean: list[float], deviation: list[float]) -> Energies:
    """Energies of one CT window and three bands."""
    return Energies(
        windows_hu=[(55.0, 200.0)],
        sigmas_mm=[3.0, 6.0],
        grid_mm=1.0,
        count={"CT": 9},
        mean={"CT": [[value] for value in mean]},
        deviation={"CT": [[value] for value in deviation]},
    )


def scipy_bands(scan: ArrayScan) -> np.ndarray:
    """The three bands of the windowed scan, (3, R, A, S)."""
    image = ((scan.array.astype(np.float64) + 45) / 200).clip(0, 1)
    levels = [image] + [
        ndimage.gaussian_filter(image, [mm / step for step in scan.spacing_mm], mode="nearest") for mm in (3.0, 6.0)
    ]
    return np.stack([levels[0] - levels[1], levels[1] - levels[2], levels[2]])


def test_mean_and_deviation_are_those_of_scipy_s_bands() -> None:
    scans = [noise_scan(seed, (20, 18, 9)) for seed in range(4)]
    found = reference_energies(scans, **BANDS)
    expected = np.stack([scipy_bands(scan).std(axis=(1, 2, 3)) for scan in scans])
    np.testing.assert_allclose(np.array(found.mean["CT"])[:, 0], expected.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.array(found.deviation["CT"])[:, 0], expected.std(axis=0), rtol=1e-2)
    assert found.count == {"CT": 4}


def test_each_modality_and_window_has_its_own() -> None:
    mr = ArrayScan(np.random.default_rng(0).gamma(2, 300, (20, 18, 9)).astype(np.float32), modality="MR")
    windows = [(55, 200), (40, 80)]
    both = reference_energies([noise_scan(0, (20, 18, 9)), mr], windows_hu=windows, **BANDS)
    assert np.array(both.mean["CT"]).shape == np.array(both.mean["MR"]).shape == (3, 2)
    alone = reference_energies([noise_scan(0, (20, 18, 9))], windows_hu=(40, 80), **BANDS)
    np.testing.assert_allclose(np.array(both.mean["CT"])[:, 1], np.array(alone.mean["CT"])[:, 0])


def test_few_scans_are_at_even_steps_and_the_same_every_time() -> None:
    scans = [noise_scan(seed, (12, 12, 6)) for seed in range(9)]
    assert [scan.id for scan in spread(scans, 3)] == ["scan0", "scan4", "scan8"]
    assert [scan.id for scan in spread(scans, 1000)] == [scan.id for scan in scans]
    assert reference_energies(scans, count=3, **BANDS) == reference_energies(scans[::4], **BANDS)


def test_a_kept_estimate_is_read_again_and_refused_for_other_bands(tmp_path: Path) -> None:
    file = tmp_path / "run" / "energies.json"
    first = reference_energies([noise_scan(0, (12, 12, 6))], file=file, **BANDS)
    again = reference_energies([noise_scan(1, (12, 12, 6))], file=file, **BANDS)  # other scans: what is kept counts
    assert again.mean == first.mean
    assert json.loads(file.read_text())["count"] == {"CT": 1}
    again.check_windows((55, 200))
    with pytest.raises(UserError, match="other windows or bands"):
        reference_energies([noise_scan(0, (12, 12, 6))], file=file, windows_hu=(40, 80), **BANDS)
    with pytest.raises(UserError, match="no scan"):
        reference_energies([])


def test_references_are_drawn_from_the_normal_distribution_within_one_deviation() -> None:
    energies, rng = some([1.0, 2.0, 3.0], [0.1, 0.2, 0.0]), np.random.RandomState(0)
    drawn = np.stack([energies.draw("CT", rng)[:, 0] for _ in range(3000)])
    for band, (mean, deviation) in enumerate(((1.0, 0.1), (2.0, 0.2))):
        standard = (drawn[:, band] - mean) / deviation
        assert np.abs(standard).max() <= 1
        assert stats.kstest(standard, stats.truncnorm(-1, 1).cdf).pvalue > 1e-3
    assert set(drawn[:, 2]) == {3.0}
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.07
    with pytest.raises(UserError, match="no MR scan"):
        energies.draw("MR", rng)


def test_a_crop_has_the_energies_and_the_blur_of_the_whole_scan() -> None:
    scan = noise_scan(5, (24, 22, 10))
    scan.array[6:18, 5:16, 2:8] += 60
    bands = scipy_bands(scan)
    own = bands.std(axis=(1, 2, 3))
    reference = own * [0.6, 1.5, 0.9]
    expected = (bands * np.array([0.6, 1.5, 0.9])[:, None, None, None]).sum(axis=0).clip(0, 1)
    spectrum = Spectrum(scan, some(own.tolist(), [0, 0, 0]))
    crop = torch.from_numpy(bands.sum(axis=0)[None, 3:13, 8:20, 1:7]).float()
    got = spectrum.rebalance(crop, ((3, 13), (8, 20), (1, 7)), reference[:, None])
    np.testing.assert_allclose(got[0].numpy(), expected[3:13, 8:20, 1:7], atol=1e-4)


def test_a_crop_finer_than_the_grid_finds_its_place_on_it() -> None:
    """Bands from a grid of 2 mm, laid onto a crop of 1 mm: as from a grid of 1 mm, but for the interpolation."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (48, 40, 20)), (5, 5, 3))
    scan = ArrayScan((55 + 50 * smooth / smooth.std()).astype(np.int16), spacing_mm=(1.0, 1.0, 2.0))
    crop = torch.from_numpy((scan.array[None, 30:46, 4:20, 9:19].astype(np.float32) + 45) / 200).clamp(0, 1)
    found = []
    for grid_mm in (1.0, 2.0):
        energies = replace(some([0.1] * 3, [0.0] * 3), sigmas_mm=[4.0, 8.0], grid_mm=grid_mm)
        spectrum = Spectrum(scan, energies)
        reference = spectrum.energies.double().numpy() * np.array([[1.0], [1.5], [0.6]])
        found.append(spectrum.rebalance(crop, ((30, 46), (4, 20), (9, 19)), reference))
    assert float((found[0] - crop).abs().max()) > 0.1  # it changed a lot,
    assert float((found[0] - found[1]).abs().max()) < 0.03  # and on both grids alike


def test_what_lies_outside_of_the_scan_stays_black() -> None:
    scan = ArrayScan(np.full((10, 10, 10), 55, np.int16))
    scan.array[3:7] = 100
    spectrum = Spectrum(scan, some([0.1, 0.1, 0.1], [0, 0, 0]))
    got = spectrum.rebalance(torch.zeros(1, 14, 10, 10), ((-4, 10), (0, 10), (0, 10)), np.array([[0.0], [0.1], [0.2]]))
    assert float(got[:, :4].abs().max()) == 0
    assert float(got[:, 4:].abs().max()) > 0


def test_the_coarse_grid_and_reading_in_slabs_change_little_and_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (48, 40, 20)), (6, 6, 3))
    scan = ArrayScan((55 + 60 * smooth / smooth.std()).astype(np.int16), spacing_mm=(1.0, 1.0, 2.0))
    _, fine = decompose(scan, windows_hu=(55, 200), sigmas_mm=(4.0, 8.0), grid_mm=1.0)
    blurred, coarse = decompose(scan, windows_hu=(55, 200), sigmas_mm=(4.0, 8.0), grid_mm=2.0)
    assert tuple(blurred.shape) == (2, 1, 24, 20, 20)  # S has voxels of 2 mm already
    np.testing.assert_allclose(coarse.numpy(), fine.numpy(), rtol=0.06)
    scan.boxes.clear()
    monkeypatch.setattr(module, "SLAB_VOXELS", 48 * 40 * 7)
    in_slabs, _ = decompose(scan, windows_hu=(55, 200), sigmas_mm=(4.0, 8.0), grid_mm=2.0)
    assert [box[2] for box in scan.boxes if box is not None] == [(0, 7), (7, 14), (14, 20)]
    torch.testing.assert_close(in_slabs, blurred, atol=1e-6, rtol=0)
