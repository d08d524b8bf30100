"""NIfTI 1 and 2, in one file or as a pair, gzipped or not: headers by nibabel, voxels in bounded memory."""

from __future__ import annotations

import gzip
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import nibabel as nib
import numpy as np

from volssl.data.formats.declared import VolumeHeader, check_bytes, volume_axes
from volssl.data.formats.mark import GZIP_MARK
from volssl.data.volume import Origin, RefusedError, Volume, has_inverse, oriented

CHUNK_VOXELS = 1 << 20
TAIL_BYTES = 1 << 26  # after the voxels: read for the sake of gzip's checksum, within reason
VECTOR_INTENTS = (1005, 1006, 1007, 2003, 2004)  # symmetric matrix, displacement, vector, RGB, RGBA
UNITS = {1: ("metres", 1e3), 3: ("microns", 1e-3)}  # the header's codes of lengths other than mm, and mm in each
APART_MM = 0.5  # of sform and qform at a corner of the volume: less is rounding

_HEADERS = {
    (348, b"n+1\0"): nib.Nifti1Header,
    (348, b"ni1\0"): nib.nifti1.Nifti1PairHeader,
    (540, b"n+2\0"): nib.Nifti2Header,
    (540, b"ni2\0"): nib.nifti2.Nifti2PairHeader,
}


@dataclass(frozen=True)
class NiftiHeader(VolumeHeader):
    """The header as nibabel knows it, and where the voxels lie; `files` are the file itself, and the `.img` of a pair.

    Attributes:
        offset: of the first voxel, in bytes after decompression.
    """

    fields: nib.Nifti1Header
    offset: int


def read_header(path: Path) -> NiftiHeader:
    """What the file promises.

    Raises:
        RefusedError: it holds no volume of single values, or less than it promises.
    """
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    with _open(path) as file:
        block = file.read(540)
    sizes = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
    size = 540 if 540 in sizes else 348
    kind = _HEADERS.get((size, block[4:8] if size == 540 else block[344:348]))
    if kind is None:
        if 348 in sizes and len(block) >= 348 and path.name.lower().endswith((".hdr", ".hdr.gz")):
            raise RefusedError("analyze", "An Analyze file does not say which side is left: convert it to NIfTI.")
        raise RefusedError("unreadable", "The file does not begin as NIfTI does.")
    header = kind(block[:size])
    dtype = header.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c" or int(header["intent_code"]) in VECTOR_INTENTS:
        raise RefusedError("colour", "The voxels are colours, vectors or complex numbers, not single values.")
    shape, parts = volume_axes([int(n) for n in header.get_data_shape()])
    files = (path,) if kind.is_single else (path, _image_of(path))
    offset = int(header.get_data_offset()) or (kind.single_vox_offset if kind.is_single else 0)  # 0 is "the usual"
    promised = offset + math.prod(shape) * parts * dtype.itemsize
    check_bytes(promised, files[-1:], compressed=_is_gzip(files[-1]))
    return NiftiHeader(shape, dtype, parts, files, header, offset)


def read_volume(path: Path, origin: Origin, part: int | None) -> Volume:
    """Read a volume to RAS, slope and intercept applied.

    Raises:
        RefusedError: the file is damaged, or has no place in space.
    """
    header = read_header(path)
    unit, mm = UNITS.get(int(header.fields["xyzt_units"]) % 8, ("", 1.0))  # the upper bits are the unit of time
    affine, notes = _affine(header, np.diag([mm, mm, mm, 1.0]))
    if unit:
        notes = (*notes, f"the header gives lengths in {unit}: they were brought to mm")
    return oriented(_voxels(header, part or 0), affine, modality=None, origin=origin, notes=notes)


def _image_of(path: Path) -> Path:
    """The `.img` of a `.hdr`.

    Raises:
        RefusedError: it is not there, or the header is called something else.
    """
    if ".hdr" not in path.name.lower():
        raise RefusedError("missing_part", "It begins as the header of a pair, and its name does not end in .hdr.")
    stem = path.name[: path.name.lower().rindex(".hdr")]
    for suffix in (".img", ".IMG", ".img.gz"):
        if path.with_name(stem + suffix).exists():
            return path.with_name(stem + suffix)
    raise RefusedError("missing_part", "The .img file of this .hdr file is not beside it.")


def _affine(header: NiftiHeader, to_mm: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Index to RAS mm by nibabel's rule, sform before qform; and notes on what was in doubt."""
    fields = header.fields
    sform = to_mm @ fields.get_sform() if int(fields["sform_code"]) > 0 else None
    try:
        qform = to_mm @ fields.get_qform() if int(fields["qform_code"]) > 0 else None
    except ValueError:  # a quaternion longer than one
        qform = None
    if sform is None and qform is None:
        affine = to_mm @ fields.get_base_affine()
        return affine, ("the header gives no orientation: its axes were taken to run left, anterior, superior",)
    if sform is None or qform is None:
        return cast(np.ndarray, qform if sform is None else sform), ()
    if not (has_inverse(sform) and has_inverse(qform)):
        turn_to_qform = has_inverse(qform)
        return (qform, ("the sform has no inverse: the qform was used",)) if turn_to_qform else (sform, ())
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in header.shape], (1,))).reshape(4, -1)
    apart_mm = float(np.linalg.norm((sform - qform) @ corners, axis=0).max())
    if apart_mm > APART_MM:
        return sform, (f"sform and qform place voxels up to {apart_mm:.3g} mm apart: the sform was used",)
    return sform, ()


def _voxels(header: NiftiHeader, part: int) -> np.ndarray:
    """Voxels of one part, slope and intercept applied: one copy, and a chunk.

    Integers without a slope stay what they are; all else becomes float32, scaled in float64.
    """
    slope, inter = header.fields.get_slope_inter()
    scaled = slope is not None and (slope, inter) != (1.0, 0.0)
    dtype, count = header.dtype, math.prod(header.shape)
    kept = np.dtype(np.float32) if scaled or dtype.kind == "f" else dtype.newbyteorder("=")
    flat = np.empty(count, kept)
    with _open(header.files[-1]) as file, np.errstate(over="ignore", invalid="ignore"):
        file.seek(header.offset + part * count * dtype.itemsize)
        for start in range(0, count, CHUNK_VOXELS):
            stop = min(start + CHUNK_VOXELS, count)
            data = file.read((stop - start) * dtype.itemsize)
            if len(data) < (stop - start) * dtype.itemsize:
                raise RefusedError("unreadable", "The file is cut short.")
            raw = np.frombuffer(data, dtype)
            flat[start:stop] = raw * float(slope) + float(inter) if scaled else raw
        if _is_gzip(header.files[-1]):
            _read_tail(file)
    return flat.reshape(header.shape, order="F")


def _read_tail(file: IO[bytes]) -> None:
    """Read on to the end, where gzip compares its checksum."""
    for _ in range(TAIL_BYTES // CHUNK_VOXELS):
        if not file.read(CHUNK_VOXELS):
            return


def _open(path: Path) -> IO[bytes]:
    """A NIfTI file for reading; whether it is gzipped its first bytes tell, for names are often wrong."""
    return cast(IO[bytes], gzip.open(path, "rb")) if _is_gzip(path) else path.open("rb")


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MARK
