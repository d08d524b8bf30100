"""Near-duplicates: variants of one scan hash alike, other patients do not, and groups do not depend on the order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from volssl.data.checks import foreground
from volssl.data.duplicates import BITS, RADIUS, RADIUS_OTHER_PATIENT, near_pairs, perceptual_hash, settle_groups
from volssl.data.volume import PATIENT_UNKNOWN
from volssl.simulate.head_ct import simulate_head
from volssl.views.base import Box

Spacing = tuple[float, float, float]
COARSE = (3.0, 3.0, 3.0)


def bits(array: np.ndarray, spacing_mm: Spacing = COARSE, modality: str = "CT", box: Box | None = None) -> np.ndarray:
    text = perceptual_hash(array, spacing_mm, box or foreground(array, modality), modality)
    assert text is not None
    assert len(text) == BITS // 4 <= 128
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int((a != b).sum())


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [simulate_head(seed, site="AB"[seed % 2], spacing_mm=3.0, slice_mm=3.0).hu for seed in range(24)]


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return simulate_head(0, spacing_mm=3.0, slice_mm=3.0).hu


def noisy(array: np.ndarray, std_hu: float) -> np.ndarray:
    return np.rint(array + np.random.RandomState(1).normal(0, std_hu, array.shape)).astype(np.int16)


def test_a_softer_and_a_sharper_kernel_hash_as_the_first(head: np.ndarray) -> None:
    blurred = ndimage.gaussian_filter(head.astype(np.float32), [0.6, 0.6, 0])  # 1.8 mm
    assert distance(bits(noisy(blurred, 5)), bits(head)) <= RADIUS
    assert distance(bits(noisy(2 * head - blurred, 20)), bits(head)) <= RADIUS


def test_slices_of_another_thickness_hash_as_the_first(head: np.ndarray) -> None:
    even = head[:, :, : head.shape[2] // 2 * 2].astype(np.float32)
    thick = noisy((even[:, :, ::2] + even[:, :, 1::2]) / 2, 8)
    assert distance(bits(thick, (3.0, 3.0, 6.0)), bits(head)) <= RADIUS


def test_another_matrix_of_the_same_scan_hashes_as_the_first(head: np.ndarray) -> None:
    fine = simulate_head(0, spacing_mm=1.4, slice_mm=2.0)  # the same study, scanned again with its own noise
    assert distance(bits(fine.hu, fine.spacing_mm), bits(head)) <= RADIUS_OTHER_PATIENT


def test_cropped_borders_and_padded_air_hash_as_the_first(head: np.ndarray) -> None:
    first = bits(head)
    r, a, s = (round(0.08 * n) for n in head.shape)
    assert distance(bits(head[r:-r, a:-a]), first) <= RADIUS
    assert distance(bits(head[:, :, s:]), first) <= RADIUS
    assert distance(bits(head[:, :, :-s]), first) <= RADIUS
    assert distance(bits(np.pad(head, ((5, 9), (0, 7), (4, 1)), constant_values=-1024)), first) <= 2


def test_different_patients_are_far_outside_the_radius(heads: list[np.ndarray]) -> None:
    all_bits = [bits(head) for head in heads]
    nearest = min(distance(a, b) for i, a in enumerate(all_bits) for b in all_bits[:i])
    assert nearest > 1.3 * RADIUS


def test_a_second_scan_of_a_patient_at_another_pose_is_outside_the_radius(heads: list[np.ndarray]) -> None:
    for seed in range(6):
        again = simulate_head(5000 + seed, site="AB"[seed % 2], spacing_mm=3.0, slice_mm=3.0, patient_seed=seed).hu
        assert distance(bits(again), bits(heads[seed])) > RADIUS


def test_the_scale_of_mr_values_does_not_matter(head: np.ndarray) -> None:
    array = np.maximum(head.astype(np.float32) + 1000, 0)
    assert distance(bits(array, modality="MR"), bits(0.37 * array, modality="MR")) <= 1


def test_nothing_is_told_of_small_or_constant_things(head: np.ndarray) -> None:
    small = head[20:36, 20:60, 10:40]  # 48 mm along R
    assert perceptual_hash(small, COARSE, ((0, 16), (0, 40), (0, 30)), "CT") is None
    constant = np.full((40, 40, 40), 30, np.int16)
    assert perceptual_hash(constant, COARSE, ((0, 40), (0, 40), (0, 40)), "CT") is None


def test_real_volumes_are_near_their_variants_and_far_from_one_another(shared_data: Path) -> None:
    hashes = []
    for name, modality in (
        ("ct_body_3mm", "CT"),
        ("ct_brain_atlas_1mm", "CT"),
        ("ct_brain_template_1mm", "CT"),
        ("mr_t1_template_0.74mm", "MR"),
    ):
        image = nib.as_closest_canonical(nib.load(shared_data / f"{name}.nii.gz"))
        array = image.get_fdata(dtype=np.float32)
        r, a, s = (float(mm) for mm in image.header.get_zooms())
        hashes.append(bits(array, (r, a, s), modality))
        even = array[:, :, : array.shape[2] // 2 * 2]
        thick = (even[:, :, ::2] + even[:, :, 1::2]) / 2
        assert distance(bits(thick, (r, a, 2 * s), modality), hashes[-1]) <= RADIUS, name
        blurred = ndimage.gaussian_filter(array, [1.0 / r, 1.0 / a, 0])
        assert distance(bits(blurred, (r, a, s), modality), hashes[-1]) <= RADIUS, name
    assert min(distance(x, y) for i, x in enumerate(hashes) for y in hashes[:i]) > 2 * RADIUS


def random_codes(count: int, seed: int) -> np.ndarray:
    """Random hashes, a third of them copies of others with up to 60 bits flipped."""
    rng = np.random.RandomState(seed)
    codes = rng.randint(0, 2, (count, BITS)).astype(np.uint8)
    for i in range(0, count, 3):
        flipped = rng.choice(BITS, rng.randint(0, 61), replace=False)
        codes[i] = codes[rng.randint(count)]
        codes[i, flipped] ^= 1
    return codes


def packed(codes: np.ndarray) -> np.ndarray:
    return np.packbits(codes, axis=1).view(np.uint64)


@pytest.mark.parametrize("radius", [7, 40, 55])
def test_the_bands_find_what_comparing_all_pairs_finds(radius: int) -> None:
    codes = random_codes(600, radius)
    codes[1] = codes[0]
    codes[1, :radius] ^= 1  # as evenly over the bands as can be
    wanted = np.random.RandomState(radius).rand(600) < 0.5
    wanted[1] = True
    apart = (codes[:, None] != codes[None]).sum(axis=2)
    expected = [
        (i, j, apart[i, j])
        for i in range(600)
        for j in range(i + 1, 600)
        if apart[i, j] <= radius and (wanted[i] or wanted[j])
    ]
    assert len(expected) > 10
    assert near_pairs(packed(codes), wanted, radius).tolist() == [list(map(int, pair)) for pair in expected]
    assert near_pairs(packed(codes), wanted, radius, scan_max=0).tolist() == [list(map(int, p)) for p in expected]


BASE = np.random.RandomState(0).randint(0, 2, BITS).astype(np.uint8)


def row(
    name: str, flipped: range | None, *, voxels: int = 1000, group: str | None = None, **more: Any
) -> dict[str, Any]:
    """A manifest row whose hash is that of `BASE` with these bits flipped; None has no hash."""
    code = BASE.copy()
    code[list(flipped or ())] ^= 1
    return {
        "id": name,
        "group": group,
        "perceptual_hash": None if flipped is None else np.packbits(code).tobytes().hex(),
        "modality": "CT",
        "patient": "p",
        "study": "s",
        "shape": [voxels, 1, 1],
        "spacing_mm": [1.0, 1.0, 1.0],
        "notes": [],
        **more,
    }


def groups(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {r["id"]: r["group"] for r in rows}


def test_the_volume_with_the_most_voxels_stands_for_a_group() -> None:
    rows = [row("a", range(0)), row("b", range(10), voxels=2000), row("c", range(200, 300)), row("d", None)]
    assert settle_groups(rows) == 1
    assert groups(rows) == {"a": "b", "b": "b", "c": "c", "d": "d"}


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    def fresh() -> list[dict[str, Any]]:
        return [row(f"{i:02d}", range(12 * i, 12 * i + 6 * i), voxels=1000 + i % 3) for i in range(12)]

    rows = fresh()
    count = settle_groups(rows)
    assert 0 < count < 11
    for seed in range(5):
        shuffled = fresh()
        random.Random(seed).shuffle(shuffled)
        assert settle_groups(shuffled) == count
        assert groups(shuffled) == groups(rows)


def test_a_chain_of_resemblances_does_not_become_one_group() -> None:
    rows = [row(f"{i}", range(30 * i)) for i in range(8)]  # each 30 bits from the next
    settle_groups(rows)
    assert groups(rows) == {"0": "0", "1": "0", "2": "2", "3": "2", "4": "4", "5": "4", "6": "6", "7": "6"}


def test_a_new_volume_joins_the_settled_group_it_is_nearest_to() -> None:
    rows = [
        row("a", range(0), group="a"),
        row("b", range(60), group="b"),
        row("c", range(62), group="b"),
        row("new", range(35), voxels=9999),
    ]
    assert settle_groups(rows) == 2
    assert groups(rows) == {"a": "a", "b": "b", "c": "b", "new": "b"}


def test_settled_volumes_keep_their_groups_and_get_a_new_representative_when_theirs_is_gone() -> None:
    rows = [
        row("b", range(0), group="gone"),
        row("c", range(300), group="gone", voxels=3000),
        row("d", range(5), group="d"),
    ]
    assert settle_groups(rows) == 1
    assert groups(rows) == {"b": "c", "c": "c", "d": "d"}


def test_ct_and_mr_are_never_of_one_group() -> None:
    rows = [row("a", range(0)), row("b", range(0), modality="MR")]
    assert settle_groups(rows) == 0


def test_two_named_patients_must_be_more_alike_than_one() -> None:
    between = range(RADIUS_OTHER_PATIENT + 1)
    assert settle_groups([row("a", range(0)), row("b", between)]) == 1
    assert settle_groups([row("a", range(0)), row("b", between, patient="q")]) == 0
    assert settle_groups([row("a", range(0)), row("b", between, patient="q", notes=[PATIENT_UNKNOWN])]) == 1
    assert settle_groups([row("a", range(0)), row("b", range(RADIUS_OTHER_PATIENT), patient="q")]) == 1


def test_the_radius_itself_is_within() -> None:
    assert settle_groups([row("a", range(0)), row("b", range(RADIUS))]) == 1
    assert settle_groups([row("a", range(0)), row("b", range(RADIUS + 1))]) == 0
