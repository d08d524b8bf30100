"""DICOM series become volumes: sorted, scaled slice by slice, placed in space; or are refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import Dataset

from tests.data.sources import ROOT_UID, block, write_series
from volssl.data.crew import Crew
from volssl.data.dicom.headers import age_in_years
from volssl.data.dicom.series import Series
from volssl.data.discovery import discover
from volssl.data.formats.volume_files import itk_affine
from volssl.data.preparation import Refused, gather
from volssl.data.volume import RefusedError, Volume

LPS_AFFINE = np.array(
    [[-2.0, 0, 0, 20], [0, -2.0, 0, 30], [0, 0, 3.0, -100], [0, 0, 0, 1]]
)  # column, row, slice -> RAS


def sources(folder: Path) -> list[Series]:
    found = gather(discover([folder]).files, Crew(0))
    assert all(isinstance(one, Series) for one in found)
    return [one for one in found if isinstance(one, Series)]


def read(folder: Path) -> Volume:
    (series,) = sources(folder)
    return series.read()


def refusal(folder: Path) -> RefusedError:
    (series,) = sources(folder)
    with pytest.raises(RefusedError) as caught:
        series.read()
    return caught.value


def test_shuffled_files_come_back_in_ras_with_the_right_place(tmp_path: Path) -> None:
    hu = block(0)
    sops = write_series(tmp_path, hu, order=np.random.RandomState(0).permutation(12))
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, hu)
    # The first voxel in file order is the rightmost, most anterior of the lowest slice.
    np.testing.assert_allclose(volume.affine @ [23, 19, 0, 1], LPS_AFFINE @ [0, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag([2, 2, 3]), atol=1e-5)
    assert list(volume.origin.sops) == sops
    assert (volume.first_slice_z_mm, volume.slice_step_z_mm) == pytest.approx((-100, 3))


def test_a_series_that_runs_downward_has_its_lowest_slice_first(tmp_path: Path) -> None:
    hu = block(1)

    def downward(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]  # rows run to anterior: the normal points down

    sops = write_series(tmp_path, hu, edit=downward)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, hu[:, ::-1])
    assert list(volume.origin.sops) == sops
    assert (volume.first_slice_z_mm, volume.slice_step_z_mm) == pytest.approx((-100, 3))


def test_each_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    hu = block(2)

    def rescale(dataset: Dataset, index: int) -> None:
        slope, intercept = (1, -1024) if index % 2 else (0.5, -1100)
        stored = np.rint((hu[::-1, ::-1, index].T - intercept) / slope).astype(np.uint16)
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelData = slope, intercept, stored.tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15

    write_series(tmp_path, hu, edit=rescale)
    np.testing.assert_allclose(read(tmp_path).array, hu, atol=1e-6)


def test_mr_is_scaled_though_the_decoder_leaves_it_alone(tmp_path: Path) -> None:
    def as_mr(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = "MR", 2.5, 10

    hu = block(3)
    write_series(tmp_path, hu, edit=as_mr)
    volume = read(tmp_path)
    assert volume.modality == "MR"
    np.testing.assert_allclose(volume.array, (hu.astype(float) + 1024) * 2.5 + 10)


def test_padding_becomes_air_and_is_counted(tmp_path: Path) -> None:
    hu = block(4)
    hu[0, 0, :] = -2000

    def pad(dataset: Dataset, index: int) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.RescaleIntercept, dataset.PixelPaddingValue = 0, -2000
        dataset.PixelData = hu[::-1, ::-1, index].T.astype(np.int16).tobytes()

    write_series(tmp_path, hu, edit=pad)
    volume = read(tmp_path)
    assert (volume.array[0, 0] == -1024).all()
    np.testing.assert_array_equal(volume.array[1:], hu[1:])
    assert volume.notes == ("12 padding voxels became air",)


def test_a_tilted_gantry_is_set_upright(tmp_path: Path) -> None:
    """A ramp along world y must read the same world y after the tilt is taken out; ITK's own view has it wrong."""
    shape, step = (24, 20, 12), (0.0, 1.0, 3.0)  # 18.4 degrees
    hu = np.empty(shape, dtype=np.int16)
    for index in range(shape[2]):
        y_mm = -30 + index * step[1] + 2.0 * np.arange(shape[1])  # row by row, LPS
        hu[:, :, index] = np.rint(y_mm * 10)[::-1]
    write_series(tmp_path, hu, step_mm=step)
    volume = read(tmp_path)
    np.testing.assert_allclose(volume.spacing_mm, (2, 2, 3), atol=1e-6)
    assert "tilt of 18.4 degrees" in volume.notes[0]
    inside = np.argwhere(volume.array > -1000)
    assert len(inside) > 0.9 * hu.size
    world = inside @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    values = volume.array[tuple(inside.T)]
    error = np.abs(values + world[:, 1] * 10)  # RAS y is minus LPS y; untouched slices would be off by up to 110
    assert (error <= 1).mean() > 0.97
    assert error.max() <= 10  # half a voxel, where ITK holds the last value at the edge
    assert volume.array.shape[1] > shape[1]


