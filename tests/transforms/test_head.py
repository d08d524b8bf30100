from __future__ import annotations

import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.phantom import BRAIN_MM, MIDDLE_MM, SKULL_MM, Phantom, make_phantom, positions_mm, share_inside
from volssl.simulate.head_ct import simulate_head
from volssl.transforms.head import COARSE_MM, HeadMask, coarse_copy, find_head
from volssl.transforms.head_box import EXTENT_MM, MARGIN_MM, place_box, unlike_a_head

SPACING = (2.0, 2.0, 2.0)
SKULL_TOP_MM = MIDDLE_MM[2] + BRAIN_MM[2] + SKULL_MM  # 205


@pytest.fixture(scope="module")
def head() -> Phantom:
    return make_phantom()


def box_mm(hu: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING) -> np.ndarray:
    """Edges (3, 2) of the box in mm from the scan's lower edges."""
    box = place_box(find_head(hu, spacing_mm), spacing_mm, EXTENT_MM)
    return np.array(box) * np.array(spacing_mm)[:, None]


def test_the_box_hangs_from_the_vertex_over_the_middle_of_the_skull(head: Phantom) -> None:
    edges = box_mm(head.hu)
    assert edges[2, 1] == pytest.approx(SKULL_TOP_MM + MARGIN_MM, abs=2)
    assert edges.mean(axis=1)[:2] == pytest.approx(MIDDLE_MM[:2], abs=1.5)
    assert np.diff(edges, axis=1).ravel() == pytest.approx(EXTENT_MM)


def test_the_mask_is_the_head_and_the_cranium_is_the_skull_and_all_inside(head: Phantom) -> None:
    mask = find_head(head.hu, SPACING)
    r, a, s = (half + SKULL_MM for half in BRAIN_MM)
    volume_mm3 = 4 / 3 * np.pi * r * a * s
    assert mask.has_skull
    assert mask.cranium.sum() * COARSE_MM**3 == pytest.approx(volume_mm3, rel=0.1)
    assert mask.head.sum() > mask.cranium.sum()
    assert mask.brain_like > 0.95
    assert unlike_a_head(mask) == ()


@pytest.mark.parametrize("turn_deg", [(15, 0, 0), (-15, 0, 0), (0, 15, 0), (0, 0, 15), (10, -10, 15)])
def test_a_turned_head_stays_in_the_box(turn_deg: tuple[float, float, float]) -> None:
    turned = make_phantom(spacing_mm=(3.0, 3.0, 3.0), turn_deg=turn_deg)
    mask = find_head(turned.hu, turned.spacing_mm)
    assert share_inside(turned.brain, place_box(mask, turned.spacing_mm, EXTENT_MM)) >= 0.99
    assert unlike_a_head(mask) == ()


def test_a_table_below_or_touching_the_head_moves_nothing(head: Phantom) -> None:
    a_mm = positions_mm(head.hu.shape, SPACING)[..., 1]
    for first_mm, last_mm in ((0, 12), (5, 34)):  # the scalp's back lies at 125 - 84 - 12 = 29 mm
        table = (a_mm > first_mm) & (a_mm < last_mm) & (head.hu < -500)
        assert box_mm(np.where(table, 100, head.hu)) == pytest.approx(box_mm(head.hu), abs=1e-6)


def test_shoulders_and_a_longer_neck_do_not_move_the_box() -> None:
    spacing = (3.0, 3.0, 3.0)
    wide = {"spacing_mm": spacing, "extent_mm": (444.0, 252.0, 300.0), "middle_mm": (222.0, 126.0, 204.0)}
    with_shoulders, without = make_phantom(**wide, shoulders=True), make_phantom(**wide)  # type: ignore[arg-type]
    assert with_shoulders.hu[20, 42, 10] > -100 > without.hu[20, 42, 10]
    assert box_mm(with_shoulders.hu, spacing) == pytest.approx(box_mm(without.hu, spacing), abs=1)


def test_a_moved_head_moves_its_box_alike(head: Phantom) -> None:
    # Whole coarse voxels: to rounding; fractions of one: to a millimetre or two, a fraction of a voxel of the grid.
    rolled = np.roll(head.hu, (2, -4, -6), axis=(0, 1, 2))
    assert box_mm(rolled) - box_mm(head.hu) == pytest.approx(np.tile([[4.0], [-8.0], [-12.0]], 2), abs=1e-6)
    shifted = make_phantom(middle_mm=(MIDDLE_MM[0] + 1.5, MIDDLE_MM[1] - 2.5, MIDDLE_MM[2] + 0.7))
    assert box_mm(shifted.hu) - box_mm(head.hu) == pytest.approx(np.tile([[1.5], [-2.5], [0.7]], 2), abs=1.5)


def test_the_spacing_of_the_scan_hardly_moves_the_box(head: Phantom) -> None:
    thick = make_phantom(spacing_mm=(0.9, 0.9, 5.0), noise_hu=25)
    assert box_mm(thick.hu, (0.9, 0.9, 5.0)) == pytest.approx(box_mm(head.hu), abs=3.5)


def test_where_the_vertex_is_cut_off_its_height_is_estimated_and_said(head: Phantom) -> None:
    cut_mm = 25.0
    mask = find_head(head.hu[:, :, : round((SKULL_TOP_MM - cut_mm) / 2)], SPACING)
    assert mask.missing_mm == pytest.approx(cut_mm, abs=8)
    assert any("top of the head is outside" in reason for reason in unlike_a_head(mask))


