"""What a volume must be to be stored, what becomes of its values, and how CT is told from MR."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from tests.data.sources import block
from volssl.data import checks
from volssl.data.checks import THRESHOLDS, check
from volssl.data.modality import looks_stripped, modality_of_names, modality_of_sidecar
from volssl.data.oblique import oblique_degrees, shear_degrees
from volssl.data.volume import Origin, RefusedError, Volume, oriented


def noise() -> np.random.RandomState:
    """The same numbers for each who asks, so that no test's depend on those before it."""
    return np.random.RandomState(0)


def volume_of(array: np.ndarray, affine: np.ndarray | None = None, mm: float = 3.0, **said: Any) -> Volume:
    origin = Origin(names=("S1",), source_format="nifti", **said)
    return oriented(array, np.diag([mm, mm, mm, 1.0]) if affine is None else affine, modality=None, origin=origin)


def checked(array: np.ndarray, modality: str | None = None, mm: float = 3.0, **said: str) -> Volume:
    return check(volume_of(array, mm=mm, **said), modality)


def refusal(array: np.ndarray, modality: str | None = None, mm: float = 3.0, **said: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        checked(array, modality, mm, **said)
    return caught.value


def brain(shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    """A skull-stripped head in HU: 0 around tissue of 35; int16."""
    values = np.zeros(shape, np.int16)
    values[4:-4, 4:-4, 4:-4] = noise().normal(35, 12, [n - 8 for n in shape]).round()
    return values


def mr(shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    return noise().gamma(2, 60, shape).astype(np.float32)


def test_ct_is_rounded_to_int16() -> None:
    hu = block(6).astype(np.float32) + 0.4
    hu[0, 0, 0], hu[1, 1, 1] = 32766.7, -32767.7
    volume = checked(hu)
    assert volume.array.dtype == np.int16
    assert (volume.array[0, 0, 0], volume.array[1, 1, 1]) == (32767, -32768)
    assert np.abs(volume.array - hu.astype(np.float64)).max() <= 0.5
    assert volume.notes == ("the modality CT was told from the values",)


@pytest.mark.parametrize("ends", [(-1000, 32768), (-32769, 900), (-(1 << 24), 1 << 24), (-32768.4, 32767.4)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
def test_ct_beyond_int16_is_stored_whole_as_int32(ends: tuple[float, float], dtype: type) -> None:
    hu = block(6).astype(dtype, order="F")
    hu[0, 0, 0], hu[1, 1, 1] = ends
    volume = checked(hu)
    if hu.min() < -32768 or hu.max() > 32767:
        assert (volume.array.dtype, volume.array.flags.c_contiguous) == (np.int32, True)
        assert any("are stored as int32" in note for note in volume.notes)
    else:
        assert volume.array.dtype == np.int16
    assert np.abs(volume.array - hu.astype(np.float64)).max() <= 0.5


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, np.float32, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_type_and_order_of_memory_is_stored_as_what_it_says(dtype: type, order: str) -> None:
    """Larger than one block along two axes, and no multiple of it."""
    values = noise().randint(0, 1500, (70, 21, 9)).astype(dtype, order=order)
    for modality, stored in (("MR", np.float32), ("CT", np.int16)):
        if modality == "CT" and np.dtype(dtype).kind != "u":
            values = (values - 1000).astype(dtype, order=order)
        elif modality == "CT":
            continue
        array = checked(values, modality).array
        assert (array.dtype, array.flags.c_contiguous) == (stored, True)
        np.testing.assert_array_equal(array, values)


def test_what_is_not_finite_takes_the_lowest_value_and_the_source_stays_as_it_was() -> None:
    hu = block(7).astype(np.float32)
    hu[0, 0, :3] = np.nan, np.inf, -np.inf
    volume = checked(hu)
    np.testing.assert_array_equal(volume.array[0, 0, :3], -1000)
    assert any(note.startswith("3 voxels") for note in volume.notes)
    assert np.isnan(hu[0, 0, 0])


@pytest.mark.parametrize(
    ("reason", "array", "modality"),
    [
        ("constant", np.full((9, 9, 9), 7, np.int16), "CT"),
        ("few_slices", block(8)[:, :, :4], None),
        ("not_finite", np.full((9, 9, 9), np.nan, np.float32), "CT"),
        ("empty", noise().randint(-1024, -900, (20, 20, 20)).astype(np.int16), None),
        ("empty", np.where(np.arange(20**3).reshape(20, 20, 20) % 2000, 0, mr()), "MR"),
        ("mask", (block(8) > -500).astype(np.uint8), None),
        ("mask", np.where(block(8) > -500, 40, -1000).astype(np.int16), "CT"),
        ("modality_unknown", noise().randint(-30, 90, (20, 20, 20)).astype(np.int16), None),
        ("modality_unknown", np.maximum(block(8) + 1024, 0), None),  # CT with 1024 added
        ("intensity_range", (brain() / 100).astype(np.float32), "CT"),
        ("intensity_range", np.where(np.arange(20**3).reshape(20, 20, 20) == 99, 1e30, mr()).astype(np.float32), "MR"),
        (
            "intensity_range",
            np.where(np.arange(5760).reshape(24, 20, 12) == 99, np.int32((1 << 24) + 1), block(8)),
            "CT",
        ),
        ("not_hu", np.maximum(block(8) + 1024, 0), "CT"),
        ("not_hu", np.where(block(8) < 0, -2000, block(8) + 1024).astype(np.int16), "CT"),  # and corners padded
        ("not_hu", np.clip(brain() * 4.0, 0, 255).round().astype(np.uint8), "CT"),
        ("not_hu", brain() * 20, "CT"),
        ("not_hu", noise().randint(-490, -400, (20, 20, 20)).astype(np.int16), "CT"),
    ],
)
def test_a_missed_threshold_is_a_refusal(reason: str, array: np.ndarray, modality: str | None) -> None:
    error = refusal(array, modality)
    assert (error.reason, error.sentence[-1]) == (reason, ".")


def test_the_sentence_says_why_the_values_are_not_hu() -> None:
    assert "1024 added" in refusal(np.maximum(block(8) + 1024, 0), "CT").sentence
    assert "8-bit picture" in refusal(np.clip(brain() * 4.0, 0, 255).round().astype(np.uint8), "CT").sentence
    assert "middle of the tissue is 7" in refusal(brain() * 20, "CT").sentence  # 35 HU times 20


def test_size_and_extent_have_limits() -> None:
    for mm, reason in ((0.04, "voxel_size"), (16.0, "voxel_size"), (1.0, "extent")):
        assert refusal(block(9), mm=mm).reason == reason


def test_the_record_of_thresholds_holds_plain_numbers() -> None:
    assert all(isinstance(value, int | float) for value in asdict(THRESHOLDS).values())
    assert {"parts_max", "voxels_max", "air_max_share", "hu_range_min"} <= asdict(THRESHOLDS).keys()


def test_ct_without_air_is_stored_with_a_note_where_nothing_else_speaks_against_it() -> None:
    inside = noise().normal(40, 30, (20, 20, 20)).round().astype(np.int16)  # a box inside of the body
    bone = noise().normal(350, 200, (20, 20, 20)).round().astype(np.int16)
    for values in (inside, bone, brain(), np.maximum(brain(), 0)):
        volume = checked(values, "CT")
        np.testing.assert_array_equal(volume.array, values)
        assert volume.notes[-1].startswith("no air: the lowest value is")


# ---- which modality it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said", "sidecar", "name", "modality", "note"),
    [
        (block(10), None, "", "", "CT", "from the values"),
        (mr(), None, "", "", "MR", "from the values"),
        (block(10), "MR", "", "", "MR", None),
        (brain(), None, "CT", "MR", "CT", "from its JSON sidecar"),
        (brain(), "MR", "CT", "", "MR", "another one than the user's"),
        (brain(), "CT", "CT", "", "CT", "no air"),
        (brain(), None, "", "CT", "CT", "from the name"),
        (brain(), None, "", "MR", "MR", "from the name"),
        (block(10), None, "", "MR", "CT", "from the values"),  # air far below zero: no MR has it
        (mr(), None, "", "MR", "MR", "from the values"),
        (np.maximum(brain(), 0), None, "", "CT", "CT", "from the name"),  # clipped at zero it could be MR
        (noise().normal(1000, 50, (20, 20, 20)).astype(np.float32), None, "", "MR", "MR", "from the name"),
        (brain(), None, "", "", "CT", "told from the values: no air, and tissue where the brain lies"),
    ],
)
def test_user_sidecar_values_and_names_are_heard_in_this_order(
    values: np.ndarray, said: str | None, sidecar: str, name: str, modality: str, note: str | None
) -> None:
    volume = checked(values, said, sidecar_modality=sidecar, name_modality=name)
    assert volume.modality == modality
    assert any(note in told for told in volume.notes) if note else volume.notes == ()


def test_a_sidecar_of_another_modality_is_a_refusal_until_the_user_says_otherwise() -> None:
    assert refusal(brain(), sidecar_modality="PT").reason == "modality"
    assert checked(brain(), "CT", sidecar_modality="PT").modality == "CT"


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        (brain() / 35.0 - 1.0, "tissue is spread about zero"),
        (np.where(brain() == 0, 0, brain() * 10), "the middle of the tissue lies at 350"),
        (np.where(brain() > 10, brain() + 30, brain() - 5), "and at 65"),
        (np.where(brain() == 0, 0, brain() - 25), "and at 10"),
        (np.where(brain() == 0, 0, (brain() - 35) * 6 + 35), "a third of the tissue lies above 100 or below 0"),
        (noise().normal(35, 12, (20, 20, 20)), "there is no background of zeros"),
    ],
)
def test_values_below_zero_alone_do_not_make_a_stripped_ct(values: np.ndarray, doubt: str) -> None:
    assert values.min() < 0
    assert refusal(values.astype(np.float32)).reason == "modality_unknown", doubt
    assert looks_stripped(brain(), THRESHOLDS)
    assert not looks_stripped(np.maximum(brain(), 0), THRESHOLDS)  # as MR of that scale would be


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (("ct_brain_atlas_1mm",), "CT"),
        (("sub-01_ses-1_T1w", "anat", "sub-01"), "MR"),
        (("S1", "CT", "P1"), "CT"),
        (("head-CT.v2",), "CT"),
        (("T1", "CT"), "MR"),  # the file's own name goes before its folder's
        (("mr_registered_to_ct", "CT"), ""),  # says both
        (("CT001", "actinium", "bolder", "pct"), ""),  # no whole token
        ((), ""),
    ],
)
def test_names_tell_the_modality_by_whole_tokens(names: tuple[str, ...], modality: str) -> None:
    assert modality_of_names(names) == modality


