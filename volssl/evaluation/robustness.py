"""How far an answer moves when the image changes a little, and what that costs (Ghesu et al. 2022, Fig. 7).

A number of cases, each changed a number of times in each way; the draws are the same for every network that is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.evaluation.metrics import roc_auc
from volssl.tasks.base import Task
from volssl.tasks.views import move_in_plane

FLOOR = 1e-6  # a probability below is taken for it, so that a relative change is finite


@dataclass(frozen=True)
class Perturbation:
    """One way in which scans of the same patient differ.

    Attributes:
        name: what people call it.
        low, high: strength is drawn uniformly between them.
        unit: of the strength.
        apply: the image (C, R, A, S) in [0, 1], the strength, voxel sizes in mm and a generator -> the changed image.
    """

    name: str
    low: float
    high: float
    unit: str
    apply: Callable[[Tensor, float, tuple[float, float, float], torch.Generator], Tensor]

    def __str__(self) -> str:
        return f"{self.name.lower()} {self.low:g} to {self.high:g}{self.unit}".replace("-", "−")


def gamma(image: Tensor, exponent: float) -> Tensor:
    """Every value to the power of `exponent`: the paper's non-linear rescaling, without an inverse."""
    return image.clamp(0, 1).pow(exponent)


def noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise of a standard deviation, held to [0, 1]."""
    return (image + sigma * torch.randn(image.shape, generator=generator)).clamp(0, 1)


def thick_slices(image: Tensor, factor: float) -> Tensor:
    """The scan as slices `factor` times as thick show it: means over their thickness, brought back to the grid."""
    channels, r, a, s = image.shape
    columns = image.reshape(1, channels * r * a, s)
    thick = functional.interpolate(area_means(columns, max(1, round(s / factor))), size=s, mode="linear")
    return thick.reshape(channels, r, a, s)


def area_means(columns: Tensor, count: int) -> Tensor:
    """(1, N, S) -> (1, N, count): means over `count` stretches of equal length, voxels on an edge shared."""
    size = columns.shape[2]
    edges = torch.linspace(0, size, count + 1, dtype=torch.float64)
    start = torch.arange(size, dtype=torch.float64)[:, None]
    weights = (torch.minimum(start + 1, edges[1:]) - torch.maximum(start, edges[:-1])).clamp(min=0)  # (S, count)
    means: Tensor = columns @ (weights * count / size).to(columns.dtype)
    return means


PERTURBATIONS: tuple[Perturbation, ...] = (
    Perturbation("Gamma", 1.8, 2.6, "", lambda image, x, _, __: gamma(image, x)),
    Perturbation(
        "Rotation",
        -20,
        20,
        "°",
        lambda image, x, mm, _: move_in_plane(image, angle_deg=x, zoom=1.0, shift=(0, 0), aspect=mm[0] / mm[1]),
    ),
    Perturbation(
        "Scaling",
        0.85,
        1.15,
        "×",
        lambda image, x, mm, _: move_in_plane(image, angle_deg=0.0, zoom=x, shift=(0, 0), aspect=mm[0] / mm[1]),
    ),
    Perturbation("Noise", 0.02, 0.1, " of the window", lambda image, x, _, generator: noise(image, x, generator)),
    Perturbation("Slice thickness", 1.2, 3, "×", lambda image, x, _, __: thick_slices(image, x)),
)


@torch.no_grad()
def perturbed_answers(
    network: nn.Module,
    task: Task,
    images: Sequence[Tensor],
    *,
    output: str,
    draws: int = 50,
    perturbations: Sequence[Perturbation] = PERTURBATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Ask a network about each case as it is, and changed.

    Args:
        network: returns logits (B, T); it is left in the mode it was in.
        task: makes probabilities of them.
        images: the network's input (C, R, A, S) of each case, in [0, 1].
        output: of the task, with one probability a volume.
        draws: times that each case is changed in each way.
        seed: of the strengths; those of a case depend on its place alone.

    Returns:
        A row a case, perturbation and draw: `case`, `perturbation`, `strength`, `before`, `after`.
    """
    device, spacing_mm = next(network.parameters()).device, task.contract.spacing_mm

    def probabilities(batch: Tensor) -> np.ndarray[Any, Any]:
        return task.predictions(network(batch.to(device)).float().cpu())[output].numpy().astype(np.float64)

    was_training, tables = network.training, []
    network.eval()
    try:
        for case, image in enumerate(images):
            before = float(probabilities(image[None])[0])
            for place, way in enumerate(perturbations):
                rng = np.random.default_rng((seed, case, place))
                strengths = rng.uniform(way.low, way.high, size=draws)
                generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
                changed = [way.apply(image, float(strength), spacing_mm, generator) for strength in strengths]
                told = {"case": case, "perturbation": way.name, "strength": strengths, "before": before}
                tables.append(pd.DataFrame(told | {"after": probabilities(torch.stack(changed))}))
    finally:
        network.train(was_training)
    return pd.concat(tables, ignore_index=True)


def relative_change(answers: pd.DataFrame) -> pd.Series:
    """(after − before) / before of each row, in per cent: the paper's relative deviation."""
    before = answers["before"].clip(lower=FLOOR)
    return 100 * (answers["after"] - before) / before


def auc_lost(answers: pd.DataFrame) -> dict[str, float]:
    """By perturbation: the AUC of the cases as they are, less the mean AUC over the draws; NaN with one class.

    Args:
        answers: of one network, with the label `y` of each case.
    """
    lost = {}
    for name, rows in answers.groupby("perturbation", sort=False):
        by_draw = rows.assign(draw=rows.groupby("case").cumcount())
        areas = [area(draw, "after") for _, draw in by_draw.groupby("draw")]
        lost[str(name)] = area(by_draw[by_draw["draw"] == 0], "before") - float(np.mean(areas))
    return lost


def area(cases: pd.DataFrame, score: str) -> float:
    """The AUC of a column of scores."""
    return float(roc_auc(cases["y"].to_numpy(float), cases[score].to_numpy(float)))


def balanced_cases(y: pd.Series, cases: int) -> list[Any]:
    """The index of so many cases, half of them positive where there are enough, evenly spread over the table."""
    chosen: list[Any] = []
    positives = min(cases // 2, int((y == 1).sum()))
    positives = max(positives, min(cases - int((y == 0).sum()), int((y == 1).sum())))
    for label, count in ((1, positives), (0, cases - positives)):
        known = y.index[y == label]
        places = np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))
        chosen += list(known[places]) if len(known) else []
    return chosen