def test_a_part_of_a_head_is_boxed_and_said_to_be_one(head: Phantom) -> None:
    slab = find_head(head.hu[:, :, 70:105], SPACING)  # 140 to 210 mm
    assert unlike_a_head(slab) == (
        f"only {(slab.areas_mm2(slab.head) > 1000).sum() * 4} mm along the body are in the field of view",
    )
    assert place_box(slab, SPACING, EXTENT_MM)[2][1] * 2 == pytest.approx(SKULL_TOP_MM + MARGIN_MM - 140, abs=2)
    narrow = find_head(head.hu[20:90], SPACING)  # 140 of 150 mm of skull
    assert "the head is cut off at the side of the field of view" in unlike_a_head(narrow)


def test_without_a_large_part_of_the_skull_the_scalp_stands_in(head: Phantom) -> None:
    at_mm = positions_mm(head.hu.shape, SPACING) - MIDDLE_MM
    opened = (at_mm[..., 0] > 0) & (at_mm[..., 2] > -20) & (np.abs(at_mm[..., 1]) < 60) & (head.hu > 400)
    hu = np.where(opened, 30, head.hu)
    assert "no closed skull" in unlike_a_head(find_head(hu, SPACING))
    assert box_mm(hu) == pytest.approx(box_mm(head.hu), abs=6)


def test_a_brain_without_skull_on_a_ground_of_zero_is_boxed(head: Phantom) -> None:
    bare = np.where(head.brain, head.hu, 0)
    mask = find_head(bare, SPACING)
    assert share_inside(head.brain, place_box(mask, SPACING, EXTENT_MM)) == 1
    assert unlike_a_head(mask) == ("no closed skull",)


def test_air_gets_a_box_on_its_middle_and_a_reason() -> None:
    mask = find_head(np.full((30, 40, 20), -1024, np.int16), (4.0, 4.0, 5.0))
    assert unlike_a_head(mask) == ("no tissue found",)
    assert place_box(mask, (4.0, 4.0, 5.0), EXTENT_MM)[0] == (15 - 21, 15 + 21)


def test_values_that_are_not_hu_are_noticed(head: Phantom) -> None:
    assert unlike_a_head(find_head(head.hu + 1024, SPACING)) != ()
    assert any("HU of brain" in reason for reason in unlike_a_head(find_head(np.maximum(head.hu, 0) * 8, SPACING)))


def test_the_coarse_copy_keeps_places_whatever_the_stride() -> None:
    # A slab of tissue from 40 to 80 mm along R: half maximum at both edges, for strides 1, 2 and 4.
    for mm in (4.0, 1.0, 0.5):
        hu = np.full((round(120 / mm), 8, 8), -1000, np.int16)
        hu[round(40 / mm) : round(80 / mm)] = 0
        profile = coarse_copy(hu, (mm, 5.0, 5.0))[:, 10, 10]
        edges_mm = (np.flatnonzero(profile > -500)[[0, -1]] - 5 + np.array([0, 1])) * COARSE_MM
        assert edges_mm == pytest.approx([40, 80])
        assert (profile + 1000).sum() * COARSE_MM == pytest.approx(40_000, rel=0.02)


def test_a_scan_of_512_by_512_by_40_takes_under_half_a_second() -> None:
    small = make_phantom(spacing_mm=(1.8, 2.0, 5.75)).hu
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    hu = np.pad(large, ((0, 512 - large.shape[0]), (0, 512 - large.shape[1]), (0, 0)), constant_values=-1000)
    assert hu.shape == (512, 512, 40)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert find_head(hu, (0.45, 0.5, 5.75)).has_skull
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


def test_a_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a volume \(R, A, S\)"):
        find_head(np.zeros((1, 4, 4, 4)), SPACING)


@pytest.mark.parametrize("seed", range(6))
def test_simulated_bleeds_lie_in_the_box(seed: int) -> None:
    head = simulate_head(seed, site="AB"[seed % 2], spacing_mm=1.8, hemorrhage=True)
    mask = find_head(head.hu, head.spacing_mm)
    assert unlike_a_head(mask) == ()
    assert share_inside(head.mask > 0, place_box(mask, head.spacing_mm, EXTENT_MM)) > 0.99


def read_ras(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    image = nibabel.as_closest_canonical(nibabel.load(path))
    r, a, s = image.header.get_zooms()[:3]
    return np.round(np.asarray(image.dataobj)).astype(np.int16), (float(r), float(a), float(s))


def found(path: Path) -> tuple[HeadMask, np.ndarray]:
    hu, spacing_mm = read_ras(path)
    return find_head(hu, spacing_mm), hu


@pytest.mark.parametrize(("name", "share"), [("atlas", 0.999), ("template", 0.98)])
def test_a_real_brain_without_skull_is_in_the_box(shared_data: Path, name: str, share: float) -> None:
    # The template has the MNI's size, 155 mm from vertex to medulla: its lowest 1.6 % lie below any box of 140 mm.
    mask, hu = found(shared_data / f"ct_brain_{name}_1mm.nii.gz")
    assert unlike_a_head(mask) == ("no closed skull",)
    assert share_inside(hu != 0, place_box(mask, (1.0, 1.0, 1.0), EXTENT_MM)) > share


def test_a_real_body_is_said_to_be_no_head(shared_data: Path) -> None:
    mask, _ = found(shared_data / "ct_body_3mm.nii.gz")
    reasons = unlike_a_head(mask)
    assert "no closed skull" in reasons
    assert any("more than a head's" in reason for reason in reasons)