@pytest.mark.parametrize(
    ("text", "modality"),
    [
        ('{"Modality": "CT"}', "CT"),
        ('{"Modality": " mr "}', "MR"),
        ('{"Modality": "MRI"}', "MR"),
        ('{"Modality": "pet"}', "PT"),
        ('{"Modality": "JANE"}', ""),
        ('{"Modality": 3}', ""),
        ('["CT"]', ""),
        ("{", ""),
        ("[" * 100_000, ""),
        ("\xff", ""),
    ],
)
def test_a_sidecar_says_a_modality_or_nothing(tmp_path: Path, text: str, modality: str) -> None:
    (tmp_path / "S1.json").write_bytes(text.encode("latin-1"))
    assert modality_of_sidecar(tmp_path / "S1.json") == modality


# ---- grids that are not straight -------------------------------------------------------------------------------------

SMOOTH = (ndimage.gaussian_filter(noise().normal(0, 400, (30, 26, 18)), 2) * 8).round().astype(np.int16)
SMOOTH[:3] = -1000


def turned(degrees: float, shear: float = 0.0) -> np.ndarray:
    """RAS affine of 2 x 2 x 3 mm voxels, turned about all three axes, its slices shifted along A."""
    turn = np.eye(3)
    for axes, angle in (((0, 1), degrees), ((1, 2), degrees / 2), ((0, 2), -degrees / 3)):
        step = np.eye(3)
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        step[np.ix_(axes, axes)] = [[cos, -sin], [sin, cos]]
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[1, 0, 0], [0, 1, np.tan(np.radians(shear))], [0, 0, 1]]) @ np.diag([2.0, 2, 3])
    affine[:3, 3] = -20, 35, 8
    return affine


