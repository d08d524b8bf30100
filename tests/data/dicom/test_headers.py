"""DICOM headers: what is told is read whatever its encoding, and what is damaged is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.data.dicom.test_series import read
from tests.data.sources import block, write_series
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.discovery import Found
from volssl.data.volume import RefusedError


def one_slice(folder: Path, edit: object = None) -> Path:
    write_series(folder, block(0)[..., :1], edit=edit)
    return folder / "IM0000"


def header(path: Path) -> Header:
    (found,) = read_headers([Found.at(path, path.parent, "dicom")])
    assert isinstance(found, tuple), found
    return found[0]


def refusal(path: Path) -> RefusedError:
    (found,) = read_headers([Found.at(path, path.parent, "dicom")])
    assert isinstance(found, RefusedError)
    return found


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
def test_a_patient_id_is_the_same_in_every_character_set(tmp_path: Path, charset: str) -> None:
    def german(dataset: Dataset, index: int) -> None:
        dataset.SpecificCharacterSet, dataset.PatientID = charset, "MÜLLER-7"

    assert header(one_slice(tmp_path, german)).patient == "MÜLLER-7"


def test_it_agrees_with_pydicom_on_the_numbers(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    read_by_pydicom, ours = pydicom.dcmread(path), header(path)
    assert (ours.rows, ours.columns) == (read_by_pydicom.Rows, read_by_pydicom.Columns) == (20, 24)
    assert ours.position_mm == tuple(map(float, read_by_pydicom.ImagePositionPatient))
    assert ours.pixels_at is not None
    stored = np.fromfile(path, "<u2", 20 * 24, offset=ours.pixels_at).reshape(20, 24)
    np.testing.assert_array_equal(stored, read_by_pydicom.pixel_array)


def test_a_number_told_as_text_is_a_number(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    data = path.read_bytes()
    at = data.index(b"\x28\0\x10\0US\x02\0")
    path.write_bytes(data[: at + 4] + b"LO\x02\x0020" + data[at + 10 :])
    assert header(path).rows == 20


@pytest.mark.parametrize(
    ("tag", "text", "reason"),
    [
        ("ImagePositionPatient", b"1\\2", "geometry"),
        ("ImagePositionPatient", b"1\\2\\nan", "geometry"),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\x\\0", "geometry"),
        ("PixelSpacing", b"inf\\1", "geometry"),
        ("RescaleSlope", b"x", "rescale"),
        ("RescaleIntercept", b"1e999", "rescale"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, tag: str, text: bytes, reason: str) -> None:
    path = one_slice(tmp_path)
    element = pydicom.dcmread(path).get_item(tag)
    data = bytearray(path.read_bytes())
    data[element.value_tell : element.value_tell + element.length] = text.ljust(element.length)[: element.length]
    path.write_bytes(data)
    assert refusal(path).reason == reason


def test_without_a_transfer_syntax_the_encoding_is_taken_as_it_is(tmp_path: Path) -> None:
    hu = block(1)
    write_series(tmp_path, hu)
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta.TransferSyntaxUID
        with path.open("wb") as file:
            pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read(tmp_path).array, hu)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.dcm").reason == "unreadable"
