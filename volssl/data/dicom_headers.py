"""DICOM headers, read by pydicom: the few tags that say what a file is and where its slice lies."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from volssl.data.discovery import Found
from volssl.data.volume import RefusedError

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
AGE_CAP_YEARS = 90

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "Modality",
    "ImageType",
    "Manufacturer",
    "ManufacturerModelName",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "PixelPaddingValue",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "AcquisitionNumber",
    "EchoTime",
    "TemporalPositionIdentifier",
    "FrameOfReferenceUID",
]


@dataclass(frozen=True, slots=True)
class Header:
    """One slice: a DICOM file, or one frame of it; texts are empty and numbers None where the tag is missing.

    Attributes:
        row_spacing_mm, column_spacing_mm: distance between rows, and between columns.
        orientation: direction of a row, then of a column, in LPS.
        position_mm: centre of the first voxel, in LPS.
        phase: the tags that tell apart volumes which share their positions: acquisition, echo, time.
        stamp: changes when the file does.
    """

    found: Found
    stamp: str
    sop: str
    sop_class: str
    series: str
    study: str
    accession: str
    patient: str
    frame_of_reference: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    compressed: bool
    row_spacing_mm: float | None
    column_spacing_mm: float | None
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    slope: float
    intercept: float
    padding: int | None
    phase: tuple[str, ...]
    sex: str | None
    age_years: int | None
    scanner: str | None
    frame: int | None = None


def read_headers(found: Sequence[Found]) -> list[tuple[Header, ...] | RefusedError]:
    """Read each file's slices, one for each frame; a file without one gives its refusal instead."""
    return [_headers_or_refusal(one) for one in found]


def _headers_or_refusal(found: Found) -> tuple[Header, ...] | RefusedError:
    try:
        return (read_header(found),)
    except RefusedError as refusal:
        return refusal


def read_header(found: Found) -> Header:
    """Read one file's header.

    Raises:
        RefusedError: no DICOM, no picture in it, or a tag that does not hold what it should.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = found.path.stat()
            dataset = pydicom.dcmread(found.path, stop_before_pixels=True, specific_tags=_TAGS)
            return _header(found, f"{status.st_size} {status.st_mtime_ns}", dataset)
    except RefusedError:
        raise
    except InvalidDicomError as error:
        raise RefusedError("unreadable", "The file lacks the mark of a DICOM file.") from error
    # A damaged file makes the parser raise nearly anything; its texts may hold names, so only the class is told.
    except Exception as error:
        raise RefusedError("unreadable", f"The DICOM header cannot be read: {type(error).__name__}.") from error


def age_in_years(text: str) -> int | None:
    """DICOM's age string (`045Y`, `018M`, `003W`, `012D`) as whole years, capped at 90; None for another text."""
    text = text.strip().upper()
    if not text[:-1].isdigit() or text[-1:] not in "YMWD":
        return None
    per_year = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[text[-1]]
    return min(int(int(text[:-1]) / per_year), AGE_CAP_YEARS)


def _header(found: Found, stamp: str, dataset: Dataset) -> Header:
    meta = getattr(dataset, "file_meta", Dataset())
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not rows or not columns:
        raise RefusedError(
            "not_an_image", "A DICOM object without a picture, such as a report or a presentation state."
        )
    spacing = _numbers(dataset, "PixelSpacing", 2)
    sex = _text(dataset, "PatientSex").upper()
    return Header(
        found=found,
        stamp=stamp,
        sop=_text(dataset, "SOPInstanceUID") or _text(meta, "MediaStorageSOPInstanceUID"),
        sop_class=_text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID"),
        series=_text(dataset, "SeriesInstanceUID"),
        study=_text(dataset, "StudyInstanceUID"),
        accession=_text(dataset, "AccessionNumber"),
        patient=_text(dataset, "PatientID"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        modality=_text(dataset, "Modality").upper(),
        image_type=tuple(str(part).upper() for part in _values(dataset, "ImageType")),
        rows=rows,
        columns=columns,
        frames=int(dataset.get("NumberOfFrames") or 1),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        compressed=bool(meta.TransferSyntaxUID.is_compressed) if "TransferSyntaxUID" in meta else False,
        row_spacing_mm=spacing[0] if spacing else None,
        column_spacing_mm=spacing[1] if spacing else None,
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        slope=_number(dataset, "RescaleSlope", 1.0),
        intercept=_number(dataset, "RescaleIntercept", 0.0),
        padding=int(dataset.PixelPaddingValue) if dataset.get("PixelPaddingValue") is not None else None,
        phase=tuple(_text(dataset, tag) for tag in ("AcquisitionNumber", "EchoTime", "TemporalPositionIdentifier")),
        sex=sex if sex in ("F", "M", "O") else None,
        age_years=age_in_years(_text(dataset, "PatientAge")),
        scanner=" ".join(filter(None, (_text(dataset, "Manufacturer"), _text(dataset, "ManufacturerModelName"))))
        or None,
    )


def _text(dataset: Dataset, tag: str) -> str:
    value = dataset.get(tag)
    return "" if value is None else str(value).strip(" \0")


def _number(dataset: Dataset, tag: str, default: float) -> float:
    value = dataset.get(tag)
    return default if value is None or str(value) == "" else float(value)


def _values(dataset: Dataset, tag: str) -> Sequence[Any]:
    value = dataset.get(tag)
    if value is None or str(value) == "":
        return ()
    return (value,) if isinstance(value, (str, float, int)) else tuple(value)


def _numbers(dataset: Dataset, tag: str, count: int) -> tuple[float, ...] | None:
    values = tuple(float(value) for value in _values(dataset, tag))
    if not values:
        return None
    if len(values) != count:
        raise RefusedError("geometry", f"The tag {tag} holds {len(values)} numbers instead of {count}.")
    return values
