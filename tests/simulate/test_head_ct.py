"""The simulated head: what depends on the seed, where tissues and hemorrhages lie, and what the sites change."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from volssl.simulate import head_ct
from volssl.simulate.head_ct import TYPES, Head, simulate_head
from volssl.simulate.patient import draw_patient

CODE = {kind: code for code, kind in enumerate(TYPES, start=1)}


@cache
def clean(seed: int, spacing_mm: float = 1.5, slice_mm: float = 4.0) -> Head:
    return simulate_head(seed, spacing_mm=spacing_mm, slice_mm=slice_mm, hemorrhage=False)


def bleeding(monkeypatch: pytest.MonkeyPatch, seed: int, *kinds: str) -> Head:
    monkeypatch.setattr(head_ct, "draw_types", lambda rng: kinds)
    return simulate_head(seed, spacing_mm=1.5, slice_mm=4.0, hemorrhage=True)


def digest(head: Head) -> str:
    return hashlib.sha256(head.hu.tobytes() + head.mask.tobytes() + head.affine.tobytes()).hexdigest()


def volume_ml(inside: np.ndarray, head: Head) -> float:
    return float(inside.sum()) * float(np.prod(head.spacing_mm)) / 1000


def test_the_same_arguments_give_the_same_bytes() -> None:
    first, second = (simulate_head(7, spacing_mm=3.0, slice_mm=6.5) for _ in range(2))
    assert digest(first) == digest(second)


def test_another_seed_gives_another_head() -> None:
    assert len({digest(simulate_head(seed, spacing_mm=3.5, slice_mm=7.0)) for seed in range(3)}) == 3


def test_studies_of_one_patient_share_age_and_brain_but_not_the_scan() -> None:
    first = simulate_head(1, patient_seed=9, spacing_mm=2.0, slice_mm=5.0, hemorrhage=False)
    second = simulate_head(2, patient_seed=9, spacing_mm=2.0, slice_mm=5.0, hemorrhage=False)
    assert (first.age_years, first.sex) == (second.age_years, second.sex)
    assert volume_ml(first.cavity, first) == pytest.approx(volume_ml(second.cavity, second), rel=0.04)
    assert digest(first) != digest(second)


def test_a_head_has_the_same_skull_and_brain_at_two_spacings() -> None:
    fine, coarse = clean(3, 1.0, 3.0), clean(3, 2.0, 4.0)
    bone = [volume_ml(head.hu > 400, head) for head in (fine, coarse)]
    brain = [volume_ml(ndimage.binary_fill_holes(head.cavity), head) for head in (fine, coarse)]
    assert bone[1] == pytest.approx(bone[0], rel=0.05)
    assert brain[1] == pytest.approx(brain[0], rel=0.08)  # the coarse grid loses more to voxels cut by the bone
    assert 1000 < brain[0] < 1900


def test_tissues_have_the_values_of_a_head_ct() -> None:
    head = clean(3)
    inside = ndimage.binary_erosion(head.cavity, np.ones((5, 5, 1)))
    values = ndimage.uniform_filter(head.hu.astype(float), (3, 3, 1))[inside]
    assert 28 < np.median(values) < 42
    assert 0 < np.percentile(values, 1) < 18  # fluid
    assert (head.hu > 900).sum() > 1000  # cortical bone
    assert np.median(head.hu[:5, :5]) == pytest.approx(-1000, abs=15)


def test_no_type_is_drawn_without_hemorrhage_and_one_at_least_with_it() -> None:
    assert clean(3).types == ()
    assert not clean(3).mask.any()
    assert simulate_head(3, spacing_mm=3.0, slice_mm=6.5, hemorrhage=True).types


@pytest.mark.parametrize("seed", range(6))
def test_the_types_are_those_of_the_mask(seed: int) -> None:
    head = simulate_head(seed, spacing_mm=3.5, slice_mm=7.0, hemorrhage=True)
    assert set(np.unique(head.mask)) - {0} == {CODE[kind] for kind in head.types}
    assert head.slices == sorted({int(s) for _, _, s in np.argwhere(head.mask)})


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("seed", [3, 12])
def test_blood_is_inside_the_skull_and_of_clot_density(monkeypatch: pytest.MonkeyPatch, kind: str, seed: int) -> None:
    head = bleeding(monkeypatch, seed, kind)
    blood = head.mask == CODE[kind]
    assert (blood & ndimage.binary_dilation(head.cavity, iterations=2)).sum() > 0.9 * blood.sum()
    core = blood & ndimage.binary_erosion(head.cavity, np.ones((3, 3, 1)))
    assert 42 < np.median(head.hu[core]) < 90


@pytest.mark.parametrize("kind", ["subdural", "epidural"])
@pytest.mark.parametrize("seed", [3, 12])
def test_extra_axial_blood_touches_the_inner_table(monkeypatch: pytest.MonkeyPatch, kind: str, seed: int) -> None:
    head = bleeding(monkeypatch, seed, kind)
    blood = head.mask == CODE[kind]
    to_bone = ndimage.distance_transform_edt(head.hu < 300, sampling=head.spacing_mm)
    parts, count = ndimage.label(blood, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())[1:]
    assert sizes.max() > 0.9 * sizes.sum(), f"{count} parts"
    assert to_bone[blood].min() < 3
    assert to_bone[blood].max() < 22


def test_a_lens_is_thicker_for_its_width_than_a_crescent(monkeypatch: pytest.MonkeyPatch) -> None:
    def stoutness(kind: str, seed: int) -> float:
        head = bleeding(monkeypatch, seed, kind)
        blood = head.mask == CODE[kind]
        thick = ndimage.distance_transform_edt(head.hu < 300, sampling=head.spacing_mm)[blood].max()
        points = np.argwhere(blood) * head.spacing_mm
        return float(thick / np.ptp(points, axis=0).max())

    lens, crescent = (np.mean([stoutness(kind, seed) for seed in (3, 12)]) for kind in ("epidural", "subdural"))
    assert lens > 1.3 * crescent


@pytest.mark.parametrize("seed", [5, 12])
def test_intraventricular_and_subarachnoid_blood_replaces_fluid(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    before = clean(seed)
    brain_hu = np.median(before.hu[before.cavity])
    for kind, darker_hu, brighter in (("intraventricular", 12, 0.95), ("subarachnoid", 5, 0.8)):
        head = bleeding(monkeypatch, seed, kind)
        blood = (head.mask == CODE[kind]) & ndimage.binary_erosion(head.cavity, np.ones((3, 3, 1)))
        was = before.hu[blood]  # the same seed without blood has the same noise
        assert np.median(was) < brain_hu - darker_hu
        assert (head.hu[blood] > was).mean() > brighter
        assert (head.hu[head.mask == 0] != before.hu[head.mask == 0]).mean() < 0.05


def test_much_intraventricular_blood_has_sunk_to_the_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_ct, "draw_types", lambda rng: ("intraventricular",))
    behind_mm = []
    for seed in range(10):
        head = simulate_head(seed, spacing_mm=3.0, slice_mm=6.5, hemorrhage=True)
        middle, blood = (np.argwhere(m)[:, 1].mean() * 3.0 for m in (head.cavity, head.mask > 0))
        behind_mm.append(middle - blood)
    assert np.mean(np.array(behind_mm) > 15) >= 0.5


@pytest.mark.parametrize("seed", [3, 12])
def test_intraparenchymal_blood_replaces_brain(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    head = bleeding(monkeypatch, seed, "intraparenchymal")
    was = clean(seed).hu[head.mask > 0]
    assert 22 < np.median(was) < 45
    assert np.median(head.hu[head.mask > 0]) > np.median(was) + 10


def test_ventricles_widen_with_age() -> None:
    def fluid_ml(head: Head) -> float:
        middle = ndimage.binary_erosion(head.cavity, np.ones((15, 15, 1)))
        smooth = ndimage.uniform_filter(head.hu.astype(float), (3, 3, 1))
        return volume_ml(middle & (smooth < 16), head)

    heads = [simulate_head(s, spacing_mm=2.5, slice_mm=6.0, hemorrhage=False) for s in range(18)]
    young = [fluid_ml(head) for head in heads if head.age_years < 45]
    old = [fluid_ml(head) for head in heads if head.age_years >= 70]
    assert len(young) >= 3
    assert len(old) >= 3
    assert np.mean(old) > 2 * np.mean(young)


def test_site_b_is_noisier_thicker_and_older() -> None:
    def air_noise(head: Head) -> float:
        return float(head.hu[:8, -40:].std())

    a, b = ([simulate_head(s, site=site, spacing_mm=1.5) for s in range(5)] for site in ("A", "B"))
    assert np.mean([h.spacing_mm[2] for h in b]) > np.mean([h.spacing_mm[2] for h in a]) + 1
    assert np.mean([air_noise(h) for h in b]) > 1.15 * np.mean([air_noise(h) for h in a])
    assert not {h.scanner for h in a} & {h.scanner for h in b}
    ages = [
        np.mean([draw_patient(np.random.default_rng(s), site).age_years for s in range(200)]) for site in ("A", "B")
    ]
    assert ages[1] > ages[0] + 6


def test_noise_is_correlated_in_plane_and_not_across_slices() -> None:
    air = clean(3, 1.0, 3.0).hu[:36, -50:].astype(float)  # a corner of the picture, without table
    air -= air.mean()
    in_plane = (air[:, 1:] * air[:, :-1]).mean() / air.var()
    across = (air[:, :, 1:] * air[:, :, :-1]).mean() / air.var()
    assert in_plane > 0.2
    assert abs(across) < 0.15


@pytest.mark.parametrize(("name", "value"), [("spacing_mm", 0.0), ("slice_mm", 50.0), ("site", "C")])
def test_arguments_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.split("_")[0]):
        simulate_head(0, **{name: value})  # type: ignore[arg-type]
