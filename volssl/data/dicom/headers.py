"""DICOM headers, read by pydicom: the few tags that say what a file is and where its slices lie."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from volssl.data.dicom.frames import FUNCTIONAL_GROUPS, frames_of, source_sop
from volssl.data.dicom.kinds import ENHANCED, modality_of_class, without_picture
from volssl.data.dicom.mark import SNIFFED_BYTES, begins_as_dicom
from volssl.data.dicom.tags import KEYWORDS, MARKS, Tags
from volssl.data.discovery import Found
from volssl.data.volume import RefusedError

AGE_CAP_YEARS = 90
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
PICTURE_MAX_SHARE = 10_000  # pixels, in bytes, may be as many times the file; a slice of air comes to 1700 compressed
NATIVE_MAX_SHARE = 4  # above it the size is absurd; between 1 and it the file is cut short, which decoding tells

_TAGS, _GROUPS = [Tag(keyword) for keyword in KEYWORDS], [Tag(keyword) for keyword in FUNCTIONAL_GROUPS]
_SOP_CLASS, _SOP = ("SOPClassUID", "MediaStorageSOPClassUID"), ("SOPInstanceUID", "MediaStorageSOPInstanceUID")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Header:
    """One slice: a DICOM file, or one frame of it; texts are empty and numbers None where the tag is missing.

    Attributes:
        stamp: changes when the file does.
        sop: the file's SOPInstanceUID.
        slice_sop: the slice's: the file's, or the one that a frame was converted from; empty where none is told.
        frame: its number in the file, from 0; None where the file is one slice.
        frames: how many the file holds.
        syntax: transfer syntax UID.
        pixels_at: offset in the file of the pixels of frame 0, where they lie there as they are; else None.
        high_bit: the highest bit of a stored value, from 0; mostly the one below `bits_stored`.
        signed: whether stored values are.
        row_spacing_mm, column_spacing_mm: distance between rows, and between columns.
        orientation: direction of a row, then of a column, in LPS.
        position_mm: centre of the first voxel, in LPS.
        rescaled: whether slope and intercept are told.
        padding: lowest and highest stored value that stands for no measurement.
        stack: the stack that an enhanced object says the frame is of.
        marks: a text for each of `MARKS`.
        instance: the slice's number in its series; None where it is not told, and of a frame.
        content_time: as the file tells it; empty of a frame.
    """

    found: Found
    stamp: str
    sop: str
    slice_sop: str
    frame: int | None
    frames: int
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
    samples: int
    photometric: str
    syntax: str
    pixels_at: int | None
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    lossy: bool
    row_spacing_mm: float | None
    column_spacing_mm: float | None
    orientation: tuple[float, ...] | None
    position_mm: tuple[float, ...] | None
    slope: float
    intercept: float
    rescaled: bool
    rescale_type: str
    padding: tuple[int, int] | None
    stack: str
    marks: tuple[str, ...]
    instance: int | None
    content_time: str
    sex: str | None
    age_years: int | None
    scanner: str | None


def read_headers(found: Sequence[Found]) -> list[tuple[Header, ...] | RefusedError]:
    """Read each file's slices, one for each frame; a file without one gives its refusal instead."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    shared: dict[object, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_headers_or_refusal(one, shared) for one in found]


def age_in_years(text: str) -> int | None:
    """DICOM's age string (`045Y`, `018M`, `003W`, `012D`) as whole years, capped at 90; None for another text."""
    text = text.strip().upper()
    if not (text[:-1].isascii() and text[:-1].isdigit()) or text[-1:] not in "YMWD":
        return None
    per_year = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[text[-1]]
    return min(int(int(text[:-1]) / per_year), AGE_CAP_YEARS)


def _headers_or_refusal(found: Found, shared: dict[object, object]) -> tuple[Header, ...] | RefusedError:
    try:
        return _read(found, shared)
    except RefusedError as refusal:
        return refusal
    except InvalidDicomError:
        return RefusedError("unreadable", "The file lacks the mark of a DICOM file.")
    # A damaged file makes the parser raise nearly anything; its texts may hold names, so none is told.
    except Exception as error:  # noqa: BLE001
        return RefusedError("unreadable", of_system(error) or "The DICOM header is damaged, or cut short.")


def of_system(error: Exception) -> str:
    """What the system says where it refuses to read a file, as a sentence; empty where the error is another."""
    return f"The file cannot be read: {error.strerror}." if isinstance(error, OSError) and error.strerror else ""


@dataclass(frozen=True)
class _File:
    """What all slices of a file have in common; `shared` holds each text and tuple once for a portion of headers."""

    found: Found
    stamp: str
    size: int
    syntax: str
    pixels_at: int | None
    frames: int
    shared: dict[object, object]

    def once(self, value: T) -> T:
        return self.shared.setdefault(value, value)  # type: ignore[return-value]


def _read(found: Found, shared: dict[object, object]) -> tuple[Header, ...]:
    with found.path.open("rb") as stream:
        dataset = _dataset(stream, _TAGS)
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        pixels_at = _pixels_at(stream, dataset, syntax)
        tags = Tags(dataset, dataset.file_meta)
        sop_class, frames = tags.text(*_SOP_CLASS), int(tags.number("NumberOfFrames", 1))
        in_groups = sop_class in ENHANCED or frames > 1
        groups = frames_of(_dataset(stream, _GROUPS), frames) if in_groups else None
    if not tags.numbers("Rows") or not tags.numbers("Columns"):
        raise without_picture(sop_class)
    status = found.path.stat()
    file = _File(found, f"{status.st_size} {status.st_mtime_ns}", status.st_size, syntax, pixels_at, frames, shared)
    if groups is None:
        return (_header(file, tags, None, tags.text(*_SOP)),)
    return tuple(
        _header(file, Tags(*group, dataset, dataset.file_meta), index, source_sop(group[0]))
        for index, group in enumerate(groups)
    )


