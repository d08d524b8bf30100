"""The simulated brain MR: what depends on the seed, what enhances where, its masks, noise, bias field and sites."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from volssl.simulate import brain_mr
from volssl.simulate.brain_mr import BrainMR, simulate_brain_mr
from volssl.simulate.brain_mr_masses import DIAMETER_MM, Mass, lay_masses
from volssl.simulate.brain_mr_scanner import SCANNERS, bias_field, receive
from volssl.simulate.brain_mr_tissue import Scan
from volssl.simulate.brain_mr_vessels import Tubes, lay_tubes
from volssl.simulate.compose import Grid
from volssl.simulate.scan import stream, to_ras


@cache
def scan(seed: int, present: bool | None = None, stripped: bool = False, site: str = "A") -> BrainMR:
    return simulate_brain_mr(seed, spacing_mm=2.0, slice_mm=4.0, metastasis=present, stripped=stripped, site=site)  # type: ignore[arg-type]


@cache
def cohort(count: int = 10, site: str = "A", spacing_mm: float = 4.0) -> tuple[BrainMR, ...]:
    return tuple(simulate_brain_mr(seed, site=site, spacing_mm=spacing_mm) for seed in range(count))  # type: ignore[arg-type]


def digest(of: BrainMR) -> str:
    return hashlib.sha256(of.signal.tobytes() + of.mask.tobytes() + of.affine.tobytes()).hexdigest()


def relative(of: BrainMR) -> np.ndarray:
    """Signals over the brain's median."""
    deep = ndimage.binary_erosion(of.cavity, np.ones((3, 3, 1)), iterations=round(9 / of.spacing_mm[0]))
    return np.asarray(of.signal / np.median(of.signal[deep]))


def grid(spacing_mm: float, slice_mm: float, extent_mm: float = 24.0) -> Grid:
    def axis(step: float) -> np.ndarray:
        count = round(extent_mm / step)
        return (np.arange(count) - (count - 1) / 2) * step

    return Grid(axis(spacing_mm), axis(spacing_mm), axis(slice_mm), slice_mm, np.eye(4))


def ball(diameter_mm: float, *, rim_mm: float = 0.0, edema_mm: float = 0.0, roughness: float = 0.0) -> Mass:
    center, waves = np.array([0.4, -0.3, 0.7]), np.ones((3, 2))
    return Mass(center, diameter_mm, np.eye(3), waves, np.zeros(2), roughness, rim_mm, 1.8, 0.5, edema_mm)


def blank(of: Grid) -> Scan:
    shape = (len(of.s_mm), len(of.a_mm), len(of.r_mm))
    return Scan(*(np.ones(shape, np.float32) for _ in range(5)))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others() -> None:
    first = simulate_brain_mr(7, spacing_mm=4.0, slice_mm=7.0)
    assert digest(first) == digest(simulate_brain_mr(7, spacing_mm=4.0, slice_mm=7.0))
    assert digest(first) != digest(simulate_brain_mr(8, spacing_mm=4.0, slice_mm=7.0))


def test_studies_of_one_patient_share_the_brain_but_not_the_scan() -> None:
    first, second = (
        simulate_brain_mr(seed, patient_seed=9, spacing_mm=3.0, slice_mm=5.0, metastasis=False) for seed in (1, 2)
    )
    assert (first.age_years, first.sex) == (second.age_years, second.sex)
    assert first.cavity.sum() * np.prod(first.spacing_mm) == pytest.approx(
        second.cavity.sum() * np.prod(second.spacing_mm), rel=0.05
    )
    assert digest(first) != digest(second)


@pytest.mark.parametrize(("spacing_mm", "slice_mm"), [(1.0, 3.0), (0.5, 1.0), (2.0, 2.0)])
def test_a_ball_fills_its_volume_on_every_grid(spacing_mm: float, slice_mm: float) -> None:
    g = grid(spacing_mm, slice_mm)
    ((_, share),) = lay_masses(blank(g), [ball(10.0)], g)
    assert share.sum() * spacing_mm**2 * slice_mm == pytest.approx(np.pi / 6 * 10.0**3, rel=0.03)


def test_a_ring_is_bright_outside_and_dark_inside_and_edema_darkens_white_matter_around_it() -> None:
    g = grid(1.0, 1.0, 40.0)
    drawn = blank(g)
    lay_masses(drawn, [ball(14.0, rim_mm=2.0, edema_mm=6.0)], g)
    middle = drawn.signal[20, 20, 20]
    assert middle == pytest.approx(0.5, abs=0.01)
    assert drawn.signal[20, 20].max() == pytest.approx(1.8, abs=0.1)
    assert 0.7 < drawn.signal[20, 20, 30] < 0.9  # 3 mm beyond the rim
    assert drawn.signal[20, 20, 38] == pytest.approx(1.0, abs=1e-6)  # 11 mm beyond it


