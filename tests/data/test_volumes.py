"""Volume files keep their voxels and their place, and are refused where they are not one volume."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from tests.data.awkward import Case
from tests.data.awkward_files import CASES
from tests.data.sources import block, write_nifti
from volssl.data import checks
from volssl.data.discovery import Found, discover
from volssl.data.volume import RefusedError, Volume
from volssl.data.volumes import read_volume_headers


def read(path: Path, kind: str = "nifti") -> Volume:
    (outcome,) = read_volume_headers([Found(path, path.parent, kind)])
    if isinstance(outcome, RefusedError):
        raise outcome
    (file,) = outcome
    return file.read()


def outcome_of(folder: Path) -> tuple[list[Volume], Counter[str]]:
    """The volumes of a folder as they would be stored, and the refusals by reason."""
    volumes, reasons = [], Counter[str]()
    for headers in read_volume_headers(discover([folder]).files):
        for file in [headers] if isinstance(headers, RefusedError) else headers:
            try:
                if isinstance(file, RefusedError):
                    raise file
                volumes.append(checks.check(file.read()))
            except RefusedError as refusal:
                reasons[refusal.reason] += 1
    return volumes, reasons


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_awkward_file_becomes_what_it_must(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / case.name
    folder.mkdir()
    case.build(folder)
    volumes, reasons = outcome_of(tmp_path)
    rows = [
        {
            "modality": volume.modality,
            "affine": volume.affine.ravel().tolist(),
            "notes": list(volume.notes),
        }
        for volume in volumes
    ]
    assert (len(rows), reasons) == (case.stored, case.reasons)
    notes = [note for row in rows for note in row["notes"]]
    assert [expected for expected in case.notes if not any(expected in note for note in notes)] == []
    if case.expect:
        case.expect(rows, [volume.array[np.newaxis] for volume in volumes])


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SLA", "ARI"])
def test_each_voxel_stays_where_it_is_in_space(tmp_path: Path, codes: str) -> None:
    hu = block(0)
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    ras_affine = np.array([[2.0, 0, 0, -7], [0, 2.5, 0, 5], [0, 0, 3, -90], [0, 0, 0, 1]])
    turned = nib.orientations.apply_orientation(hu, there)
    affine = ras_affine @ nib.orientations.inv_ornt_aff(there, hu.shape)
    volume = read(write_nifti(tmp_path / "v.nii.gz", turned, affine))
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_allclose(volume.affine, ras_affine, atol=1e-5)


def test_an_oblique_volume_keeps_its_affine_exactly(tmp_path: Path) -> None:
    tilt = np.radians(12)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 3.0])
    affine[:3, 3] = [40, -11, 7]
    hu = block(1)
    volume = read(write_nifti(tmp_path / "v.nii", hu, affine))
    corners = np.array([*itertools.product((0, 23), (0, 19), (0, 11))])
    for r, a, s in corners:  # the same voxel, the same place
        assert volume.array[r, a, s] == hu[23 - r, a, s]
        np.testing.assert_allclose(volume.affine @ [r, a, s, 1], affine @ [23 - r, a, s, 1], atol=1e-4)
    assert volume.first_slice_z_mm == pytest.approx((affine @ [0, 0, 0, 1])[2], abs=1e-4)
    assert volume.slice_step_z_mm == pytest.approx(affine[2, 2], abs=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, (2, 2, 3), atol=1e-5)


@pytest.mark.parametrize(("suffix", "kind"), [(".nrrd", "nrrd"), (".mha", "metaimage"), (".mhd", "metaimage")])
def test_itk_formats_read_as_nifti_does(tmp_path: Path, suffix: str, kind: str) -> None:
    hu = block(2)
    nifti = read(write_nifti(tmp_path / "v.nii.gz", hu, np.diag([-2.0, -2.0, 3.0, 1.0])))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "v.nii.gz")), str(tmp_path / f"v{suffix}"))
    other = read(tmp_path / f"v{suffix}", kind)
    np.testing.assert_array_equal(other.array, nifti.array)
    np.testing.assert_allclose(other.affine, nifti.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("reason", "array"),
    [
        ("dimensions", np.zeros((8, 8, 8, 2, 3), np.int16)),
        ("dimensions", np.zeros((8, 8), np.int16)),
        ("colour", np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    ],
)
def test_what_is_not_one_volume_is_refused(tmp_path: Path, reason: str, array: np.ndarray) -> None:
    with pytest.raises(RefusedError) as caught:
        read(write_nifti(tmp_path / "v.nii", array))
    assert caught.value.reason == reason


def test_a_fourth_axis_of_one_is_no_fourth_axis(tmp_path: Path) -> None:
    hu = block(3)
    np.testing.assert_array_equal(read(write_nifti(tmp_path / "v.nii", hu[..., None])).array, hu)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".nii.gz", "nifti"), (".nii", "nifti"), (".nrrd", "nrrd"), (".mha", "metaimage")]
)
def test_a_damaged_file_is_refused_without_its_path(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"Doe_Jane{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(4)), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedError) as caught:
        read(path, kind)
    assert caught.value.reason == "unreadable"
    assert "Doe" not in caught.value.sentence


def test_an_affine_without_inverse_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(block(5), np.eye(4))
    image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "v.nii")
    header = bytearray((tmp_path / "v.nii").read_bytes())
    header[312:328] = bytes(16)  # srow_z
    (tmp_path / "v.nii").write_bytes(header)
    with pytest.raises(RefusedError) as caught:
        read(tmp_path / "v.nii")
    assert caught.value.reason == "geometry"
