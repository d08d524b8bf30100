"""The real volumes through prepare, voxel by voxel against nibabel and SimpleITK."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from volssl.data import Store, prepare, read_scans
from volssl.data.checks import THRESHOLDS
from volssl.data.formats.volume_files import itk_affine
from volssl.data.modality import looks_stripped


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("ct_body_3mm", "CT"),
        ("ct_brain_atlas_1mm", "CT"),
        ("ct_brain_template_1mm", "CT"),
        ("mr_t1_template_0.74mm", "MR"),
    ],
)
def test_a_nifti_volume_is_stored_as_nibabel_reads_it(
    shared_data: Path, tmp_path: Path, name: str, modality: str
) -> None:
    image = nib.as_closest_canonical(nib.load(shared_data / f"{name}.nii.gz"))
    prepare([shared_data / f"{name}.nii.gz"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    (volume_id,) = store.rows["id"].to_pylist()
    scan = store.scan(volume_id)
    voxels = scan.read()
    assert scan.modality == modality
    assert voxels.dtype == (np.int16 if modality == "CT" else np.float32)
    assert np.abs(voxels[0] - image.get_fdata(dtype=np.float32)).max() <= 0.5
    np.testing.assert_allclose(scan.affine, image.affine, atol=1e-5)
    np.testing.assert_allclose(scan.spacing_mm, image.header.get_zooms(), atol=1e-5)


def test_values_below_air_are_kept(shared_data: Path) -> None:
    (scan,) = read_scans(shared_data / "ct_body_3mm.nii.gz")
    assert scan.read().min() == -1207


def test_the_jpeg_2000_series_is_stored_as_simpleitk_reads_it(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "ct_dicom_series"
    # The series' UIDs are empty, so the files are handed over in the order of their positions: names run downward.
    names = sorted((str(path) for path in folder.iterdir()), reverse=True)
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(names), "LPS")
    expected = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)[::-1, ::-1]  # LPS -> RAS
    prepare([folder], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    row = store.rows.to_pylist()[0]
    scan = store.scan(row["id"])
    assert np.abs(scan.read()[0].astype(int) - expected).max() <= 0.5
    last = itk_affine(image) @ [511, 511, 0, 1]  # ITK's last column and row are the first in RAS
    np.testing.assert_allclose(scan.affine @ [0, 0, 0, 1], last, atol=1e-3)
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag([0.9765625, 0.9765625, 2.0]), atol=1e-5)
    assert len(row["sop"]) == 20
    assert (row["first_slice_z_mm"], row["slice_step_z_mm"]) == (-804.5, 2.0)


def test_the_whole_share_is_stored_without_any_option(shared_data: Path, tmp_path: Path) -> None:
    summary = prepare([shared_data], tmp_path / "store", workers=0)
    assert (summary.stored, summary.rejected.total()) == (5, 0)
    rows = Store.open(tmp_path / "store").rows.to_pylist()
    assert sorted((row["modality"], *row["shape"]) for row in rows) == [
        ("CT", 122, 101, 112),
        ("CT", 181, 217, 181),
        ("CT", 202, 202, 179),
        ("CT", 512, 512, 20),
        ("MR", 207, 256, 215),
    ]
    told = {tuple(row["shape"]): row["notes"] for row in rows}
    for shape, low in (((202, 202, 179), "-30"), ((181, 217, 181), "-24.9343")):  # the brain alone, so no air
        assert "the modality CT was told from the name" in told[shape]
        assert f"no air: the lowest value is {low} HU" in told[shape]
    assert "the modality CT was told from the values" in told[(122, 101, 112)]
    assert "the modality MR was told from the values" in told[(207, 256, 215)]


def test_brains_without_skull_and_air_are_ct_under_any_name(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("ct_brain_atlas_1mm", "ct_brain_template_1mm")):
        (tmp_path / "in" / f"S{number}.nii.gz").symlink_to(shared_data / f"{name}.nii.gz")
    assert prepare([tmp_path / "in"], tmp_path / "store", workers=0).stored == 2
    for row in Store.open(tmp_path / "store").rows.to_pylist():
        assert row["modality"] == "CT"
        assert any("no air, and tissue where the brain lies in HU" in note for note in row["notes"])
        assert any(note.startswith("no air: the lowest value is -") for note in row["notes"])


def test_mr_with_values_below_zero_is_not_taken_for_ct(shared_data: Path) -> None:
    """The T1 template, which is scaled to 100 as HU of the brain are: standardised, and with ringing."""
    template = nib.load(shared_data / "mr_t1_template_0.74mm.nii.gz").get_fdata(dtype=np.float32)[::2, ::2, ::2]
    head = template > 5
    ringing = template - 0.3 * (ndimage.gaussian_filter(template, 2) - template)
    standard = (template - template[head].mean()) / template[head].std()
    for values in (
        standard,
        np.where(head, standard, 0),
        ringing,
        np.where(ndimage.binary_dilation(head, iterations=2), ringing, 0),
        ringing * (100 / ringing.max()),
        ringing * 40,
    ):
        assert values.min() < 0
        assert not looks_stripped(values, THRESHOLDS)


def test_reading_without_a_store_gives_the_same_voxels_and_the_raw_ids(shared_data: Path) -> None:
    (scan,) = read_scans(shared_data / "ct_dicom_series")
    assert scan.shape == (512, 512, 20)
    assert scan.raw_ids["sops"][0].endswith("16592")  # the lowest slice carries the highest number
    box = ((100, 110), (200, 220), (3, 5))
    np.testing.assert_array_equal(scan.read(box), scan.read()[:, 100:110, 200:220, 3:5])
    # The patient is the largest thing; the table below him is outside of the box.
    (r0, r1), (a0, a1), (s0, s1) = scan.foreground
    outside = scan.array.copy()
    outside[r0:r1, a0:a1, s0:s1] = -1000
    assert (outside > -500).mean() < 0.02
    assert a1 - a0 < 300