def test_the_place_agrees_with_simpleitk(tmp_path: Path) -> None:
    write_series(tmp_path, block(5))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    np.testing.assert_allclose(itk_affine(image), LPS_AFFINE, atol=1e-5)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)[::-1, ::-1], read(tmp_path).array
    )


@pytest.mark.parametrize(
    ("reason", "drop", "edit"),
    [
        ("missing_slices", [5], None),
        ("few_slices", range(4, 12), None),
        ("uneven_slices", [], lambda d, i: _move(d, 2, 1.0 if i == 6 else 0.0)),
        ("duplicate_slices", [], lambda d, i: _move(d, 2, -3.0 if i == 6 else 0.0)),
        ("uneven_slices", [], lambda d, i: _move(d, 0, 9.0 if i == 6 else 0.0)),
        ("geometry", [], lambda d, i: _move(d, 1, 9.0 * i)),
        ("geometry", [], lambda d, i: setattr(d, "PixelSpacing", [2, -2])),
        ("geometry", [], lambda d, i: setattr(d, "ImageOrientationPatient", [0, 0, 0, 0, 1, 0])),
        ("localizer", [], lambda d, i: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        ("secondary_capture", [], lambda d, i: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7")),
        ("modality", [], lambda d, i: setattr(d, "Modality", "US")),
        ("multi_frame", [], lambda d, i: setattr(d, "NumberOfFrames", 3)),
        ("geometry", [], lambda d, i: delattr(d, "ImagePositionPatient")),
        ("colour", [], lambda d, i: setattr(d, "PhotometricInterpretation", "PALETTE COLOR")),
        ("pixels", [], lambda d, i: setattr(d, "PixelData", d.PixelData[:99] if i == 3 else d.PixelData)),
    ],
)
def test_what_is_no_volume_is_refused_with_its_reason(tmp_path: Path, reason: str, drop: object, edit: object) -> None:
    write_series(tmp_path, block(6), edit=edit)
    for index in drop:
        (tmp_path / f"IM{index:04d}").unlink()
    told = refusal(tmp_path)
    assert told.reason == reason
    assert told.sentence.endswith(".")
    assert str(tmp_path) not in told.sentence


def _move(dataset: Dataset, axis: int, by_mm: float) -> None:
    position = list(dataset.ImagePositionPatient)
    position[axis] += by_mm
    dataset.ImagePositionPatient = position


def test_copies_of_slices_are_passed_over_with_a_note(tmp_path: Path) -> None:
    hu = block(7)
    write_series(tmp_path / "a", hu)
    write_series(tmp_path / "b", hu)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.array, hu)
    assert volume.notes == ("12 copies of slices were passed over",)


def test_two_phases_of_one_series_come_apart(tmp_path: Path) -> None:
    def phase(number: int) -> object:
        def edit(dataset: Dataset, index: int) -> None:
            dataset.AcquisitionNumber = number
            dataset.SOPInstanceUID = f"{ROOT_UID}.9.{number}.{index + 1}"

        return edit

    for number in (1, 2):
        write_series(tmp_path / str(number), block(number), edit=phase(number))
    volumes = [series.read() for series in sources(tmp_path)]
    for number, volume in zip((1, 2), volumes, strict=True):
        np.testing.assert_array_equal(volume.array, block(number))
    assert volumes[0].origin.identity != volumes[1].origin.identity


def test_a_scout_in_the_same_series_does_not_spoil_the_stack(tmp_path: Path) -> None:
    hu = block(8)
    write_series(tmp_path, hu)

    def scout(dataset: Dataset, index: int) -> None:
        dataset.ImageType, dataset.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]
        dataset.SOPInstanceUID = f"{ROOT_UID}.8.8"

    write_series(tmp_path / "scout", hu[..., :1], edit=scout)
    stacks = sources(tmp_path)
    assert sorted(len(one.slices) for one in stacks) == [1, 12]
    np.testing.assert_array_equal(max(stacks, key=lambda one: len(one.slices)).read().array, hu)


def test_without_a_series_uid_the_folder_groups(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, block(ord(name)), edit=lambda d, i: setattr(d, "SeriesInstanceUID", ""))
    assert len(sources(tmp_path)) == 2


def test_a_damaged_header_is_refused_by_file(tmp_path: Path) -> None:
    write_series(tmp_path, block(9))
    whole = (tmp_path / "IM0003").read_bytes()
    (tmp_path / "IM0003").write_bytes(whole[:200])
    (tmp_path / "notes.dcm").write_bytes(b"no picture at all" * 20)
    found = gather(discover([tmp_path]).files, Crew(0))
    refused = {one.found.path.name: one.reason for one in found if isinstance(one, Refused)}
    assert refused.keys() == {"IM0003", "notes.dcm"}
    assert refused["notes.dcm"] == "unreadable"


@pytest.mark.parametrize(
    ("text", "years"), [("045Y", 45), ("097Y", 90), ("018M", 1), ("003W", 0), ("Y", None), ("", None)]
)
def test_ages_are_whole_years_capped_at_ninety(text: str, years: int | None) -> None:
    assert age_in_years(text) == years
