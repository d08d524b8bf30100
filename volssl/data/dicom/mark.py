"""Whether a file without a telling name is DICOM, by its first bytes: no parser is let loose on unknown files."""

from __future__ import annotations

import struct

PREAMBLE = 128
SNIFFED_BYTES = 512
FIRST_GROUPS = (0x0002, 0x0008)
FIRST_ELEMENT_MAX = 0x0018  # SOPInstanceUID: a data set that begins later has lost what says what it is
NEXT_GROUPS = (0x0002, 0x0008, 0x0010)
SHORT_VRS = (b"AE", b"CS", b"DA", b"DT", b"IS", b"LO", b"SH", b"TM", b"UI", b"UL", b"US")
LENGTH_MAX = 256


def begins_as_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM does: the mark after the preamble, or without one, two plausible elements."""
    if data[PREAMBLE : PREAMBLE + 4] == b"DICM":
        return True
    return any(_two_elements(data, order, explicit) for order, explicit in (("<", True), ("<", False), (">", True)))


def _two_elements(data: bytes, order: str, explicit: bool) -> bool:
    """Whether the bytes are an element that begins a data set, of a likely length, and one more after it."""
    if len(data) < 16:
        return False
    group, element = struct.unpack_from(f"{order}HH", data)
    if group not in FIRST_GROUPS or element > FIRST_ELEMENT_MAX:
        return False
    if explicit:
        if data[4:6] not in SHORT_VRS:
            return False
        length = struct.unpack_from(f"{order}H", data, 6)[0]
    else:
        length = struct.unpack_from(f"{order}I", data, 4)[0]
    after = 8 + length
    if length > LENGTH_MAX or length % 2 or len(data) < after + 4:
        return False
    next_group, next_element = struct.unpack_from(f"{order}HH", data, after)
    return next_group in NEXT_GROUPS and (next_group, next_element) > (group, element)
