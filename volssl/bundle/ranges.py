"""What the training scans were like, and in what a scan is unlike them: geometry, values, and place among features.

The distance in feature space is Mahalanobis' (Lee et al. 2018, without their classes), the covariance that of
standardised features, shrunk (Ledoit and Wolf 2004): there are fewer scans than features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from volssl.transforms.crops import covering
from volssl.transforms.head_box import BoxInfo

TOLERANCE = 0.05  # by which a range of voxel sizes and fields of view may be left
HU_LIMITS = (-1024, 3071)  # beyond: padding and metal, which would drown the rest
LEAST_SPREAD = {"CT": 25.0, "MR": 0.02}  # in HU, and in parts of the network's range: as air differs among scanners
PERCENTILE = 97.5  # of the validation scans' distances: beyond it a scan is unlike the training data
LEAST_SCANS = 3  # whose features have a covariance
WHAT = {"mean": "mean", "p5": "5th percentile", "median": "median", "p95": "95th percentile"}

Range = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """One scan.

    Attributes:
        spacing_mm, extent_mm: voxel size and field of view along R, A, S.
        values: `mean`, `p5`, `median`, `p95` in the box: HU for CT, the network's input for MR.
        feature: (dim,) pooled by the encoder; None where it was not looked at.
    """

    spacing_mm: tuple[float, ...]
    extent_mm: tuple[float, ...]
    values: dict[str, float]
    feature: Tensor | None = None


@dataclass(frozen=True)
class TrainingRanges:
    """Lowest and highest value over the training volumes, along R, A, S.

    Attributes:
        spacing_mm: voxel size.
        extent_mm: field of view.
        volumes: how many there were.
        values: of each statistic of the box: lowest, highest, and standard deviation; empty where not measured.
        distance: in feature space, beyond which a scan is unlike them; None where not measured.
        features_sha256: of the bundle's file that holds the features' mean and precision; empty without.
    """

    spacing_mm: tuple[Range, Range, Range]
    extent_mm: tuple[Range, Range, Range]
    volumes: int
    values: dict[str, tuple[float, float, float]]
    distance: float | None = None
    features_sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TrainingRanges:
        """The inverse of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: for other values.
        """
        distance = values["distance"]
        if distance is not None and not math.isfinite(distance):
            raise ValueError(f"a distance of {distance}")
        return TrainingRanges(
            spacing_mm=as_range(values["spacing_mm"]),
            extent_mm=as_range(values["extent_mm"]),
            volumes=int(values["volumes"]),
            values={known(name): as_three(three) for name, three in values["values"].items()},
            distance=None if distance is None else float(distance),
            features_sha256=str(values["features_sha256"]),
        )

    def left_by(self, scan: Measured, *, modality: str, distance: float | None = None) -> list[str]:
        """A sentence for each range that a scan leaves: geometry by more than 5 %, values by a standard deviation."""
        sentences = []
        for what, found, ranges in (
            ("voxels measure", scan.spacing_mm, self.spacing_mm),
            ("the field of view measures", scan.extent_mm, self.extent_mm),
        ):
            for axis, value, (low, high) in zip("RAS", found, ranges, strict=True):
                if not low * (1 - TOLERANCE) <= value <= high * (1 + TOLERANCE):
                    known = written((low, high))
                    sentences.append(f"{what} {value:.4g} mm along {axis}, in the training data {known} mm")
        unit = " HU" if modality == "CT" else ""
        for name, (low, high, deviation) in self.values.items():
            margin = max(deviation, LEAST_SPREAD[modality])
            if not low - margin <= scan.values[name] <= high + margin:
                told = f"the {WHAT[name]} of the values in the box is {scan.values[name]:.4g}{unit}"
                sentences.append(f"{told}, in the training data {written((low, high))}{unit}")
        if distance is not None and self.distance is not None and not distance <= self.distance:
            sentences.append(
                f"its features lie {distance:.4g} from the middle of the training scans', usual are {self.distance:.4g}"
            )
        return sentences


@dataclass(frozen=True)
class FeatureSpace:
    """Where the features of the training scans lie.

    Attributes:
        mean: (dim,).
        precision: (dim, dim), the inverse of the shrunk covariance.
    """

    mean: Tensor
    precision: Tensor

    def distance(self, feature: Tensor) -> float:
        """Mahalanobis' distance of a feature (dim,)."""
        away = feature.double() - self.mean.double()
        return float((away @ self.precision.double() @ away).clamp(min=0).sqrt())


