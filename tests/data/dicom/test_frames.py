"""Enhanced multi-frame objects: every frame a slice, placed and scaled by its functional groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.data.dicom.test_series import LPS_AFFINE, read, sources
from tests.data.dicom_sources import write_enhanced, write_legacy_converted
from tests.data.sources import block, write_series
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.discovery import discover
from volssl.data.volume import RefusedError


def headers(folder: Path) -> tuple[Header, ...] | RefusedError:
    (found,) = read_headers(discover([folder]).files)
    return found


def test_frames_out_of_order_are_sorted_and_placed(tmp_path: Path) -> None:
    hu = block(20)
    write_enhanced(tmp_path / "object.dcm", hu + 1024, study=20, order=[*range(11, -1, -2), *range(0, 12, 2)])
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_allclose(volume.affine @ [23, 19, 0, 1], LPS_AFFINE @ [0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([2, 2, 3]), atol=1e-5)
    assert (volume.first_slice_z_mm, volume.slice_step_z_mm, volume.origin.sops) == (-100, 3, ())


def test_a_picture_that_a_frame_refers_to_is_not_its_source(tmp_path: Path) -> None:
    def refer(frame: Dataset, index: int) -> None:
        scout = Dataset()
        scout.ReferencedSOPInstanceUID = f"1.2.3.{index}"
        frame.ReferencedImageSequence = [scout]

    write_enhanced(tmp_path / "object.dcm", block(32) + 1024, study=32, edit_frame=refer)
    assert read(tmp_path).origin.sops == ()


def test_it_is_one_source_of_one_file(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "object.dcm", block(21) + 1024, study=21)
    (series,) = sources(tmp_path)
    assert (series.path, series.files) == (tmp_path / "object.dcm", (tmp_path / "object.dcm",))
    assert (series.voxels, series.stored_bytes_per_voxel) == (24 * 20 * 12, 2)


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    hu = block(22)
    stored = hu + 1024
    stored[..., 6:] = hu[..., 6:] + 1000

    def rescale(frame: Dataset, index: int) -> None:
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -1024 if index < 6 else -1000

    write_enhanced(tmp_path / "object.dcm", stored, study=22, edit_frame=rescale)
    np.testing.assert_array_equal(read(tmp_path).array, hu)


def test_real_and_imaginary_parts_come_apart(tmp_path: Path) -> None:
    stored = np.concatenate([block(23), block(24)], axis=2) + 1024

    def component(frame: Dataset, index: int) -> None:
        kind = Dataset()
        kind.FrameType, kind.ComplexImageComponent = (
            ["ORIGINAL", "PRIMARY", "OTHER", "NONE"],
            ("REAL", "IMAGINARY")[index // 12],
        )
        frame.MRImageFrameTypeSequence = [kind]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, -30.0, -100.0 + index % 12 * 3.0]

    write_enhanced(tmp_path / "o.dcm", stored, study=23, modality="MR", intercept=0, edit_frame=component)
    arrays = [series.read().array for series in sources(tmp_path)]
    np.testing.assert_array_equal(arrays, [block(24) + 1024, block(23) + 1024])  # in the order of the component's name


def test_localizer_frames_do_not_spoil_the_stack(tmp_path: Path) -> None:
    def scout(frame: Dataset, index: int) -> None:
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if index == 0 else "VOLUME", "NONE"]
        frame.CTImageFrameTypeSequence = [kind]

    write_enhanced(tmp_path / "object.dcm", block(25) + 1024, study=25, edit_frame=scout)
    assert sorted(len(series.slices) for series in sources(tmp_path)) == [1, 11]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_legacy_converted_object_is_the_series_it_was_made_from(tmp_path: Path, modality: str) -> None:
    hu = block(26)
    sops = write_legacy_converted(tmp_path, hu, study=26, modality=modality)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, hu if modality == "CT" else hu + 1024)
    assert volume.modality == modality
    assert list(volume.origin.sops) == sops


def test_objects_of_one_frame_each_are_slices_of_a_series(tmp_path: Path) -> None:
    hu = block(31)
    for index in range(12):
        name, stored = tmp_path / f"{index}.dcm", hu[..., index : index + 1] + 1024

        def place(frame: Dataset, _: int, z_mm: float = -100.0 + 3 * index) -> None:
            frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, -30.0, z_mm]

        uid = f"1.2.3.{index}"
        write_enhanced(
            name, stored, study=31, edit_frame=place, edit=lambda d, _, uid=uid: setattr(d, "SOPInstanceUID", uid)
        )
    np.testing.assert_array_equal(read(tmp_path).array, hu)


def test_a_deflated_object_is_read(tmp_path: Path) -> None:
    hu = block(27)
    write_enhanced(tmp_path / "object.dcm", hu + 1024, study=27)
    dataset = pydicom.dcmread(tmp_path / "object.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "object.dcm")
    np.testing.assert_array_equal(read(tmp_path).array, hu)


def test_an_object_cut_short_is_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "object.dcm", block(28) + 1024, study=28)
    whole = (tmp_path / "object.dcm").read_bytes()
    (tmp_path / "object.dcm").write_bytes(whole[:-1000])
    (series,) = sources(tmp_path)
    with pytest.raises(RefusedError, match="cut short"):
        series.read()


def test_more_frames_told_than_described_are_refused(tmp_path: Path) -> None:
    more = lambda dataset, _: setattr(dataset, "NumberOfFrames", 2_000_000_000)  # noqa: E731
    write_enhanced(tmp_path / "object.dcm", block(29) + 1024, study=29, edit=more)
    refused = headers(tmp_path)
    assert isinstance(refused, RefusedError)
    assert (refused.reason, "describes 12" in refused.sentence) == ("multi_frame", True)


def test_texts_and_tuples_are_kept_once_for_all_slices(tmp_path: Path) -> None:
    write_series(tmp_path, block(30))
    found = read_headers(discover([tmp_path]).files)
    slices = [one for entry in found if isinstance(entry, tuple) for one in entry]
    assert len(slices) == 12
    for name in ("series", "patient", "orientation", "image_type", "marks", "scanner"):
        assert len({id(getattr(one, name)) for one in slices}) == 1, name
    assert not hasattr(slices[0], "__dict__")
