"""What an encoder makes of scans, as a table of numbers: the frozen features that probes and neighbours look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from volssl.progress import track
from volssl.tasks.inference import labels_of
from volssl.tasks.views import TaskViews
from volssl.views.base import Scan

if TYPE_CHECKING:
    from volssl.encoders.base import Encoder

Features = npt.NDArray[np.float32]
Labels = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of labelled scans.

    Attributes:
        features: (N, dim).
        labels: (N,) for each output of the task that is one number: 0, 1, or NaN where it is unknown.
    """

    features: Features
    labels: dict[str, Labels]


def pooled_features(
    encoder: Encoder, scans: Sequence[Scan], views: TaskViews, *, batch_size: int = 16
) -> LabelledFeatures:
    """Encode scans as the task preprocesses them, without random changes and without gradient, in float32.

    Nothing is drawn, and each module is left in the mode that it was in: training goes on as if nobody had looked. A
    compiled encoder runs as it was written, for these sizes would be compiled anew.

    Args:
        encoder: its pooled features are taken; batch normalisation uses its running averages.
        scans: one row each.
        views: preprocess a scan, through their cache where they have one; with labels, the result has them too.
        batch_size: scans at once; it changes no feature.

    Raises:
        ValueError: for views that draw random changes.
    """
    if views.train:
        raise ValueError("features are taken from views without random changes: TaskViews(..., train=False)")
    targets: list[dict[str, Tensor]] = []

    def image_of(scan: Scan) -> Tensor:
        sample = views(scan, np.random.RandomState(0))
        targets.append({name: value for name, value in sample.items() if name == "target"})
        return sample["image"]

    features = encode(encoder, scans, image_of, batch_size=batch_size)
    labels = labels_of(views.task, targets)
    single = {name: value for name, value in labels[0].items() if isinstance(value, float)} if labels else {}
    return LabelledFeatures(
        features=features,
        labels={name.removeprefix("y_"): np.array([one[name] for one in labels], dtype=np.float64) for name in single},
    )


def encode(
    encoder: Encoder, scans: Sequence[Scan], image_of: Callable[[Scan], Tensor], *, batch_size: int = 16
) -> Features:
    """The pooled features (N, dim) of what `image_of` makes of each scan; see `pooled_features`."""
    device = next(encoder.parameters()).device
    rows: list[Tensor] = []
    with (
        evaluating(encoder),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.compiler.set_stance("force_eager"),
    ):
        starts = range(0, len(scans), batch_size)
        for start in track(starts, "encoding", len(starts)):
            images = torch.stack([image_of(scan) for scan in scans[start : start + batch_size]]).to(device)
            rows.append(encoder.pooled(images).float().cpu())
    features: Features = torch.cat(rows).numpy()
    return features


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; after it each module has its own mode again, frozen parts of a training network too."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