@pytest.mark.parametrize("radius_mm", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("along", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, 0.5, 0.62)])
def test_a_vessel_holds_its_cross_section_times_its_length(radius_mm: float, along: tuple[float, ...]) -> None:
    g = grid(1.0, 3.0)
    steps = np.linspace(-6, 6, 7)[:, None] * np.array(along) / np.linalg.norm(along) + (0.2, 0.3, 0.4)
    tubes = Tubes(steps[:-1], steps[1:], np.full(6, radius_mm), np.full(6, 1.9))
    share, weighted = lay_tubes(tubes, g)
    ends = 4 / 3 * np.pi * radius_mm**3
    assert share.sum() * 3.0 == pytest.approx(np.pi * radius_mm**2 * 12 + ends, rel=0.12)
    np.testing.assert_allclose(weighted, 1.9 * share, rtol=1e-5)


def test_noise_is_rician() -> None:
    """The mean of a Rayleigh variable is σ√(π/2), and that of a Rician one near √(ν² + σ²) for ν ≫ σ."""
    g, scanner = grid(1.0, 3.0, 60.0), SCANNERS["A"][0]
    shape = (20, 60, 60)
    air, matter = (
        receive(np.random.default_rng(0), np.full(shape, v, np.float32), scanner, g, 1.0) for v in (0.0, 1.0)
    )
    assert air.mean() == pytest.approx(scanner.noise * np.sqrt(np.pi / 2), rel=0.02)
    assert matter.mean() == pytest.approx(np.sqrt(1 + scanner.noise**2), abs=0.001)
    assert matter.std() == pytest.approx(scanner.noise, rel=0.02)


@pytest.mark.parametrize("seed", [3, 12])
def test_tissues_are_ordered_as_on_t1_after_contrast(seed: int) -> None:
    values = relative(scan(seed, False))
    inside = ndimage.binary_erosion(scan(seed, False).cavity, np.ones((3, 3, 1)), iterations=2)
    low, high = np.percentile(values[inside], (2, 99.5))
    assert low < 0.55  # fluid
    assert high > 1.35  # vessels and plexus
    assert scan(seed, False).signal.min() >= 0
    air = values[:4, -4:].mean()
    assert air < 0.08


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_numbers_the_lesions_and_the_slices_are_its(seed: int) -> None:
    of = scan(seed, True)
    assert set(np.unique(of.mask)) - {0} == {lesion.number for lesion in of.lesions}
    assert of.slices == sorted({int(s) for _, _, s in np.argwhere(of.mask)})
    assert {s for lesion in of.lesions for s in lesion.slices} == set(of.slices)
    assert all(DIAMETER_MM[0] <= lesion.diameter_mm <= DIAMETER_MM[1] for lesion in of.lesions)
    around = ndimage.binary_dilation(of.cavity, iterations=1)
    assert (around[of.mask > 0]).all()


def test_without_metastases_there_is_no_mask_and_only_lesions_change_the_image() -> None:
    before, after = scan(3, False), scan(3, True)
    assert not before.mask.any()
    assert before.lesions == ()
    solid = [lesion for lesion in after.lesions if lesion.kind == "solid" and lesion.diameter_mm > 6]
    for lesion in solid:  # the same seed without metastases has the same noise
        at = after.mask == lesion.number
        assert np.median(after.signal[at] / np.maximum(before.signal[at], 1)) > 1.1
    far = ~ndimage.binary_dilation(after.mask > 0, np.ones((3, 3, 3)), iterations=8)
    assert (before.signal[far] != after.signal[far]).mean() < 0.01


def test_stripping_leaves_brain_alone_and_changes_nothing_in_it() -> None:
    whole, brain = scan(3, True), scan(3, True, stripped=True)
    assert (brain.signal[~brain.cavity] == 0).all()
    assert np.array_equal(brain.signal[brain.cavity], whole.signal[brain.cavity])
    assert 0.75 < brain.cavity.sum() / whole.cavity.sum() < 1.1


