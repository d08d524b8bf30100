"""Volume files as sources of volumes: NIfTI through nibabel's headers, NRRD and MetaImage through SimpleITK."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np

from volssl.data.discovery import Found
from volssl.data.formats import itk, nifti
from volssl.data.formats.itk import LPS_TO_RAS, itk_affine
from volssl.data.keys import plain_name
from volssl.data.modality import modality_of_names, modality_of_sidecar, sidecar_of
from volssl.data.volume import Origin, RefusedError, Volume

__all__ = ["LPS_TO_RAS", "VolumeFile", "itk_affine", "read_volume_headers"]

BROKEN = {
    "header": "The header is damaged, or says what its reader does not know.",
    "voxels": "The voxels cannot be decoded: they are damaged or cut short.",
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A source of one volume: a file, or one part of a file that holds several.

    Attributes:
        shape: voxels along the file's own three axes.
        dtype: of the voxels in the file, as NumPy writes it.
        part: which one of the file's parts, from 0; None where it holds one volume.
        parts: how many the file holds.
        files: what it is made of: the file itself, and the raw part of a header file.
    """

    found: Found
    shape: tuple[int, int, int]
    dtype: str
    part: int | None = None
    parts: int = 1
    files: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """Where the volume comes from."""
        return self.found.path

    @property
    def source(self) -> str:
        """What names this source among all others; private."""
        return str(self.path) if self.part is None else f"{self.path} part {self.part + 1}"

    @property
    def stamp(self) -> str:
        """Changes when one of its files does, or the sidecar that tells its modality."""
        return " ".join(_stamp(path) for path in (*(self.files or (self.path,)), self._sidecar))

    @property
    def says_modality(self) -> bool:
        """Whether the source itself tells CT from MR; a sidecar does not bind the user, so it does not count."""
        return False

    @property
    def file_count(self) -> int:
        """How many files it is made of."""
        return len(self.files)

    @property
    def shares_files(self) -> bool:
        """Whether another source may be made of the same files."""
        return True

    @property
    def voxels(self) -> int:
        """How many it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def stored_bytes_per_voxel(self) -> int:
        """In the store: 2 for CT and for integers of an unknown kind, else 4."""
        modality = modality_of_sidecar(self._sidecar) or modality_of_names(self._names)
        if modality in ("CT", "MR"):
            return 2 if modality == "CT" else 4
        return 2 if np.dtype(self.dtype).kind in "iub" else 4

    def read(self) -> Volume:
        """Read the file to RAS.

        Raises:
            RefusedError: the file is damaged, or has no place in space.
        """
        origin = Origin(
            names=self.found.names,
            source_format=self.found.format,
            sidecar_modality=modality_of_sidecar(self._sidecar),
            name_modality=modality_of_names(self._names),
        )
        volume: Volume = _guarded("voxels", lambda: _format_of(self.found).read_volume(self.path, origin, self.part))
        return volume if self.part is None else volume.noting(f"part {self.part + 1} of {self.parts}")

    @property
    def _sidecar(self) -> Path:
        return sidecar_of(self.path, plain_name(self.path.name))

    @property
    def _names(self) -> tuple[str, ...]:
        """Below the source; what the source itself is called is no statement about each of its files."""
        return (plain_name(self.path.name), *reversed(self.path.relative_to(self.found.root).parts[:-1]))


def read_volume_headers(found: Sequence[Found]) -> list[tuple[VolumeFile, ...] | RefusedError]:
    """Read the headers of volume files: for each, its volumes, or why it holds none."""
    return [_volumes_of(one) for one in found]


def _volumes_of(found: Found) -> tuple[VolumeFile, ...] | RefusedError:
    try:
        header = _guarded("header", lambda: _format_of(found).read_header(found.path))
    except RefusedError as refusal:
        return refusal
    parts = range(header.parts) if header.parts > 1 else (None,)
    return tuple(VolumeFile(found, header.shape, header.dtype.str, part, header.parts, header.files) for part in parts)


def _format_of(found: Found) -> ModuleType:
    return nifti if found.format == "nifti" else itk


def _guarded(what: str, read: Callable[[], T]) -> T:
    """What `read` returns; whatever else than a refusal it raises becomes one.

    Args:
        what: is read: `header` or `voxels`.
    """
    try:
        return read()
    except RefusedError:
        raise
    except MemoryError as error:
        raise RefusedError("unreadable", "The header asks for more memory than there is.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RefusedError("unreadable", "The compressed data is damaged or cut short.") from error
    except OSError as error:
        raise RefusedError("unreadable", "The file is not there, or may not be opened.") from error
    # A damaged file makes readers raise nearly anything, and their texts may hold the path: neither is told.
    except Exception as error:
        raise RefusedError("unreadable", BROKEN[what]) from error


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, or no sidecar: reading says so
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"
