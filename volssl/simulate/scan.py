"""What simulated scans have in common: who lies where in the scanner, where the voxels lie, and streams of chance."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volssl.simulate.compose import Grid
from volssl.simulate.patient import PREVALENCE, Site


@dataclass(frozen=True, kw_only=True)
class SimulatedScan:
    """One simulated study, but for its image.

    Attributes:
        mask: (R, A, S) uint8, 0 where nothing is marked.
        cavity: (R, A, S) bool, the voxels wholly inside the skull.
        affine: voxel index to RAS mm, 4 x 4.
        spacing_mm: along R, A, S.
    """

    mask: npt.NDArray[np.uint8]
    cavity: npt.NDArray[np.bool_]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    sex: str
    age_years: int
    age_band: str
    site: str

    @property
    def slices(self) -> list[int]:
        """Indices, from inferior, of the slices with something marked in them."""
        return [int(i) for i in np.flatnonzero(self.mask.any(axis=(0, 1)))]


def check_arguments(site: Site, spacing_mm: float, slice_mm: float | None) -> None:
    """Raise a ValueError for a spacing that is not between 0.3 and 10 mm, or a site that is not known."""
    if site not in PREVALENCE:
        raise ValueError(f"site {site!r}: the simulated sites are {', '.join(PREVALENCE)}")
    if not (0.3 <= spacing_mm <= 10 and (slice_mm is None or 0.3 <= slice_mm <= 20)):
        raise ValueError(f"spacing {spacing_mm} mm, slices {slice_mm} mm: between 0.3 and 10 mm, 20 mm for slices")


def stream(seed: int, subject: str) -> np.random.Generator:
    """A generator of its own for each subject, so that a change to one draw leaves the others as they are."""
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(subject.encode())]))


def draw_grid(
    rng: np.random.Generator,
    shift: npt.NDArray[np.float64],
    *,
    spacing_mm: float,
    slice_mm: float,
    field_of_view_mm: tuple[float, float],
    down_mm: tuple[float, float],
    up_mm: tuple[float, float],
    away_mm: tuple[float, float, float],
) -> Grid:
    """Where the voxels of a scan lie.

    Args:
        shift: of the head in the scanner, mm along R, A, S.
        field_of_view_mm: along R, A.
        down_mm, up_mm: from the least to the most that the scan reaches below and above the middle of the head.
        away_mm: the most that the scanner's origin lies from that of the affine along each axis.
    """
    columns, rows = (int(np.ceil(extent / spacing_mm)) for extent in field_of_view_mm)
    low, high = float(shift[2]) - rng.uniform(*down_mm), float(shift[2]) + rng.uniform(*up_mm)
    count = int(np.ceil((high - low) / slice_mm))
    r_mm = (np.arange(columns) - (columns - 1) / 2) * spacing_mm
    a_mm = (np.arange(rows) - (rows - 1) / 2) * spacing_mm
    s_mm = low + slice_mm * (np.arange(count) + 0.5)
    affine = np.diag([spacing_mm, spacing_mm, slice_mm, 1.0])
    away = rng.uniform([-mm for mm in away_mm], away_mm)
    affine[:3, 3] = np.round(np.array([r_mm[0], a_mm[0], s_mm[0]]) + away, 3)
    return Grid(r_mm, a_mm, s_mm, slice_mm, affine)


def to_ras(volume: np.ndarray) -> np.ndarray:
    """(S, A, R) -> (R, A, S)."""
    return np.ascontiguousarray(volume.transpose(2, 1, 0))
