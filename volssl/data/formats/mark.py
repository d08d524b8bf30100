"""What a file without a telling name holds, by its first bytes: NIfTI, gzipped or not, NRRD or MetaImage."""

from __future__ import annotations

import re
import zlib

SNIFFED_BYTES = 1024  # a gzip's first block of them unpacks to more than a NIfTI header
NIFTI_BYTES = 352
GZIP_MARK = b"\x1f\x8b"
GZIP_WINDOW = 31  # zlib's number for a stream that gzip wraps
NIFTI_MARKS = ((348, 344, b"n+1\0"), (540, 4, b"n+2\0"))  # size of the header, where the mark lies, the mark
METAIMAGE = re.compile(rb"(ObjectType[ \t]*=[ \t]*Image|NDims[ \t]*=[ \t]*\d)")


def volume_format(data: bytes) -> str | None:
    """`nifti`, `nrrd` or `metaimage`, as `Found.format` names them; None for anything else.

    Args:
        data: the first `SNIFFED_BYTES` of a file.
    """
    if data.startswith(GZIP_MARK):
        return "nifti" if _begins_as_nifti(_unpacked(data)) else None
    if data.startswith(b"NRRD000"):
        return "nrrd"
    if METAIMAGE.match(data):
        return "metaimage"
    return "nifti" if _begins_as_nifti(data) else None


def _begins_as_nifti(data: bytes) -> bool:
    sizes = {int.from_bytes(data[:4], order) for order in ("little", "big")}
    return any(size in sizes and data[place : place + 4] == mark for size, place, mark in NIFTI_MARKS)


def _unpacked(data: bytes) -> bytes:
    """The first bytes that a gzip holds; none of one that is damaged."""
    try:
        return zlib.decompressobj(GZIP_WINDOW).decompress(data, NIFTI_BYTES)
    except zlib.error:
        return b""
