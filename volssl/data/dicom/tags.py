"""The DICOM tags that are read, and their values, taken from the raw bytes: quick, and deaf to a damaged VR."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from volssl.data.volume import RefusedError

# What may tell apart slices that lie at one place or between one another, and the tags that say it: of a classic
# slice, of a frame. The order is the order in which they are tried.
MARKS = {
    "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
    "echo": ("EffectiveEchoTime", "EchoTime"),
    "time": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
    "image type": ("FrameType", "ImageType"),
    "component": ("ComplexImageComponent",),
    "kernel": ("ConvolutionKernel",),
    "b-value": ("DiffusionBValue",),
    "direction": ("DiffusionGradientOrientation",),
    "energy": ("KVP",),
    "flip angle": ("FlipAngle",),
    "inversion time": ("InversionTimes", "InversionTime"),
    "slice thickness": ("SliceThickness",),
    "sequence": ("SequenceName",),  # in which Siemens tells b-value and direction
    "series number": ("SeriesNumber",),
    "trigger time": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    "acquisition time": ("AcquisitionTime",),
}
KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "FrameOfReferenceUID",
    "InstanceNumber",
    "ContentTime",
    "LossyImageCompression",
    *(keyword for keywords in MARKS.values() for keyword in keywords),
]
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "US or SS": "H"}


class Tags:
    """The tags of one slice: the file's own, or those of a frame, of all frames, and of the file, the first first.

    pydicom's own conversion of an element costs ten times its reading, and raises on values that are not looked at.
    """

    def __init__(self, *datasets: Dataset) -> None:
        self._datasets = datasets
        self._found: dict[int, tuple[DataElement | RawDataElement, Dataset]] = {}
        for dataset in reversed(datasets):
            for tag, element in dataset.items():
                if element.value not in (None, b"", ""):
                    self._found[int(tag)] = element, dataset

    def has(self, keyword: str) -> bool:
        """Whether the tag is there, whatever its value."""
        return any(_tag(keyword) in dataset for dataset in self._datasets)

    def text(self, *keywords: str) -> str:
        """The value of the first of these tags that has one; parts are joined by a backslash; empty where none has."""
        for keyword in keywords:
            values = self._values(keyword)
            if values:
                return "\\".join(str(value).strip(" \0") for value in values)
        return ""

    def numbers(self, keyword: str, reason: str = "unreadable") -> tuple[float, ...]:
        """All numbers of a tag, none where it is missing or empty.

        Raises:
            RefusedError: with `reason`, where a value is no finite number.
        """
        values = self._values(keyword)
        try:
            found = tuple(float(str(value)) for value in values if str(value).strip(" \0"))
        except ValueError:
            found = (math.nan,)
        if not all(map(math.isfinite, found)):
            raise RefusedError(reason, f"The tag {keyword} holds no finite number.")
        return found

    def number(self, keyword: str, default: float, reason: str = "unreadable") -> float:
        """The first number of a tag.

        Raises:
            RefusedError: with `reason`, where it is no finite number.
        """
        return (*self.numbers(keyword, reason), default)[0]

    def place(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly `count` numbers that say where the slice lies, or None where the tag is missing.

        Raises:
            RefusedError: they are more or fewer, or not finite.
        """
        values = self.numbers(keyword, "geometry")
        if values and len(values) != count:
            raise RefusedError("geometry", f"The tag {keyword} holds {len(values)} numbers instead of {count}.")
        return values or None

    def _values(self, keyword: str) -> Sequence[object]:
        tag = _tag(keyword)
        if tag not in self._found:
            return ()
        element, dataset = self._found[tag]
        return _raw_values(element, tag, dataset) if isinstance(element, RawDataElement) else _parsed(element)


def _tag(keyword: str) -> int:
    return _TAG.get(keyword) or _TAG.setdefault(keyword, int(tag_for_keyword(keyword) or 0))


_TAG: dict[str, int] = {}
_VR: dict[int, str] = {}


def _raw_values(element: RawDataElement, tag: int, dataset: Dataset) -> Sequence[object]:
    value = element.value or b""
    vr = element.VR
    if vr in (None, "UN"):
        vr = _VR.get(tag) or _VR.setdefault(tag, dictionary_VR(tag))
    code = _BINARY.get(vr or "")
    if code:
        count = len(value) // struct.calcsize(code)
        return struct.unpack_from(f"{'<' if element.is_little_endian else '>'}{count}{code}", value)
    if not value.isascii():
        try:
            return _parsed(dataset[tag])  # in the file's character set
        except Exception:  # noqa: BLE001 - a damaged value makes the parser raise nearly anything: taken as it stands
            return value.decode("latin-1").split("\\")
    return value.decode("ascii").split("\\")


def _parsed(element: DataElement) -> Sequence[object]:
    value = element.value
    if value is None or element.VR == "SQ":
        return ()
    return (value,) if isinstance(value, (str, bytes, float, int)) or not isinstance(value, Sequence) else tuple(value)