def _dataset(stream: BinaryIO, tags: list[BaseTag]) -> FileDataset:
    """These tags of a file; older archives leave out the mark of DICOM, and begin with the first tag at once."""
    stream.seek(0)
    try:
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags)
    except InvalidDicomError:
        stream.seek(0)
        if not begins_as_dicom(stream.read(SNIFFED_BYTES)):
            raise
        stream.seek(0)
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=True)


def _pixels_at(stream: BinaryIO, dataset: FileDataset, syntax: str) -> int | None:
    """Where the pixels begin, where they are not compressed; pydicom has just stopped at their tag.

    Reading them from there costs an eighth of parsing the file once more.
    """
    implicit, little = dataset.original_encoding
    if syntax not in (*NATIVE, "") or implicit is None:
        return None
    head = stream.read(8 if implicit else 12)
    tag = b"\xe0\x7f\x10\0" if little else b"\x7f\xe0\0\x10"
    if head[:4] != tag or head[-4:] == b"\xff\xff\xff\xff" or not (implicit or head[4:6] in (b"OW", b"OB")):
        return None
    return stream.tell()


def _header(file: _File, tags: Tags, frame: int | None, slice_sop: str) -> Header:
    def text(*keywords: str) -> str:
        return file.once(tags.text(*keywords))

    rows, columns = int(tags.number("Rows", 0)), int(tags.number("Columns", 0))
    bits = int(tags.number("BitsAllocated", 16))
    stored = int(tags.number("BitsStored", bits))
    stored = stored if 0 < stored <= bits else bits
    high_bit = int(tags.number("HighBit", stored - 1))
    _check_size(rows, columns, bits, file)
    spacing = file.once(tags.place("PixelSpacing", 2))
    slope, intercept = tags.numbers("RescaleSlope", "rescale"), tags.numbers("RescaleIntercept", "rescale")
    sop_class, sex, sop = text(*_SOP_CLASS), text("PatientSex").upper(), tags.text(*_SOP)
    return Header(
        found=file.found,
        stamp=file.stamp,
        sop=slice_sop if frame is None else file.once(sop),
        slice_sop=slice_sop,
        frame=frame,
        frames=file.frames,
        sop_class=sop_class,
        series=text("SeriesInstanceUID"),
        study=text("StudyInstanceUID"),
        accession=text("AccessionNumber"),
        patient=text("PatientID"),
        frame_of_reference=text("FrameOfReferenceUID"),
        modality=file.once(tags.text("Modality").upper() or modality_of_class(sop_class)),
        image_type=file.once(tuple(part.strip() for part in tags.text("FrameType", "ImageType").upper().split("\\"))),
        rows=rows,
        columns=columns,
        samples=int(tags.number("SamplesPerPixel", 1)),
        photometric=file.once(tags.text("PhotometricInterpretation").upper()),
        syntax=file.once(file.syntax),
        pixels_at=file.pixels_at,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=high_bit if stored <= high_bit < bits else stored - 1,
        signed=tags.number("PixelRepresentation", 0) == 1,
        lossy=tags.text("LossyImageCompression") == "01",
        row_spacing_mm=spacing[0] if spacing else None,
        column_spacing_mm=spacing[1] if spacing else None,
        orientation=file.once(tags.place("ImageOrientationPatient", 6)),
        position_mm=tags.place("ImagePositionPatient", 3),
        slope=file.once((*slope, 1.0)[0]),
        intercept=file.once((*intercept, 0.0)[0]),
        rescaled=bool(slope and intercept),
        rescale_type="LUT" if tags.has("ModalityLUTSequence") else file.once(tags.text("RescaleType").upper()),
        padding=_padding(tags, bits),
        stack=text("StackID"),
        marks=file.once(tuple(text(*keywords) for keywords in MARKS.values())),
        instance=_whole_number(tags.text("InstanceNumber")) if frame is None else None,
        content_time=text("ContentTime") if frame is None else "",
        sex=sex if sex in ("F", "M", "O") else None,
        age_years=age_in_years(tags.text("PatientAge")),
        scanner=file.once(" ".join(filter(None, (tags.text("Manufacturer"), tags.text("ManufacturerModelName")))))
        or None,
    )


def _whole_number(text: str) -> int | None:
    """The number a text is; None for another text, which is no reason to refuse the slice."""
    try:
        return int(text)
    except ValueError:
        return None


def _check_size(rows: int, columns: int, bits: int, file: _File) -> None:
    if min(rows, columns) < 1:
        raise RefusedError("pixels", f"A picture of {rows} x {columns} has no pixels.")
    share = NATIVE_MAX_SHARE if file.syntax in NATIVE else PICTURE_MAX_SHARE
    if rows * columns * bits > 8 * share * file.size:
        raise RefusedError(
            "pixels",
            f"A picture of {rows} x {columns} asks for {rows * columns * bits / 8e6:.0f} MB, the file has "
            f"{file.size / 1e6:.2f} MB.",
        )


def _padding(tags: Tags, bits: int) -> tuple[int, int] | None:
    """The range of padding in stored values.

    The tags are unsigned or signed as the pixels are, but writers differ: 63536 means -2000 where pixels are signed.
    """
    if not tags.text("PixelPaddingValue"):
        return None
    ends = [int(tags.number("PixelPaddingValue", 0)), *map(int, tags.numbers("PixelPaddingRangeLimit")[:1])]
    signed, whole = tags.number("PixelRepresentation", 0) == 1, 1 << bits
    turned = [end % whole - whole if signed and end % whole >= whole // 2 else end % whole for end in ends]
    return min(turned), max(turned)