def test_the_bias_field_multiplies_the_image_by_what_changes_slowly_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = []

    def kept(*given: object) -> np.ndarray:
        fields.append(bias_field(*given))  # type: ignore[arg-type]
        return fields[-1]

    monkeypatch.setattr(brain_mr, "bias_field", kept)
    uneven = simulate_brain_mr(3, spacing_mm=4.0, slice_mm=8.0, metastasis=False)
    monkeypatch.setattr(brain_mr, "bias_field", lambda *given: np.float32(1))
    even = simulate_brain_mr(3, spacing_mm=4.0, slice_mm=8.0, metastasis=False)
    clear = even.cavity & (even.signal > 0.5 * np.median(even.signal[even.cavity]))  # far above the noise
    ratio, (field,) = uneven.signal / np.maximum(even.signal, 1), (to_ras(each) for each in fields)
    assert np.std(ratio[clear]) > 0.1  # where scans differ in nothing else
    assert np.median(np.abs(ratio / field - 1)[clear]) < 0.01
    # smoothed over 8 mm in plane it is almost what it was
    around = [ndimage.gaussian_filter(part, (2.0, 2.0, 0)) for part in (np.where(clear, ratio, 0), clear.astype(float))]
    assert np.std((ratio - around[0] / np.maximum(around[1], 1e-6))[clear]) < 0.25 * np.std(ratio[clear])


def test_the_logarithm_of_the_bias_field_spreads_as_far_as_the_scanners_unevenness() -> None:
    g = Grid(*(np.arange(-half, half + 1, 10.0) for half in (90, 110, 85)), 10.0, np.eye(4))
    for scanner in (SCANNERS["A"][0], SCANNERS["B"][0]):
        fields = np.stack([bias_field(np.random.default_rng(seed), scanner, g) for seed in range(200)])
        spread = np.log(fields).std(axis=(1, 2, 3))
        assert np.sqrt(np.mean(spread**2)) == pytest.approx(scanner.unevenness, rel=0.1)
        assert fields.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_a_sixth_of_the_slices_and_three_quarters_of_the_studies_are_positive() -> None:
    """The paper's test set has 1336 of 8145 slices (16.4 %); 150 studies are held to within a fifth of that."""
    many = cohort(150, spacing_mm=2.0)
    assert np.mean([len(of.slices) / of.signal.shape[2] for of in many]) == pytest.approx(0.164, abs=0.035)
    assert np.mean([bool(of.lesions) for of in many]) == pytest.approx(0.75, abs=0.08)
    lesions = [lesion for of in many for lesion in of.lesions]
    assert 6.5 < np.median([lesion.diameter_mm for lesion in lesions]) < 9
    assert 0.3 < np.mean([lesion.kind == "ring" for lesion in lesions if lesion.diameter_mm > 10]) < 0.7


def test_counting_bright_voxels_tells_slices_a_little_and_not_well() -> None:
    truth, counts = [], []
    for of in cohort():
        deep = ndimage.binary_erosion(of.cavity, np.ones((3, 3, 1)), iterations=2)
        truth += list(of.mask.any(axis=(0, 1)))
        counts += list(((relative(of) > 1.5) & deep).sum(axis=(0, 1)))
    assert 0.55 < roc_auc_score(truth, counts) < 0.82


def test_vessels_enhance_as_brightly_as_metastases() -> None:
    """The brightest voxel inside the brain says nothing of metastases: vessels, sinuses and plexus are as bright."""
    healthy, ill = ([relative(scan(s, present)) for s in range(4)] for present in (False, True))
    peaks = [[np.percentile(v[scan(s).cavity], 99.9) for s, v in enumerate(group)] for group in (healthy, ill)]
    assert np.mean(peaks[1]) < 1.1 * np.mean(peaks[0])


def test_site_b_is_noisier_thicker_and_enhances_less() -> None:
    def signal_to_noise(of: BrainMR) -> float:
        return float(np.median(of.signal[of.cavity]) / of.signal[:8, -8:].std()) * np.sqrt(3.0 / of.spacing_mm[2])

    a, b = cohort(), cohort(site="B")
    assert {of.scanner.tesla for of in a} == {3.0}
    assert {of.scanner.tesla for of in b} == {1.5}
    assert np.mean([of.spacing_mm[2] for of in b]) > np.mean([of.spacing_mm[2] for of in a]) + 1
    assert np.mean([signal_to_noise(of) for of in b]) < 0.8 * np.mean([signal_to_noise(of) for of in a])
    assert max(s.enhancement for s in SCANNERS["B"]) < min(s.enhancement for s in SCANNERS["A"])


def test_no_patient_of_a_brain_mr_is_a_head_cts() -> None:
    assert brain_mr._stream(5, "patient A").random() != stream(5, "patient A").random()


@pytest.mark.parametrize(("name", "value"), [("spacing_mm", 0.0), ("slice_mm", 50.0), ("site", "C")])
def test_arguments_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.split("_")[0]):
        simulate_brain_mr(0, **{name: value})  # type: ignore[arg-type]
