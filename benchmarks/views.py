"""Do views erase the disease? The share of crop pairs in which both keep the lesion, from simulated lesion masks.

    python benchmarks/views.py                      # 40 heads with a hemorrhage, some ten minutes on one core
    python benchmarks/views.py --heads 100 --draws 8

A crop *holds* a lesion when at least half of its voxels, or of its largest component, lie inside. It *keeps* the lesion
when it holds it and the lesion's contrast in the finished crop (its mean against that of the tissue within 6 mm) is at
least half of what it is in the windowed scan: neither blurred away, nor darkened into the floor of the window.
Noise does not count. Heads are simulated, with pixels of 0.9 mm: a coarse crop loses contrast against those.

Pairs: a large with a small crop, two small ones, and every pair that SwAV compares with `assigned: [0, 1]`, that is
crop 0 and crop 1 each with every other crop.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from volssl.data.checks import foreground
from volssl.data.scans import MemoryScan
from volssl.progress import track
from volssl.simulate.head_ct import simulate_head
from volssl.transforms.resample import FloatBox
from volssl.transforms.window import window
from volssl.views import MultiCrop, generic, paper
from volssl.views.cropper import needed, resample_part
from volssl.views.energies import reference_energies
from volssl.views.multicrop import Crop

WINDOW_HU = (55.0, 200.0)
PIXEL_MM = 0.9  # half of a scanner's matrix: 236 × 276; the paper's fraction of 512 is doubled for it
FRACTION = (0.2, 1.4)
RING_MM, CONTRAST_KEPT, HELD = 6.0, 0.5, 0.5
COLUMNS = ("large", "small", "large-small", "small-small", "loss pairs")


@dataclass(frozen=True)
class Case:
    """A simulated head, where its lesion is and what it stands out from; masks are (1, R, A, S) float32."""

    scan: MemoryScan
    lesion: Tensor
    ring: Tensor
    components: list[np.ndarray]  # voxels of the whole lesion and of its largest component, (n, 3) each
    contrast: float
    millilitres: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--heads", type=int, default=40, help="simulated heads with a hemorrhage")
    options.add_argument("--draws", type=int, default=4, help="samples of views of each head")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    cases = [case(seed) for seed in track(range(chosen.heads), "Heads")]
    small = sorted(c.millilitres for c in cases)
    print(
        f"{len(cases)} simulated hemorrhages of {small[0]:.1f} to {small[-1]:.0f} ml, median {np.median(small):.0f} ml"
    )
    print(
        f"{'':32}" + "".join(f"{column:>13}" for column in COLUMNS) + "    (of them held, changes of intensity aside)"
    )
    for name, views in presets(cases).items():
        kept, held = shares(views, cases, chosen.draws, name)
        print(f"{name:32}" + "".join(f"{a:7.0%} ({b:3.0%})" for a, b in zip(kept, held, strict=True)))


def presets(cases: list[Case]) -> dict[str, MultiCrop]:
    """The presets as their configs have them."""
    energies = reference_energies([c.scan for c in cases], windows_hu=WINDOW_HU)
    coarse_mm = (3.5, 3.5, 7.0)  # `volssl demo`
    fields = {"sizes": ((192, 224, 40), (96, 112, 20)), "spacing_mm": (0.875, 0.875, 3.5)}
    return {
        "paper": paper(fraction=FRACTION, energies=energies),
        "generic": generic(),
        "generic, fields of MultiCrop": generic(zoom=((0.8, 1.1), (1.2, 1.6)), **fields),
        "MultiCrop": MultiCrop(),
        "MultiCrop, paper's intensities": MultiCrop(gamma_probability=0.5, scale=(0.9, 1.1), shift=(-0.2, 0.2)),
        "MultiCrop, small crops finer": MultiCrop(zoom=((0.8, 1.1), (0.6, 1.0))),
        "MultiCrop at 3.5 mm": MultiCrop(sizes=((48, 56, 20), (24, 28, 10)), spacing_mm=coarse_mm),
        "  and small crops of 32×38×14": MultiCrop(
            sizes=((48, 56, 20), (32, 38, 14)), zoom=((0.8, 1.1), (0.9, 1.2)), spacing_mm=coarse_mm
        ),
    }


def shares(views: MultiCrop, cases: list[Case], draws: int, name: str) -> tuple[list[float], list[float]]:
    """Of each column, the share of crops or pairs that keep the lesion, and the share that hold it."""
    kept, held = [], []
    for c in track(cases, name):
        for draw in range(draws):
            crops = views.draw(c.scan, np.random.RandomState([draw, int(c.millilitres * 1e3)]))
            inside = [holds(crop.box, c) for crop in crops]
            made = views.make(c.scan, crops)
            seen = [here and shown(image, crop, c) for here, image, crop in zip(inside, made, crops, strict=True)]
            held.append(inside)
            kept.append(seen)
    return columns(np.array(kept), views.counts[0]), columns(np.array(held), views.counts[0])


def columns(kept: np.ndarray, large: int) -> list[float]:
    """(samples, crops) of bool -> the figures of `COLUMNS`."""
    crops = kept.shape[1]

    def both(pairs: Iterator[tuple[int, int]]) -> float:
        return float(np.mean([kept[:, i] & kept[:, j] for i, j in pairs]))

    return [
        float(kept[:, :large].mean()),
        float(kept[:, large:].mean()),
        both((i, j) for i in range(large) for j in range(large, crops)),
        both((i, j) for i in range(large, crops) for j in range(i + 1, crops)),
        both((i, j) for i in (0, 1) for j in range(crops) if j != i),
    ]


def holds(box: FloatBox, c: Case) -> bool:
    """Whether at least half of the lesion, or of its largest component, lies inside of a box."""
    low, high = np.array(box).T
    return any(((low <= at + 0.5) & (at + 0.5 < high)).all(axis=1).mean() >= HELD for at in c.components)


def shown(image: Tensor, crop: Crop, c: Case) -> bool:
    """Whether the finished crop shows the lesion with enough of its contrast."""
    size = (image.shape[1], image.shape[2], image.shape[3])
    voxels = needed(c.scan.shape, crop.box, size)
    part = tuple(slice(*side) for side in voxels)
    lesion, ring = (
        resample_part(mask[(slice(None), *part)], voxels, crop.box, size).flip(crop.flips)
        for mask in (c.lesion, c.ring)
    )
    return abs(contrast(image, lesion, ring)) >= CONTRAST_KEPT * c.contrast


def contrast(image: Tensor, lesion: Tensor, ring: Tensor) -> float:
    """Mean of the lesion less that of what is around it, each voxel counted by the share of it that is either."""
    inside, around = ((image * mask).sum() / mask.sum().clamp(min=1e-6) for mask in (lesion, ring))
    return float(inside - around)


def case(seed: int) -> Case:
    """A simulated head with a hemorrhage."""
    head = simulate_head(seed, spacing_mm=PIXEL_MM, hemorrhage=True)
    blood = head.mask > 0
    distance = ndimage.distance_transform_edt(~blood, sampling=head.spacing_mm)
    ring = (distance > 0) & (distance <= RING_MM) & head.cavity
    labels, count = ndimage.label(blood)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:])) if count else 1
    hu = torch.from_numpy(head.hu)[None]
    lesion, surround = (torch.from_numpy(mask.astype(np.float32))[None] for mask in (blood, ring))
    return Case(
        scan=MemoryScan(
            id=f"{seed:04d}",
            array=head.hu,
            spacing_mm=head.spacing_mm,
            affine=head.affine,
            modality="CT",
            foreground=foreground(head.hu, "CT"),
            path=Path(),
            source_format="simulated",
        ),
        lesion=lesion,
        ring=surround,
        components=[np.argwhere(blood), np.argwhere(labels == largest)],
        contrast=abs(contrast(window(hu, *WINDOW_HU), lesion, surround)),
        millilitres=float(blood.sum() * np.prod(head.spacing_mm) / 1000),
    )


if __name__ == "__main__":
    main()
