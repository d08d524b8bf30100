"""Pixels of DICOM slices: decoded one at a time, rid of what is no picture, and scaled into one array of a volume."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, iter_pixels
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, UID_dictionary

from volssl.data.checks import AIR_HU
from volssl.data.dicom.headers import NATIVE, Header, of_system
from volssl.data.volume import RefusedError

APART = 64  # bytes, a line of the cache, between slices: at powers of two apart they would push each other out of it
HU_MAX = 32767


def check_decodable(slices: Sequence[Header]) -> None:
    """Whether there is a decoder for every slice.

    Raises:
        RefusedError: the sentence names the transfer syntax that lacks one.
    """
    for syntax in {one.syntax for one in slices} - {"", *NATIVE}:
        try:
            if get_decoder(UID(syntax)).is_available:
                continue
        except NotImplementedError:
            pass
        known, is_uid = syntax in UID_dictionary, re.fullmatch(r"[0-9.]{1,64}", syntax)
        name = f"{UID(syntax).name} ({syntax})" if known else syntax if is_uid else "told, which is no UID"
        raise RefusedError("transfer_syntax", f"There is no decoder for the transfer syntax {name}.")
    if any(one.bits_allocated not in (8, 16, 32) for one in slices):
        raise RefusedError("pixels", f"Pixels of {slices[0].bits_allocated} bits are not read.")


def stacked(slices: Sequence[Header]) -> tuple[np.ndarray, Counter[str]]:
    """Decode all slices into one array (column, row, slice), HU for CT.

    In memory a row of one slice is followed by that row of the next: so turning it to other axes, plane by plane, takes
    a third of the time.

    Returns:
        The array, int16 for CT where that holds all values, else float32; and how many voxels were `padding`.

    Raises:
        RefusedError: the pixels of a slice are damaged.
    """
    counts: Counter[str] = Counter()
    stack = _space(slices, np.dtype(np.int16 if slices[0].modality == "CT" else np.float32))
    for index, (one, raw) in enumerate(zip(slices, decoded(slices), strict=True)):
        values = _scaled(raw, one, counts)
        if stack.dtype == np.int16 and values.dtype != np.int16:
            narrow, stack = stack, _space(slices, np.dtype(np.float32))
            stack[:, :index] = narrow[:, :index]
        stack[:, index] = values
    return stack.transpose(2, 0, 1), counts


def _space(slices: Sequence[Header], dtype: np.dtype[np.generic]) -> np.ndarray:
    """An empty array (row, slice, column)."""
    columns = slices[0].columns
    room = np.empty((slices[0].rows, len(slices), columns + APART // dtype.itemsize), dtype)
    return room[..., :columns]


def decoded(slices: Sequence[Header]) -> Iterator[np.ndarray]:
    """Stored values of each slice, (row, column), unused bits taken out; a file of many frames is opened once a run.

    Raises:
        RefusedError: they are damaged.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path, run in groupby(slices, key=lambda one: one.found.path):
                yield from _decoded_of_file(path, list(run))
    except RefusedError:
        raise
    except MemoryError as error:
        raise RefusedError("pixels", "A slice asks for more memory than there is.") from error
    # Decoders raise nearly anything on damaged data; their texts may hold the path, so none is told.
    except Exception as error:
        sentence = "The pixels of a slice are damaged, or not in the transfer syntax that the file tells."
        raise RefusedError("pixels", of_system(error) or sentence) from error


def _decoded_of_file(path: Path, run: list[Header]) -> Iterator[np.ndarray]:
    if run[0].pixels_at is not None and (run[0].bits_allocated > 8 or run[0].syntax != ExplicitVRBigEndian):
        yield from (_native(one) for one in run)
        return
    is_deflated = run[0].syntax == DeflatedExplicitVRLittleEndian  # pydicom cannot read its frames by their place
    source: Path | Dataset = path
    if is_deflated:
        source = pydicom.dcmread(path)
        source.BitsStored, source.HighBit = source.BitsAllocated, source.BitsAllocated - 1  # pydicom knows no high bit
    frames = iter_pixels(source, indices=[one.frame or 0 for one in run], raw=True)
    try:
        for one, raw in zip(run, frames, strict=True):
            if raw.shape != (one.rows, one.columns):
                raise RefusedError("pixels", "A decoded slice has another size than its header says.")
            yield _without_unused_bits(raw.copy(), one) if is_deflated else raw
    except AttributeError as error:  # pydicom's word for a tag that is missing
        if "PixelData" in pydicom.dcmread(path, defer_size=1024):
            sentence = "The file of a slice lacks a tag without which pixels cannot be decoded."
        else:
            sentence = "The file of a slice has no pixels, or is cut short before they end."
        raise RefusedError("pixels", sentence) from error