class PooledFeature:
    """Keeps the pooled feature of the volume that a network answers for: what its dropout is handed, or its answer.

    Of a network that scores slabs it is the mean over them; of one that also looks at the mirror image, that of the
    volume as it lies; an embedding is one itself.
    """

    def __init__(self, network: nn.Module) -> None:
        self.seen: list[Tensor] = []
        if hasattr(network, "dropout"):
            self.handle = network.get_submodule("dropout").register_forward_pre_hook(self.see_input)
        else:
            self.handle = network.register_forward_hook(self.see_answer)

    def see_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG002  (a hook)
        self.seen.append(inputs[0].detach().float().mean(dim=0).cpu())

    def see_answer(self, module: nn.Module, inputs: tuple[Tensor, ...], answer: Tensor) -> None:
        del inputs
        self.see_input(module, (answer,))

    def take(self) -> Tensor:
        """(dim,) of the volume since the last call."""
        first = self.seen[0]
        self.seen.clear()
        return first


def measure(
    read: Callable[[Any], np.ndarray],
    *,
    info: BoxInfo,
    image: Tensor,
    modality: str,
    feature: Tensor | None = None,
) -> Measured:
    """Measure a scan where the network looked at it.

    Args:
        read: gives a box of whole voxels of the scan, (..., R, A, S).
        info: where the box lies.
        image: (channels, *grid), what the network was fed.
    """
    if modality == "CT":
        values = np.clip(read(covering(info.box, info.scan_shape, (0.0, 0.0, 0.0))), *HU_LIMITS)
    else:
        values = image.cpu().numpy()
    low, middle, high = np.percentile(values, (5, 50, 95))
    found = {"mean": values.mean(dtype=np.float64), "p5": low, "median": middle, "p95": high}
    return Measured(
        spacing_mm=tuple(info.spacing_mm),
        extent_mm=tuple(n * mm for n, mm in zip(info.scan_shape, info.spacing_mm, strict=True)),
        values={name: float(value) for name, value in found.items()},
        feature=feature,
    )


def learn(
    training: Sequence[Measured], validation: Sequence[Measured], *, values: bool = True
) -> tuple[TrainingRanges, FeatureSpace | None]:
    """The ranges of the training scans, and the space of their features.

    Args:
        values: whether those in the box have a range: not where some are HU and others are not.

    Distances of scans that the network was trained on are smaller than of others. So the validation scans say how far
    is usual: 97.5 % of them are within it, and every training scan.
    """
    space, distance = None, None
    features = [scan.feature for scan in training if scan.feature is not None]
    if len(features) >= LEAST_SCANS:
        space = feature_space(torch.stack(features))
        apart = [space.distance(scan.feature) for scan in validation if scan.feature is not None]
        usual = np.percentile(apart, PERCENTILE, method="higher") if apart else 0.0
        distance = rounded(max(float(usual), *(space.distance(feature) for feature in features)) * (1 + 1e-3))
    return TrainingRanges(
        spacing_mm=span([scan.spacing_mm for scan in training]),
        extent_mm=span([scan.extent_mm for scan in training]),
        volumes=len(training),
        values={name: spread([scan.values[name] for scan in training]) for name in WHAT} if values else {},
        distance=distance,
    ), space


def feature_space(features: Tensor) -> FeatureSpace:
    """(N, dim) -> where they lie."""
    table = features.double().numpy()
    deviation = table.std(axis=0)
    deviation = np.maximum(deviation, max(0.01 * float(np.median(deviation)), 1e-6))  # some are nearly constant
    mean = table.mean(axis=0)
    found = LedoitWolf(assume_centered=True).fit((table - mean) / deviation)
    precision = found.precision_ / np.outer(deviation, deviation)
    return FeatureSpace(torch.from_numpy(mean).float(), torch.from_numpy(precision).float())


def span(rows: Sequence[Sequence[float]]) -> Any:
    """(N, 3) -> lowest and highest along each axis."""
    table = np.array(rows)
    return tuple((rounded(low), rounded(high)) for low, high in zip(table.min(axis=0), table.max(axis=0), strict=True))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Lowest, highest, standard deviation."""
    return rounded(min(values)), rounded(max(values)), rounded(float(np.std(values)))


def rounded(value: float) -> float:
    """To six decimals, for JSON."""
    return round(float(value), 6)


def written(pair: Range) -> str:
    """`3 to 5`, or `3`."""
    low, high = (f"{value:.4g}" for value in pair)
    return low if low == high else f"{low} to {high}"


def known(name: str) -> str:
    """The name of a statistic.

    Raises:
        KeyError: for another.
    """
    WHAT[name]
    return name


def as_range(pairs: Any) -> tuple[Range, Range, Range]:
    """Three pairs of numbers."""
    first, second, third = ((float(low), float(high)) for low, high in pairs)
    return first, second, third


def as_three(values: Any) -> tuple[float, float, float]:
    """Three numbers."""
    low, high, deviation = (float(value) for value in values)
    return low, high, deviation
