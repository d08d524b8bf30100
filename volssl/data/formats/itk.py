"""NRRD and MetaImage through SimpleITK, whose own header readers are not asked before the text was looked at."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK

from volssl.data.formats.declared import VolumeHeader, check_bytes, check_parts, volume_axes
from volssl.data.volume import Origin, RefusedError, Volume, oriented

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
HEADER_MAX_BYTES = 1 << 18
RAW_PARTS_MAX = 100_000
LINE_MAX = 4000
NRRD_FIELDS = {
    *("type", "dimension", "blocksize", "encoding", "endian", "content", "oldmin", "oldmax", "min", "max", "datafile"),
    *("lineskip", "byteskip", "number", "sizes", "spacings", "thicknesses", "axismins", "axismaxs", "centers"),
    *("centerings", "labels", "units", "kinds", "space", "spacedimension", "spaceunits", "spaceorigin"),
    *("spacedirections", "measurementframe", "sampleunits"),
}
ENCODINGS = {"raw": False, **dict.fromkeys(("txt", "text", "ascii", "hex"), False), "gz": True, "gzip": True}
SERIES_KINDS = ("list", "time")  # of an NRRD axis that counts volumes; other kinds make vectors and colours
PATTERN = re.compile(r"(?P<pattern>\S*%0?\d{0,2}d\S*)\s+(?P<first>\d+)\s+(?P<last>\d+)(\s+(?P<step>\d+))?")


@dataclass(frozen=True)
class ItkHeader(VolumeHeader):
    """What ITK's reader says of a file, and the text of its header.

    Attributes:
        components: values a voxel, where the volumes of a file are its components.
    """

    reader: SimpleITK.ImageFileReader
    fields: dict[str, str]
    components: int


def read_header(path: Path) -> ItkHeader:
    """What the file promises.

    Raises:
        RefusedError: it holds no volume of single values, or less than it promises.
    """
    fields, rest = _fields(path)
    if not re.fullmatch("[1-7]", fields.get("dimension" if "magic" in fields else "ndims", "")):
        raise RefusedError("dimensions", "The header tells no number of axes, or more than seven.")
    files, compressed = _files(path, fields, rest)
    check_bytes(0, files, compressed=compressed)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if "magic" in fields else "MetaImageIO")  # the name need not say it
    reader.ReadImageInformation()
    components = reader.GetNumberOfComponents()
    sizes = list(reader.GetSize())
    if components > 1:
        if not set(fields.get("kinds", "").lower().split()) & set(SERIES_KINDS):
            raise RefusedError("colour", "The voxels are colours, vectors or complex numbers, not single values.")
        sizes.append(components)
    shape, parts = volume_axes(sizes)
    dtype = _dtype(reader.GetPixelID())
    check_bytes(math.prod(shape) * check_parts(parts) * dtype.itemsize, files, compressed=compressed)
    return ItkHeader(shape, dtype, parts, (path, *(f for f in files if f != path)), reader, fields, components)


def read_volume(path: Path, origin: Origin, part: int | None) -> Volume:
    """Read a volume to RAS.

    Raises:
        RefusedError: the file is damaged, or has no place in space.
    """
    header = read_header(path)
    reader, beyond = header.reader, header.reader.GetDimension() - 3
    reader.SetExtractSize([*header.shape, *[0] * beyond])
    if beyond:
        index = part or 0 if header.components == 1 else 0
        reader.SetExtractIndex([0, 0, 0, index, *[0] * (beyond - 1)])
    image = reader.Execute()
    if header.components > 1:
        image = SimpleITK.VectorIndexSelectionCast(image, part or 0)
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    told = {"space", "transformmatrix", "rotation", "orientation"} & header.fields.keys()
    notes = () if told else ("the header gives no orientation: its axes were taken to run left, posterior, superior",)
    return oriented(array, itk_affine(image), modality=None, origin=origin, notes=notes)


def itk_affine(image: SimpleITK.Image) -> np.ndarray:
    """The affine of a 3D ITK image: index (i, j, k) to RAS millimetres, 4 x 4."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def _dtype(pixel_id: int) -> np.dtype[np.generic]:
    name = SimpleITK.GetPixelIDValueAsString(pixel_id)
    if "complex" in name:
        raise RefusedError("colour", "The voxels are complex numbers, not single values.")
    bits = re.search(r"(8|16|32|64)-bit (unsigned|signed|float)", name)
    if bits is None:
        raise RefusedError("unreadable", "The type of the voxels is unknown.")
    return np.dtype(f"{ {'unsigned': 'u', 'signed': 'i', 'float': 'f'}[bits[2]] }{int(bits[1]) // 8}")


