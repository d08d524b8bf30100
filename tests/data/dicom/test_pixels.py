"""Pixels of DICOM slices: the same out of every transfer syntax, without padding and unused bits, in little memory."""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from tests.data.dicom.test_series import read, refusal, sources
from tests.data.dicom_sources import SYNTAXES, as_mr, both, setting, stored_as, write_as, write_enhanced
from tests.data.sources import block, write_series
from volssl.data.dicom import pixels
from volssl.data.dicom.headers import read_headers
from volssl.data.discovery import discover
from volssl.data.volume import RefusedError


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("name", SYNTAXES)
def test_every_lossless_syntax_gives_the_same_voxels(tmp_path: Path, name: str, modality: str) -> None:
    hu = block(1, (40, 36, 6))
    write_as(tmp_path, hu, SYNTAXES[name], study=1, edit=as_mr if modality == "MR" else None)
    assert pydicom.dcmread(tmp_path / "IM0000").file_meta.TransferSyntaxUID == SYNTAXES[name]
    volume = read(tmp_path)
    assert volume.modality == modality
    np.testing.assert_array_equal(volume.array, hu + 1024 if modality == "MR" else hu)


@pytest.mark.parametrize("name", ["implicit", "big_endian", "deflated", "rle", "jpeg_ls", "jpeg_2000"])
def test_signed_values_keep_their_sign_in_every_syntax(tmp_path: Path, name: str) -> None:
    hu = block(2, (40, 36, 6))
    signed = both(stored_as(hu.astype(np.int16), signed=True), setting(RescaleIntercept=0))
    write_as(tmp_path, hu, SYNTAXES[name], study=2, edit=signed)
    np.testing.assert_array_equal(read(tmp_path).array, hu)


@pytest.mark.parametrize(
    ("syntax", "told"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile / Main Level (1.2.840.10008.1.2.4.100)."),
        ("1.2.3.4.5", "the transfer syntax 1.2.3.4.5."),
        ("Doe^Jane", "told, which is no UID."),
    ],
)
def test_a_syntax_without_decoder_is_named(tmp_path: Path, syntax: str, told: str) -> None:
    write_as(tmp_path, block(3, (40, 36, 6)), SYNTAXES["jpeg_2000"], study=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in tmp_path.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.save_as(path, implicit_vr=False, little_endian=True)
        refused = refusal(tmp_path)
    assert refused.reason == "transfer_syntax"
    assert refused.sentence.endswith(told)


def test_what_is_wrong_with_pixels_is_told_in_words(tmp_path: Path) -> None:
    left_out, lacking, damaged = (tmp_path / name for name in ("left_out", "lacking", "damaged"))
    write_series(left_out, block(10), study=10, edit=lambda dataset, _: delattr(dataset, "PixelData"))
    write_as(lacking, block(11), RLELossless, study=11)
    write_as(damaged, block(12), RLELossless, study=12)
    for path in lacking.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.PhotometricInterpretation
        dataset.save_as(path)
    for path in damaged.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([b"\xff" * 200])
        dataset.save_as(path)
    assert refusal(left_out).sentence == "The file of a slice has no pixels, or is cut short before they end."
    assert "lacks a tag" in refusal(lacking).sentence
    assert "are damaged, or not in the transfer syntax" in refusal(damaged).sentence
    (series,) = sources(left_out)
    for path in left_out.iterdir():
        path.unlink()
    with pytest.raises(RefusedError, match="cannot be read: No such file or directory"):
        series.read()


@pytest.mark.parametrize("has_offsets", [True, False])
def test_frames_of_a_compressed_object_are_decoded_in_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_offsets: bool
) -> None:
    hu = block(4)
    write_enhanced(tmp_path / "object.dcm", hu + 1024, study=4, order=[5, 3, 1, 0, 2, 4, 11, 9, 7, 6, 8, 10])
    dataset = pydicom.dcmread(tmp_path / "object.dcm")
    dataset.compress(RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=12))
    dataset.PixelData = encapsulate(frames, has_bot=has_offsets)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "object.dcm")
    opened = []
    whole = pixels.iter_pixels
    monkeypatch.setattr(pixels, "iter_pixels", lambda *args, **more: opened.append(1) or whole(*args, **more))
    np.testing.assert_array_equal(read(tmp_path).array, hu)
    assert len(opened) == 1


def test_values_that_int16_cannot_hold_are_not_wrapped(tmp_path: Path) -> None:
    stored = (block(5) + 1024).astype(np.uint16)
    stored[5, 5, 5] = 65000
    write_series(tmp_path, block(5), edit=both(stored_as(stored), setting(RescaleIntercept=-1000)))
    volume = read(tmp_path)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, stored.astype(np.float64) - 1000)


def test_fractions_of_hu_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    stored = (block(6) + 1024).astype(np.uint16)
    scale = setting(RescaleSlope=0.3, RescaleIntercept=-300.2)
    write_series(tmp_path, block(6), edit=both(stored_as(stored), scale))
    volume = read(tmp_path)
    assert volume.array.dtype == np.int16
    assert np.abs(volume.array - (stored * 0.3 - 300.2)).max() <= 0.5001


def test_padding_of_mr_takes_the_lowest_value_measured(tmp_path: Path) -> None:
    stored = (block(7) + 1024).astype(np.int16)
    stored[0] = -32768
    write_series(tmp_path, block(7), edit=both(as_mr, stored_as(stored, signed=True), _signed_padding))
    volume = read(tmp_path)
    assert (volume.array[0] == 24).all()  # air of the block: -1000 HU and 1024
    assert volume.notes == ("240 padding voxels became the lowest value",)


def _signed_padding(dataset: Dataset, index: int) -> None:
    dataset.add_new("PixelPaddingValue", "SS", -32768)


def test_a_volume_is_read_in_twice_its_memory(tmp_path: Path) -> None:
    hu = np.random.RandomState(8).randint(-1000, 1000, (256, 128, 40)).astype(np.int16)
    write_series(tmp_path, hu)
    tracemalloc.start()
    volume = read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array, hu)
    assert volume.array.flags.c_contiguous
    assert peak < 2.25 * hu.nbytes  # rows of slices lie a line of the cache apart


def test_a_picture_that_the_file_cannot_hold_asks_for_no_memory(tmp_path: Path) -> None:
    write_series(tmp_path, block(9), edit=setting(Rows=30000, Columns=30))  # 1.8 MB in a file of 2 kB
    first = read_headers(discover([tmp_path]).files)[0]
    assert isinstance(first, RefusedError)
    assert first.reason == "pixels"
    assert "30000 x 30" in first.sentence
