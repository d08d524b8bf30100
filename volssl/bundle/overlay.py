"""`volssl predict --overlay`: where the network looked, as a volume on the study's own grid and as a picture."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from volssl.bundle.answers import Answer, AnswerWriter
from volssl.bundle.metadata import BundleFacts
from volssl.bundle.saliency import Saliency, on_study, saliency
from volssl.data.unforeseen import unforeseen
from volssl.evaluation.overlay import COLORS, opacity
from volssl.files import write_bytes
from volssl.progress import say
from volssl.transforms.head_box import BoxInfo

VOLUME, PICTURE = "-saliency.nii.gz", "-saliency.png"
ROWS, COLUMNS = 3, 4
SIMULATED = {
    True: "SIMULATED TRAINING DATA. ",
    False: "",
    None: "Whether the training data were simulated is not recorded. ",
}
MARKS = {  # for the 80 bytes that a NIfTI header has
    True: "SIMULATED TRAINING DATA. Research software, no medical device.",
    False: "Research software, no medical device.",
    None: "Training data not recorded. Research software, no medical device.",
}


class Overlays:
    """Write a NIfTI and a PNG beside each answer; neither holds more of the study than its key.

    Args:
        network: that answers.
        writer: of the answers; this handler is attached after it.
    """

    def __init__(self, *, network: nn.Module, writer: AnswerWriter) -> None:
        self.network, self.writer = network, writer

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        batch, facts, answer = engine.state.batch, self.writer.facts, self.writer.latest
        if answer is None:
            return
        try:
            column = int(np.argmax(list(answer.content["volume"].values())))
            with torch.enable_grad():
                found = saliency(self.network, batch["image"].to(engine.state.device), column)
            laid = on_study(found.grid, BoxInfo.from_dict(batch["image_box"]))
            volume = volume_file(laid, batch["volume"].affine, MARKS[facts.simulated])
            shown = picture(batch["image"][0, 0].cpu(), found, facts=facts, answer=answer, column=column)
        except Exception as error:  # noqa: BLE001  (one study; the others go on)
            self.writer.lacking.append((answer.study, unforeseen(error, "Drawing its overlay").sentence))
            return
        if not found.grid.any():
            say(f"{answer.path.stem}: nothing in the scan speaks for {facts.labels[column]}; its overlay is empty")
        write_bytes(beside(answer.path, VOLUME), volume)
        write_bytes(beside(answer.path, PICTURE), shown)


def beside(path: Path, ending: str) -> Path:
    """The answer's name with another ending."""
    return path.with_name(f"{path.stem}{ending}")


def volume_file(values: Tensor, affine: np.ndarray, mark: str) -> bytes:
    """A float32 NIfTI in RAS millimetres, packed, whose header says nothing but geometry and the mark.

    Args:
        mark: at most 79 bytes.
    """
    image = nib.Nifti1Image(values.numpy(), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = mark
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    held = io.BytesIO()
    # without a name and a time in gzip's own header
    with gzip.GzipFile(filename="", fileobj=held, mode="wb", mtime=0) as packed:
        packed.write(image.to_bytes())
    return held.getvalue()


def picture(image: Tensor, found: Saliency, *, facts: BundleFacts, answer: Answer, column: int) -> bytes:
    """A PNG: twelve axial slices of the network's input from inferior to superior, saliency over them, a legend.

    Args:
        image: (R, A, S), the first channel of what the network was fed.
        column: of the output that the saliency is of.
    """
    _, a, s = image.shape
    extent_mm = [n * mm for n, mm in zip(image.shape, facts.contract.spacing_mm, strict=True)]
    places = np.unique(((np.arange(ROWS * COLUMNS) + 0.5) * s / (ROWS * COLUMNS)).astype(int))
    most = int(found.grid.amax(dim=(0, 1)).argmax())
    places[np.abs(places - most).argmin()] = most  # the slice with the largest value is among them
    empty = not bool(found.grid.any())
    figure = Figure(figsize=(11, 2.6 * ROWS * extent_mm[1] / extent_mm[0] + 1.3), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    top, bottom = 0.87, 0.06
    grid = figure.add_gridspec(ROWS, COLUMNS, top=top, bottom=bottom, left=0.02, right=0.88, hspace=0.12, wspace=0.04)
    for index, place in enumerate(places):
        axes = figure.add_subplot(grid[index // COLUMNS, index % COLUMNS])
        draw_slice(
            axes, image[:, :, place], found.grid[:, :, place], aspect=extent_mm[1] / a * image.shape[0] / extent_mm[0]
        )
        axes.set_title(
            f"slice {place + 1} of {s}{', the largest' if place == most and not empty else ''}", fontsize=8, pad=2
        )
    legend = figure.add_axes((0.905, 0.2, 0.018, 0.5))
    figure.colorbar(ScalarMappable(Normalize(0, 1), COLORS), cax=legend).ax.tick_params(labelsize=8)
    legend.set_ylabel("part of the largest value in this scan", fontsize=8)
    name = facts.labels[column]
    probability = list(answer.content["volume"].values())[column]
    figure.text(
        0.02,
        0.965,
        f"{'Nothing' if empty else 'What'} spoke for {name}: probability {probability:.3f}",
        fontsize=13,
        weight="bold",
    )
    figure.text(
        0.02, 0.94, f"{SIMULATED[facts.simulated]}Research software, no medical device.", fontsize=9, color="#b3261e"
    )
    figure.text(0.02, 0.915, f"{found.method}. A hint at what the network used, no outline of a finding.", fontsize=8)
    figure.text(
        0.02,
        0.02,
        "Axial slices of the network's input, inferior to superior; the patient's right on the left, anterior above.",
        fontsize=8,
    )
    held = io.BytesIO()
    figure.savefig(held, format="png", metadata={"Software": None})
    return held.getvalue()


def draw_slice(axes: Any, image: Tensor, over: Tensor, *, aspect: float) -> None:
    """One slice (R, A) in grey, and over it what is salient, the more the less one sees through it."""
    axes.imshow(image.T.flip(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, aspect=aspect)
    values = over.T.flip(0, 1).numpy()
    axes.imshow(values, cmap=COLORS, vmin=0, vmax=1, alpha=opacity(values), aspect=aspect, interpolation="bilinear")
    axes.set_axis_off()
