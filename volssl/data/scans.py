"""Scans read straight from their source, without a store: the same reading and checks as `prepare`, for prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from volssl.data import checks
from volssl.data.crew import Crew, quiet_libraries
from volssl.data.discovery import discover
from volssl.data.manifest import array_checksum, intensities
from volssl.data.sources import Refused, Source, gather
from volssl.data.store import box_slices
from volssl.data.volume import RefusedError, Volume
from volssl.errors import UserError
from volssl.progress import say

if TYPE_CHECKING:
    from volssl.views.base import Box


@dataclass(frozen=True)
class MemoryScan:
    """A volume held in memory: a `Scan`, with what its source calls it.

    Attributes:
        id: from the voxels; it names nobody.
        raw_ids: `study`, `series` (UIDs, empty where unknown) and `sops` (a list from inferior to superior, empty where
            the slices are not axial DICOM): private, for the answer that goes back to the archive alone.
        notes: sentences about what was unusual.
        first_slice_z_mm: RAS z of the source's own first voxel in the slice S = 0.
        slice_step_z_mm: from there to the next slice.
    """

    id: str
    array: np.ndarray
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    modality: str
    foreground: Box
    path: Path
    source_format: str
    raw_ids: dict[str, str | list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    first_slice_z_mm: float = 0.0
    slice_step_z_mm: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along R, A, S."""
        r, a, s = self.array.shape
        return r, a, s

    @property
    def intensity(self) -> tuple[float, float]:
        """Percentiles .5 and 99.5 inside the foreground."""
        figures = intensities(self.array, self.foreground, self.modality)
        return figures["intensity_low"], figures["intensity_high"]

    def read(self, box: Box | None = None) -> np.ndarray:
        """A box, or all of it: (C, R, A, S), int16 HU for CT (int32 where they need it), float32 for MR.

        Raises:
            ValueError: the box is empty or leaves the volume.
        """
        return self.array[box_slices(box, self.shape)][np.newaxis]


def read_scans(path: str | Path, *, modality: str | None = None) -> list[MemoryScan]:
    """Read every volume of a DICOM folder, or of a volume file; what is refused is said.

    Args:
        modality: `CT` or `MR`, for files that do not say it; None tells it from the values.

    Raises:
        UserError: nothing can be read; the line says why.
    """
    path = Path(path)
    quiet_libraries()
    scans, refusals = [], []
    for source in gather(discover([path]).readable, Crew(0)):
        if isinstance(source, Refused):
            refusals.append((source.found.path, source.sentence))
            continue
        try:
            scans.append(_scan(source, checks.check(source.read(), modality)))
        except RefusedError as refusal:
            refusals.append((source.path, refusal.sentence))
    if not scans:
        why = f": {refusals[0][1]}" if refusals else ": it holds no DICOM, NIfTI, NRRD or MetaImage file"
        raise UserError(f"{path} cannot be read as a volume{why}")
    for refused, sentence in refusals:
        say(f"Not read: {refused}: {sentence}")
    return scans


def _scan(source: Source, volume: Volume) -> MemoryScan:
    origin, kind = volume.origin, volume.modality or ""
    return MemoryScan(
        id=array_checksum(volume.array)[:24],
        array=volume.array,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        modality=kind,
        foreground=checks.foreground(volume.array, kind),
        path=source.path,
        source_format=origin.source_format,
        raw_ids={"study": origin.study, "series": origin.series, "sops": list(origin.sops)},
        notes=volume.notes,
        first_slice_z_mm=volume.first_slice_z_mm,
        slice_step_z_mm=volume.slice_step_z_mm,
    )