def _native(one: Header) -> np.ndarray:
    """Pixels that lie in the file as they are."""
    order = ">" if one.syntax == ExplicitVRBigEndian else "<"
    kind = np.dtype(f"{order}{'i' if one.signed else 'u'}{one.bits_allocated // 8}")
    count = one.rows * one.columns
    at = (one.pixels_at or 0) + (one.frame or 0) * count * kind.itemsize
    raw = np.fromfile(one.found.path, kind, count, offset=at)
    if raw.size < count:
        raise RefusedError("pixels", f"The file is cut short: {raw.size} of the {count} pixels of a slice are there.")
    raw = raw.astype(kind.newbyteorder("="), copy=False).reshape(one.rows, one.columns)
    return _without_unused_bits(raw, one)


def _without_unused_bits(raw: np.ndarray, one: Header) -> np.ndarray:
    """Stored values alone: bits above them may hold overlays, or a sign that was not carried on (PS3.5, 8.1.1).

    In older files there may be bits below them, too.
    """
    raw <<= one.bits_allocated - 1 - one.high_bit
    raw >>= one.bits_allocated - one.bits_stored
    return raw


def _scaled(raw: np.ndarray, one: Header, counts: Counter[str]) -> np.ndarray:
    """Slope and intercept applied and padding taken out: int16 HU where it holds them, else float32."""
    padding = _is_padding(raw, one)
    if one.modality != "CT":
        values = raw * np.float32(one.slope) + np.float32(one.intercept)
        return values if padding is None else _filled(values, padding, counts)
    if padding is not None:
        raw[padding] = raw[~padding].min(initial=np.iinfo(raw.dtype).max)  # so that the range is that of the picture
        counts["padding"] += int(padding.sum())
    values = _hounsfield(raw, one)
    if padding is not None:
        values[padding] = AIR_HU
    return values


def _hounsfield(raw: np.ndarray, one: Header) -> np.ndarray:
    if one.slope == 1 and one.intercept == int(one.intercept) and raw.dtype.kind in "iu":
        offset = int(one.intercept)
        if _is_short(int(raw.min()) + offset, int(raw.max()) + offset):
            short = raw.view(np.int16) if raw.itemsize == 2 else raw.astype(np.int16)
            return np.asarray(short + np.int64(offset).astype(np.int16))  # modulo 2^16, which the range makes right
    values = raw * np.float32(one.slope) + np.float32(one.intercept)
    if _is_short(values.min(), values.max()):  # the store rounds all the same, and this halves the memory
        return np.asarray(np.rint(values).astype(np.int16))
    return np.asarray(values)


def _is_short(low: float, high: float) -> bool:
    return low >= -HU_MAX - 1 and high <= HU_MAX


def _is_padding(raw: np.ndarray, one: Header) -> np.ndarray | None:
    """Where the slice holds its padding; in CT only padding that no tissue or air can be: zeros are often water."""
    if one.padding is None:
        return None
    low, high = one.padding
    where = (raw >= low) & (raw <= high)
    if one.modality == "CT":
        values = sorted(end * one.slope + one.intercept for end in one.padding)
        if not (values[1] < AIR_HU or values[0] > HU_MAX):
            return None
    return where if where.any() and not where.all() else None


def _filled(values: np.ndarray, padding: np.ndarray, counts: Counter[str]) -> np.ndarray:
    """MR, which has no unit: padding below all that was measured takes the lowest value of the slice."""
    lowest = values[~padding].min()
    if values[padding].max() < lowest:
        values[padding] = lowest
        counts["padding"] += int(padding.sum())
    return values
