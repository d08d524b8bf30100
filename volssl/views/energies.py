"""Reference energies of a store, and images brought near them (Ghesu et al. 2022, section 3.3; Philipsen et al. 2015).

The paper estimates each band's mean energy from 1,000 images, and draws the reference of a view within one standard
deviation of it. What it leaves open, and what is done here:

- Bands are octaves of a Gaussian in millimetres (2, 4, 8 and 16 mm: five bands), so that they mean the same in every
  scan. Energies are measured on windowed values, for each modality and channel apart.
- The whole image is looked at on a grid of 2 mm, or of its own voxels along an axis where they are larger; images and
  references alike. The finest band of a crop may hold finer detail than the energy it was scaled by.
- A reference is drawn from the normal distribution cut off at one standard deviation, each band and channel by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from volssl.errors import UserError
from volssl.files import write_text
from volssl.progress import say, track
from volssl.transforms.bands import band_energies, blurs, correction, gains, rebalance
from volssl.transforms.resample import FloatBox, along, axis_weights, resample_box
from volssl.transforms.window import Windows, window_pairs
from volssl.views.base import Box, Scan
from volssl.views.cropper import Size, values

SLAB_VOXELS = 2**24  # read at once from a scan


@dataclass(frozen=True)
class Energies:
    """Mean and standard deviation of each band's energy over reference scans.

    Attributes:
        windows_hu: the windows, (center, width), that they hold for.
        sigmas_mm: of the Gaussians between the bands, finest first.
        grid_mm: voxels of the grid that they were measured on.
        count: scans of each modality.
        mean: for each modality, a list of bands, finest first, each a list of channels.
        deviation: likewise.
    """

    windows_hu: list[tuple[float, float]]
    sigmas_mm: list[float]
    grid_mm: float
    count: dict[str, int]
    mean: dict[str, list[list[float]]]
    deviation: dict[str, list[list[float]]]

    def check_windows(self, windows_hu: Windows) -> None:
        """Refuse views of other windows.

        Raises:
            ValueError: where the windows are not those of the energies.
        """
        own = window_pairs(self.windows_hu)
        if window_pairs(windows_hu) != own:
            raise ValueError(f"energies of the windows {own} are of no use to views of {window_pairs(windows_hu)}")

    def draw(self, modality: str, rng: np.random.RandomState) -> np.ndarray:
        """Reference energies of one view: (B, C), within one standard deviation of the mean, and above 0.

        Raises:
            UserError: for a modality of which there was no scan.
        """
        if modality not in self.mean:
            raise UserError(f"energies: no {modality} scan was among the references, only {', '.join(self.mean)}")
        mean, deviation = np.array(self.mean[modality]), np.array(self.deviation[modality])
        within = ndtri(rng.uniform(ndtr(-1.0), ndtr(1.0), size=mean.shape))
        drawn: np.ndarray = np.maximum(mean + within * deviation, 0.0)
        return drawn


class Spectrum:
    """The bands of one scan on a coarse grid: what every crop of it is rebalanced by."""

    def __init__(self, scan: Scan, energies: Energies) -> None:
        self.shape = scan.shape
        self.blurred, self.energies = decompose(
            scan, windows_hu=energies.windows_hu, sigmas_mm=energies.sigmas_mm, grid_mm=energies.grid_mm
        )

    def rebalance(self, crop: Tensor, box: FloatBox, reference: np.ndarray) -> Tensor:
        """A crop (C, R, A, S) of the box, as cut out of the scan after Eq. 8 with these reference energies (B, C)."""
        gain = gains(torch.from_numpy(reference).to(torch.float32), self.energies)
        coarse = correction(self.blurred, gain)
        sides = [
            (start * m / n, stop * m / n) for (start, stop), m, n in zip(box, coarse.shape[1:], self.shape, strict=True)
        ]
        r, a, s = crop.shape[1:]
        return rebalance(crop, gain, resample_box(coarse, (sides[0], sides[1], sides[2]), (r, a, s)))


def reference_energies(
    scans: Sequence[Scan],
    *,
    windows_hu: Windows = (55.0, 200.0),
    sigmas_mm: Sequence[float] = (2.0, 4.0, 8.0, 16.0),
    grid_mm: float = 2.0,
    count: int = 1000,
    file: str | Path | None = None,
) -> Energies:
    """Estimate the energies of up to `count` scans, at even steps of their order: no randomness.

    Args:
        scans: of one or of both modalities; a store's are in the order of their ids.
        windows_hu: (center, width), or one such pair for each channel: those of the views.
        sigmas_mm: of the Gaussians between the bands.
        grid_mm: voxels to measure on.
        count: scans looked at, at most; 1,000 in the paper.
        file: JSON to keep the result in. Where it is there it is read instead, so that a run that goes on
            sees what it saw before.

    Raises:
        UserError: where the file holds energies of other windows or bands, or there is no scan.
    """
    pairs, sigmas = window_pairs(windows_hu), [float(mm) for mm in sigmas_mm]
    if file is not None and Path(file).is_file():
        kept = Energies(**json.loads(Path(file).read_text()))
        if (pairs, sigmas, grid_mm) != (window_pairs(kept.windows_hu), kept.sigmas_mm, kept.grid_mm):
            raise UserError(f"{file}: holds energies of other windows or bands; remove it to have them estimated again")
        return kept
    if not len(scans):
        raise UserError("energies: there is no scan to estimate them from")
    found: dict[str, list[Tensor]] = {}
    for scan in track(spread(scans, count), "Energies of the store", total=min(count, len(scans))):
        _, energies = decompose(scan, windows_hu=pairs, sigmas_mm=sigmas, grid_mm=grid_mm)
        found.setdefault(scan.modality, []).append(energies.double())
    stacked = {modality: torch.stack(found[modality]) for modality in sorted(found)}
    result = Energies(
        windows_hu=pairs,
        sigmas_mm=sigmas,
        grid_mm=float(grid_mm),
        count={modality: len(rows) for modality, rows in stacked.items()},
        mean={modality: rows.mean(dim=0).tolist() for modality, rows in stacked.items()},
        deviation={modality: rows.std(dim=0, correction=0).tolist() for modality, rows in stacked.items()},
    )
    if file is not None:
        write_text(Path(file), json.dumps(asdict(result), indent=1) + "\n")
    say(f"reference energies: from {' and '.join(f'{n} {modality}' for modality, n in result.count.items())} scans")
    return result


def spread(scans: Sequence[Scan], count: int) -> Iterator[Scan]:
    """Up to `count` scans at even steps."""
    for i in np.linspace(0, len(scans) - 1, min(count, len(scans))).round().astype(int):
        yield scans[int(i)]


def decompose(scan: Scan, *, windows_hu: Windows, sigmas_mm: Sequence[float], grid_mm: float) -> tuple[Tensor, Tensor]:
    """The blurs of a whole scan on a coarse grid, (B-1, C, …), and the energies of its bands, (B, C)."""
    r, a, s = (max(round(n * min(mm / grid_mm, 1.0)), 1) for n, mm in zip(scan.shape, scan.spacing_mm, strict=True))
    image = overview(scan, (r, a, s), windows_hu)
    spacing = [n * mm / new for n, mm, new in zip(scan.shape, scan.spacing_mm, (r, a, s), strict=True)]
    blurred = blurs(image, sigmas_mm=sigmas_mm, spacing_mm=(spacing[0], spacing[1], spacing[2]))
    return blurred, band_energies(image, blurred)


def overview(scan: Scan, size: Size, windows_hu: Windows) -> Tensor:
    """A whole scan on a coarser grid, (C, *size) in [0, 1], read in slabs along S: what is held stays small."""
    r, a, s = scan.shape
    first, second, third = (axis_weights(n, 0, n, new) for n, new in zip(scan.shape, size, strict=True))
    slices = max(SLAB_VOXELS // (r * a), 1)
    slabs = []
    for start in range(0, s, slices):
        box: Box = ((0, r), (0, a), (start, min(start + slices, s)))
        slabs.append(along(along(values(scan, box, windows_hu), 1, second), 0, first))
    return along(torch.cat(slabs, dim=-1), 2, third)
