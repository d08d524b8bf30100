"""How long the views of one volume take on one core, beside the same made of stock MONAI transforms.

    python benchmarks/view_speed.py                   # about a minute
    python benchmarks/view_speed.py --turns 40

One CT of 128 × 128 × 128 voxels in a store; crops of 96³ and 48³ with all augmentations of each preset: one large and
four small ones, of the shipped views two and two. Reading is within the time of ours; MONAI has the volume in memory,
is spared the antialiasing that ours does, and takes its bands from the crop alone. All take turns; medians of the
processor time of one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import (
    Compose,
    GaussianSmooth,
    RandAdjustContrast,
    RandFlip,
    RandGaussianNoise,
    RandScaleIntensity,
    RandShiftIntensity,
    RandSpatialCrop,
    RandZoom,
    Resize,
    ScaleIntensityRange,
    SpatialPad,
)

from volssl.data import Store, prepare
from volssl.data.loader import one_thread
from volssl.data.store import StoredScan
from volssl.views import MultiCrop, generic, paper
from volssl.views.energies import Energies, reference_energies

SHAPE, SPACING_MM = (128, 128, 128), (1.5, 1.5, 1.5)
LARGE, SMALL = (96, 96, 96), (48, 48, 48)
COUNTS, SHIPPED_COUNTS = (1, 4), (2, 2)
FRACTION = (0.3, 0.9)  # of 128 voxels: into an image size range of 48 to 107
WITHOUT_BANDS_MS, WITH_BANDS_MS = 150.0, 400.0
Size = tuple[int, int, int]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=20, help="times that each is measured")
    times = measure(options.parse_args().turns)
    print("views of one 128³ volume, one core, ms (median)")
    for name, (ours, stock, limit) in times.items():
        verdict = "kept" if ours <= limit else "NOT KEPT"
        print(
            f"{name:24} {ours:6.0f}   MONAI {stock:6.0f} ({stock / ours:.1f} times as long)   ≤ {limit:.0f}: {verdict}"
        )


def measure(turns: int = 20) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of ours and of MONAI's, and what ours may take, for each preset."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        scan = stored_ct(Path(folder))
        hu = torch.from_numpy(scan.read().copy())
        energies = reference_energies([scan])
        sizes = (LARGE, SMALL)
        ours: dict[str, MultiCrop] = {
            "as shipped": MultiCrop(sizes=sizes, counts=SHIPPED_COUNTS, spacing_mm=SPACING_MM),
            "generic": generic(sizes=sizes, counts=COUNTS, spacing_mm=SPACING_MM),
            "paper, without bands": paper(sizes=sizes, counts=COUNTS, fraction=FRACTION, gamma_probability=1.0),
            "paper, with bands": paper(
                sizes=sizes,
                counts=COUNTS,
                fraction=FRACTION,
                gamma_probability=1.0,
                energies=energies,
                energy_probability=1.0,
            ),
        }
        stock = {
            "as shipped": Stock(counts=SHIPPED_COUNTS, gamma=0.0, flips=(0,), noise=0.03),
            "generic": Stock(gamma=0.0, flips=(0, 1, 2), noise=0.1),
            "paper, without bands": Stock(zoomed=True, gamma=1.0),
            "paper, with bands": Stock(zoomed=True, gamma=1.0, energies=energies),
        }
        spent: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ours}
        for turn in range(-1, turns):  # a round to warm up
            for name, views in ours.items():
                own = milliseconds(partial(views, scan, np.random.RandomState(turn + 1)))
                slow = name == "paper, with bands" and turn > 1  # seconds each: a few will do
                theirs = None if slow else milliseconds(partial(stock[name], hu))
                if turn >= 0:
                    spent[name][0].append(own)
                    spent[name][1].extend([] if theirs is None else [theirs])
    return {
        name: (
            statistics.median(own),
            statistics.median(theirs),
            WITH_BANDS_MS if name == "paper, with bands" else WITHOUT_BANDS_MS,
        )
        for name, (own, theirs) in spent.items()
    }


class Stock:
    """The same crops and changes as a chain of MONAI's transforms, one chain for each size."""

    def __init__(
        self,
        *,
        counts: tuple[int, int] = COUNTS,
        gamma: float,
        zoomed: bool = False,
        flips: tuple[int, ...] = (),
        noise: float = 0.0,
        energies: Energies | None = None,
    ) -> None:
        self.window = ScaleIntensityRange(a_min=-45, a_max=155, b_min=0, b_max=1, clip=True)
        self.chains = [
            Compose(
                [
                    *(zoomed_first(size) if zoomed else cropped_first(size)),
                    *([Bands(energies)] if energies is not None else []),
                    *(RandFlip(prob=0.5, spatial_axis=axis) for axis in flips),
                    RandAdjustContrast(prob=gamma, gamma=(1.8, 2.6)),
                    RandScaleIntensity(factors=0.1, prob=1.0),
                    RandShiftIntensity(offsets=0.2, prob=1.0),
                    *([RandGaussianNoise(prob=1.0, std=noise)] if noise else []),
                ]
            )
            for size, count in zip((LARGE, SMALL), counts, strict=True)
            for _ in range(count)
        ]

    def __call__(self, hu: torch.Tensor) -> list[torch.Tensor]:
        image = self.window(hu)
        return [chain(image) for chain in self.chains]


def zoomed_first(size: Size) -> list[Any]:
    """As the paper has it: the whole image at another scale, then the crop."""
    low, high = 48 / SHAPE[0], 107 / SHAPE[0]
    zoom = RandZoom(prob=1.0, min_zoom=low, max_zoom=high, mode="trilinear", keep_size=False)
    return [zoom, SpatialPad(size), RandSpatialCrop(size, random_size=False)]


def cropped_first(size: Size) -> list[Any]:
    """A crop of any size, brought to one."""
    return [
        RandSpatialCrop(roi_size=[n // 2 for n in size], max_roi_size=size, random_size=True),
        Resize(size, mode="trilinear"),
    ]


class Bands:
    """Eq. 8 on the crop itself with `GaussianSmooth`: less than ours does, which looks at the whole scan."""

    def __init__(self, energies: Energies) -> None:
        self.smooth = [GaussianSmooth(sigma=mm / SPACING_MM[0]) for mm in energies.sigmas_mm]
        self.reference = [row[0] for row in energies.mean["CT"]]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        levels = [image] + [smooth(image) for smooth in self.smooth]
        bands = [fine - coarse for fine, coarse in pairwise(levels)] + [levels[-1]]
        scaled = [band * (energy / band.std()) for band, energy in zip(bands, self.reference, strict=True)]
        return torch.stack(scaled).sum(dim=0)


def stored_ct(folder: Path) -> StoredScan:
    """A scan of noise around a ball of tissue in a bone shell, read from a store."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    hu = np.where(radius < 0.8, 35.0, np.where(radius < 0.9, 900.0, -1000.0))
    hu += np.random.default_rng(0).normal(0, 8, SHAPE)
    (folder / "in").mkdir()
    nib.save(
        nib.Nifti1Image(hu.round().astype(np.int16), np.diag([*SPACING_MM, 1.0])), str(folder / "in" / "ball.nii.gz")
    )
    prepare([folder / "in"], folder / "store")
    store = Store.open(folder / "store")
    return store.scan(store.columns("id")["id"][0].as_py())


def milliseconds(act: Callable[[], object]) -> float:
    """Of the processor: what else the machine does takes no part."""
    start = time.process_time()
    act()
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    main()
