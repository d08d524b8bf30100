"""A picture of what the network is fed: a few head boxes, each as three cuts through its middle."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.image import imsave
from skimage.transform import resize
from skimage.util import montage
from torch import Tensor

from volssl.files import write_atomically
from volssl.tasks.views import TaskViews
from volssl.views.base import Scan

HEIGHT = 160  # pixels of a cut


def write_montage(images: Sequence[Tensor], path: Path, *, spacing_mm: tuple[float, float, float]) -> Path:
    """Write a PNG, two cases a row: the axial, coronal and sagittal middle slice of each, in true proportions.

    The patient's right is on the left of axial and coronal cuts, anterior on the right of sagittal ones.

    Args:
        images: (1, R, A, S) each, in [0, 1], all of one grid.
        path: of the PNG.
        spacing_mm: of the grid.

    Raises:
        ValueError: where there is no image.
    """
    if not images:
        raise ValueError("a montage needs at least one image")
    cuts = [cut for image in images for cut in middle_cuts(image, spacing_mm)]
    side = tuple(max(cut.shape[axis] for cut in cuts) for axis in (0, 1))
    framed = [np.pad(cut, [(0, n - m) for n, m in zip(side, cut.shape, strict=True)]) for cut in cuts]
    picture = montage(
        np.stack(framed), grid_shape=(ceil(len(images) / 2), 6 if len(images) > 1 else 3), padding_width=2, fill=0.3
    )
    png = BytesIO()
    imsave(png, picture, format="png", cmap="gray", vmin=0, vmax=1)
    write_atomically(path, lambda file: file.write(png.getvalue()))
    return path


def middle_cuts(image: Tensor, spacing_mm: tuple[float, float, float]) -> list[np.ndarray]:
    """(1, R, A, S) -> axial, coronal and sagittal pictures (rows, columns), `HEIGHT` pixels for the tallest extent."""
    volume = image[0].numpy()
    extent_mm = [n * mm for n, mm in zip(volume.shape, spacing_mm, strict=True)]
    pixels = [round(HEIGHT * mm / max(extent_mm)) for mm in extent_mm]
    cuts = []
    for across, (columns, rows) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        cut = volume.take(volume.shape[across] // 2, axis=across)  # (columns, rows): the lower axis comes first
        upright = cut.T[::-1]  # superior or anterior on top
        mirrored = upright[:, ::-1] if columns == 0 else upright  # R grows to the right: the patient's right is left
        cuts.append(resize(mirrored, (pixels[rows], pixels[columns]), order=1, anti_aliasing=False))
    return cuts


def write_input_montage(views: TaskViews, scans: Sequence[Scan], run: str | Path, *, most: int = 8) -> Path:
    """Write `figures/input.png` into a run: what the network is fed of the first scans, before random changes."""
    images = [views.preprocessed(scan)[0] for scan in scans[:most]]
    return write_montage(images, Path(run) / "figures" / "input.png", spacing_mm=views.task.contract.spacing_mm)