def test_angles_are_those_that_the_grid_was_made_with() -> None:
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    assert oblique_degrees(tilt) == pytest.approx(np.degrees(0.3))
    assert shear_degrees(tilt) == pytest.approx(0, abs=1e-5)
    assert shear_degrees(turned(7, shear=5)) == pytest.approx(5)


def test_an_oblique_volume_is_kept_or_resampled_as_the_user_wants() -> None:
    cos, sin = np.cos(np.radians(12)), np.sin(np.radians(12))
    affine = np.array([[2, 0, 0, 4], [0, 2 * cos, -3 * sin, 5], [0, 2 * sin, 3 * cos, 6], [0, 0, 0, 1]])
    kept = check(volume_of(SMOOTH, affine), "CT")
    np.testing.assert_array_equal(kept.array, SMOOTH)
    np.testing.assert_allclose(kept.affine, affine)
    straight = check(volume_of(SMOOTH, affine, sops=("1", "2")), "CT", oblique="resample")
    assert (kept.origin.names, straight.origin.sops) == (("S1",), ())  # no slice is the source's any more
    np.testing.assert_allclose(straight.affine[:3, :3], np.diag([2.0, 2, 3]), atol=1e-9)
    np.testing.assert_allclose(straight.affine[:3, 3], [4, 5 - 3 * sin * 17, 6], atol=1e-9)  # 18 slices lean backward
    assert straight.notes[-1] == "a grid oblique by 12.0 degrees was resampled to a straight one"
    assert (straight.first_slice_z_mm, straight.slice_step_z_mm) == pytest.approx((6, 3))
    with pytest.raises(ValueError, match="keep or resample"):
        check(volume_of(SMOOTH, affine), "CT", oblique="drop")


