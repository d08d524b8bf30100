"""What is no slice of CT or MR is refused by what it is, with a reason that tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydicom.uid import UID, UID_dictionary

from tests.data.sources import block, write_series
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.dicom.kinds import CT_CLASSES, MR_CLASSES, refusal, without_picture
from volssl.data.discovery import discover

STORED = [uid for uid, (name, kind, *_) in UID_dictionary.items() if kind == "SOP Class" and "Storage" in name]


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    folder = tmp_path_factory.mktemp("slice")
    write_series(folder, block(0)[..., :1])
    (headers,) = read_headers(discover([folder]).files)
    assert isinstance(headers, tuple)
    return headers[0]


def test_of_all_classes_of_the_dictionary_six_are_read(header: Header) -> None:
    kept = [uid for uid in STORED if refusal(replace(header, sop_class=uid)) is None]
    assert sorted(kept) == sorted([*CT_CLASSES, *MR_CLASSES])


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("XRayRadiationDoseSRStorage", "dose_report"),
        ("PatientRadiationDoseSRStorage", "dose_report"),
        ("Comprehensive3DSRStorage", "structured_report"),
        ("WaveformAnnotationSRStorage", "structured_report"),
        ("KeyObjectSelectionDocumentStorage", "key_objects"),
        ("ColorSoftcopyPresentationStateStorage", "presentation_state"),
        ("EncapsulatedCDAStorage", "encapsulated_document"),
        ("SurfaceSegmentationStorage", "segmentation"),
        ("RTSegmentAnnotationStorage", "rt_object"),
        ("RTPlanStorage", "rt_object"),
        ("MRSpectroscopyStorage", "spectroscopy"),
        ("TwelveLeadECGWaveformStorage", "waveform"),
        ("SpatialRegistrationStorage", "not_an_image"),
        ("CTImageStorage", "unreadable"),
    ],
)
def test_objects_without_a_picture_say_what_they_are(keyword: str, reason: str) -> None:
    uid = next(uid for uid in STORED if UID(uid).keyword == keyword)
    assert without_picture(uid).reason == reason


@pytest.mark.parametrize(
    ("image_type", "reason"),
    [
        ("ORIGINAL\\PRIMARY\\AXIAL", None),
        ("DERIVED\\SECONDARY\\REFORMATTED\\AVERAGE", None),
        ("DERIVED\\PRIMARY\\MPR", None),
        ("ORIGINAL\\PRIMARY\\PERFUSION\\NONE\\ND", None),
        ("ORIGINAL\\PRIMARY\\M_FFE\\M\\FFE", None),
        ("DERIVED\\SECONDARY\\MIP", "derived"),
        ("DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MIP", "derived"),
        ("DERIVED\\SECONDARY\\MIN IP", "derived"),
        ("DERIVED\\SECONDARY\\PROJECTION IMAGE", "derived"),
        ("DERIVED\\SECONDARY\\VOLUME RENDERING", "derived"),
        ("DERIVED\\SECONDARY\\SCREEN SAVE", "derived"),
        ("DERIVED\\PRIMARY\\SUBTRACTION", "derived"),
        ("DERIVED\\PRIMARY\\PERFUSION\\CBF", "derived"),
        ("DERIVED\\PRIMARY\\DIFFUSION\\ADC\\NORM", "derived"),
        ("ORIGINAL\\PRIMARY\\LOCALIZER", "localizer"),
        ("DERIVED\\SECONDARY\\SCOUT", "localizer"),
        ("ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC", "mosaic"),
    ],
)
def test_image_types_are_told_apart(header: Header, image_type: str, reason: str | None) -> None:
    found = refusal(replace(header, image_type=tuple(image_type.split("\\"))))
    assert (found and found.reason) == reason


def test_a_name_in_the_place_of_the_modality_is_not_repeated(header: Header) -> None:
    found = refusal(replace(header, modality="DOEJANE", sop_class="1.2.3"))
    assert found is not None
    assert "DOE" not in found.sentence