def _fields(path: Path) -> tuple[dict[str, str], list[str]]:
    """The header's fields, names in lower case without blanks; and the lines after a LIST of raw parts.

    Raises:
        RefusedError: the text is not that of a header. NrrdIO dies of some such texts, with the process it runs in.
    """
    with path.open("rb") as file:
        lines = file.read(HEADER_MAX_BYTES).decode("latin-1").split("\n")
    nrrd = lines[0].startswith("NRRD000")
    fields: dict[str, str] = {"magic": lines[0]} if nrrd else {}
    for number, line in enumerate(lines[1:] if nrrd else lines, start=1 if nrrd else 0):
        line = line.rstrip("\r")
        if nrrd and not line:
            return fields, []
        if nrrd and line.startswith("#"):
            _check_text(line)
            continue
        name, mark, value = line.partition(":" if nrrd else "=")
        _check_text(name if nrrd and value.startswith("=") else line)  # what users add to a header may be long
        name, value = re.sub(r"\s", "", name).lower(), value.strip()
        if not mark or (nrrd and not value.startswith("=") and name not in NRRD_FIELDS):
            break
        fields[name] = value
        if name == "elementdatafile" or (name == "datafile" and value.upper().startswith("LIST")):
            return fields, [rest.strip() for rest in lines[number + 1 :] if rest.strip()]
    else:
        if nrrd and fields.get("datafile"):  # a detached header may end with its last field
            return fields, []
    raise RefusedError("unreadable", "The header does not end, or a line of it is none.")


def _check_text(line: str) -> None:
    if len(line) > LINE_MAX or not all(sign.isprintable() or sign == "\t" for sign in line):
        raise RefusedError("unreadable", "The header holds what is no text.")


def _files(path: Path, fields: dict[str, str], rest: list[str]) -> tuple[tuple[Path, ...], bool]:
    """Where the voxels lie, below the header's own folder, and whether they are compressed.

    Raises:
        RefusedError: the header names more parts than anyone would make, one outside of its folder, or a compression
            that is not read.
    """
    if "magic" in fields:
        value = fields.get("datafile", "")
        compressed = _is_compressed(fields.get("encoding", "raw").lower())
    else:
        value = "" if fields["elementdatafile"].upper() == "LOCAL" else fields["elementdatafile"]
        compressed = fields.get("compresseddata", "").lower() in ("true", "1")
    if not value:
        return (path,), compressed
    names = rest if value.upper().startswith("LIST") else [value]
    if pattern := PATTERN.fullmatch(value):
        numbers = range(int(pattern["first"]), int(pattern["last"]) + 1, max(1, int(pattern["step"] or 1)))
        names = [pattern["pattern"] % number for number in numbers[: RAW_PARTS_MAX + 1]]
    if len(names) > RAW_PARTS_MAX or not names:
        raise RefusedError("unreadable", "The header names no raw part, or too many.")
    files = tuple(path.parent / name for name in names)
    # A header that came from elsewhere must not make any file of this machine a scan.
    if any(".." in Path(name).parts for name in names) or not all(file.is_relative_to(path.parent) for file in files):
        raise RefusedError("missing_part", "The header names a raw part outside of its own folder: move it there.")
    return files, compressed


def _is_compressed(encoding: str) -> bool:
    """Whether an NRRD file of this encoding is gzipped.

    Raises:
        RefusedError: it is packed in another way.
    """
    if encoding not in ENCODINGS:
        named = "bzip2" if encoding in ("bz2", "bzip2") else "of its header"
        raise RefusedError("transfer_syntax", f"The encoding {named} is not read: save the file with gzip, or raw.")
    return ENCODINGS[encoding]