@pytest.mark.parametrize(("degrees", "shear"), [(20, 0), (0, 12), (15, 8)])
def test_resampled_values_are_those_that_scipy_interpolates_at_the_same_places(degrees: float, shear: float) -> None:
    affine = turned(degrees, shear)
    straight = check(volume_of(SMOOTH, affine), "CT", oblique="resample")
    back = np.linalg.inv(affine) @ straight.affine
    expected = ndimage.affine_transform(
        SMOOTH.astype(float), back[:3, :3], back[:3, 3], straight.array.shape, order=1, cval=np.nan
    )
    inside = np.isfinite(expected)
    assert np.abs(straight.array - expected)[inside].max() <= 0.51
    index = np.moveaxis(np.indices(straight.array.shape), 0, -1) @ back[:3, :3].T + back[:3, 3]
    middle = (np.array(SMOOTH.shape) - 1) / 2
    outside = (np.abs(index - middle) > middle + 0.51).any(axis=-1)  # beyond the faces of the outermost voxels
    assert outside.mean() > 0.1
    assert (straight.array[outside] == -1024).all()
    for corner in itertools.product(*[(0, n - 1) for n in SMOOTH.shape]):  # none is cut off
        index = np.linalg.inv(straight.affine) @ affine @ [*corner, 1]
        assert (index[:3] >= -1e-6).all()
        assert (index[:3] <= np.array(straight.array.shape) - 1 + 2e-3).all()


def test_an_oblique_volume_is_resampled_as_simpleitk_does_it_in_millimetres() -> None:
    affine = turned(20)
    straight = check(volume_of(SMOOTH, affine), "CT", oblique="resample")
    image = SimpleITK.GetImageFromArray(SMOOTH.astype(np.float32).transpose(2, 1, 0))
    image.SetSpacing([2.0, 2, 3])
    image.SetDirection((affine[:3, :3] / [2, 2, 3]).ravel())
    image.SetOrigin(affine[:3, 3])
    grid = SimpleITK.Image(straight.array.shape, SimpleITK.sitkFloat32)
    grid.SetSpacing([2.0, 2, 3])
    grid.SetOrigin(straight.affine[:3, 3])
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear, -1024.0)
    )
    assert np.abs(straight.array - expected.transpose(2, 1, 0)).max() <= 0.51


def test_a_sheared_volume_is_always_resampled_and_mr_gets_its_lowest_value_outside() -> None:
    values = SMOOTH.astype(np.float32) + 2000
    straight = check(volume_of(values, turned(0, shear=12)), "MR")
    assert straight.notes == ("a grid sheared by 12.0 degrees was resampled to a straight one",)
    assert straight.array.min() == values.min()
    assert straight.array[0, -1, 0] == values.min()


def test_a_straight_grid_that_grows_too_large_is_refused() -> None:
    long = noise().uniform(0, 100, (1500, 12, 12)).astype(np.float32)
    with pytest.raises(RefusedError) as caught:
        check(volume_of(long, turned(45)), "MR", checks.Thresholds(voxels_max=10**6), oblique="resample")
    assert caught.value.reason == "too_large"


def test_orientation_by_nibabels_rule_survives_resampling() -> None:
    """The same oblique volume stored along other axes comes out the same."""
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(("S", "L", "P"))
    )
    other = turned(20) @ nib.orientations.inv_ornt_aff(there, SMOOTH.shape)
    one = check(volume_of(SMOOTH, turned(20)), "CT", oblique="resample")
    two = check(volume_of(nib.orientations.apply_orientation(SMOOTH, there), other), "CT", oblique="resample")
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-9)
    assert np.abs(one.array.astype(int) - two.array).max() <= 1  # rounding of .5


# ---- the foreground --------------------------------------------------------------------------------------------------


def test_the_foreground_holds_the_body_and_not_a_lone_voxel() -> None:
    hu = np.full((200, 200, 50), -1000, np.int16)
    hu[50:120, 60:150, 10:40] = 40
    hu[198, 198, 48] = hu[0, 0, 0] = 1000  # one is found before the body, one after it
    box = checks.foreground(hu, "CT")
    for (low, high), (first, last) in zip(box, ((50, 120), (60, 150), (10, 40)), strict=True):
        assert first - 3 <= low <= first
        assert last <= high <= last + 3


def test_the_foreground_of_mr_is_found_by_otsu_and_of_nothing_is_all() -> None:
    values = noise().uniform(0, 20, (60, 60, 30)).astype(np.float32)
    values[10:40, 20:50, 5:25] += 300
    assert checks.foreground(values, "MR") == ((10, 40), (20, 50), (5, 25))
    assert checks.foreground(np.full((9, 8, 7), -1000, np.int16), "CT") == ((0, 9), (0, 8), (0, 7))
