"""Pictures of what a method makes of its last batch, beside what it should have made, after every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from ignite.engine import Events
from torch import Tensor

from volssl.engine.distributed import rank

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer

matplotlib.use("Agg")
from matplotlib import pyplot

FILE = "last_batch.png"
INCHES = 1.9  # of a picture's longer side
TITLES_INCHES = 0.5


class SavePictures:
    """`figures/last_batch.png`, new after every epoch, for a method that has pictures; nothing for another.

    Args:
        spacing_mm: of the crops, along R, A, S, so that a voxel is shown in its proportions.
        samples: of a batch that are shown.
    """

    def __init__(self, *, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), samples: int = 3) -> None:
        self.spacing_mm, self.samples = spacing_mm, samples

    def attach(self, engine: MethodTrainer) -> None:
        if rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: MethodTrainer) -> None:
        batch = {
            name: value[: self.samples].to(engine.state.device)
            for name, value in engine.state.batch.items()
            if isinstance(value, Tensor)
        }
        # a combined method whose parts join crops makes more rows of a sample than one
        shown = {name: volumes[: self.samples] for name, volumes in engine.method.pictures(batch).items()}
        if shown:
            title = f"epoch {engine.state.epoch}: the middle slices, as the network sees them"
            path = engine.run_dir / "figures" / FILE
            save_pictures(shown, path, spacing_mm=self.spacing_mm, title=title)


def save_pictures(
    volumes: Mapping[str, Tensor], path: Path, *, spacing_mm: tuple[float, float, float], title: str
) -> None:
    """A column for each name, two rows for each sample: its middle axial and its middle coronal slice.

    Shown as radiologists do, the patient's right on the left, anterior or superior up, black at 0 and white at 1: what
    the window leaves of the first channel.

    Args:
        volumes: (B, C, R, A, S) each.
        path: of the PNG.
        spacing_mm: voxel size along R, A, S.
        title: above the pictures.
    """
    samples = len(next(iter(volumes.values())))
    extents = [n * mm for n, mm in zip(next(iter(volumes.values())).shape[2:], spacing_mm, strict=True)]
    inch = INCHES / max(extents)
    heights = [extents[1] * inch, extents[2] * inch] * samples
    high = sum(heights) * 1.05 + TITLES_INCHES
    figure, axes = pyplot.subplots(
        2 * samples,
        len(volumes),
        figsize=(extents[0] * inch * len(volumes) * 1.05, high),
        gridspec_kw={"height_ratios": heights, "hspace": 0.05, "wspace": 0.05}
        | {"left": 0, "right": 1, "bottom": 0, "top": 1 - TITLES_INCHES / high},
        squeeze=False,
    )
    for column, (name, volume) in enumerate(volumes.items()):
        axes[0][column].set_title(name, fontsize=9)
        for sample in range(samples):
            shown = slices(volume[sample, 0].detach().float().cpu().numpy(), spacing_mm)
            for row, (picture, aspect) in enumerate(shown):
                axis = axes[2 * sample + row][column]
                axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect)
                axis.set_axis_off()
    figure.suptitle(title, fontsize=9, y=1, va="top")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)


def slices(volume: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[tuple[np.ndarray, float]]:
    """The middle axial and coronal slice of (R, A, S), rows from the top, and how high a pixel is for its width."""
    r_mm, a_mm, s_mm = spacing_mm
    axial, coronal = volume[:, :, volume.shape[2] // 2], volume[:, volume.shape[1] // 2]
    return [(axial[::-1, ::-1].T, a_mm / r_mm), (coronal[::-1, ::-1].T, s_mm / r_mm)]
