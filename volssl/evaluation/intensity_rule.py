"""The simplest classifier there is: the share of voxels in a band of intensity, band and place chosen by labels.

The place is the whole image, or what lies at least so deep under the surface in its slice: on head CT, inside of the
skull. A network that does not beat it has learnt nothing that a histogram does not show.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage
from torch import Tensor

from volssl.evaluation.metrics import Floats, roc_auc
from volssl.evaluation.predictions import entries_of, is_by_entry

BINS = 32  # of intensities in [0, 1]
DEPTHS = (0.0, 0.15, 0.25, 0.35)  # least distance to the surface within a slice, of the greatest in the volume
TISSUE = 0.1  # values above it, and what they enclose, are the body


@dataclass(frozen=True)
class Rule:
    """`More voxels of channel c within [low, high) mean positive`, or fewer.

    Attributes:
        channel: of the network's input.
        low, high: edges of the band, in 1/32 of the input's range; 0 to t is below a threshold, t to 1 above it.
        depth: one of DEPTHS; 0 is the whole image, air included.
        more: whether more voxels there are a sign of a positive; else fewer are.
        auc: on the cases that it was chosen on.
    """

    channel: int
    low: float
    high: float
    more: bool
    depth: float
    auc: float

    def __str__(self) -> str:
        where = f", {100 * self.depth:g} % deep or more" if self.depth else ""
        return f"{'more' if self.more else 'fewer'} voxels from {self.low:.3g} to {self.high:.3g} of the window{where}"

    def score(self, counts: npt.NDArray[Any]) -> Floats:
        """Counts (..., depths, C, bins) -> scores (...) in [0, 1], higher for positive."""
        counts = counts[..., DEPTHS.index(self.depth), self.channel, :]
        inside = counts[..., round(self.low * BINS) : round(self.high * BINS)].sum(axis=-1)
        share: Floats = inside / np.maximum(counts.sum(axis=-1), 1)
        return share if self.more else 1 - share


def intensity_counts(image: Tensor) -> npt.NDArray[np.int32]:
    """The network's input (C, R, A, S) of values in [0, 1] -> voxels (S, depths, C, bins) of each slice.

    A value of 1 is in the last bin. How deep a voxel lies, the first channel says.
    """
    clipped = np.clip(image.numpy(), 0, 1)
    values = np.minimum(clipped * BINS, BINS - 1).astype(np.int64)  # (C, R, A, S)
    channels, slices = values.shape[0], values.shape[3]
    depth = depth_in_slice(clipped[0])
    place = np.arange(slices) * channels + np.arange(channels)[:, None, None, None]
    cells = place * BINS + values
    counted = [np.bincount(cells[:, depth >= least].ravel(), minlength=slices * channels * BINS) for least in DEPTHS]
    return np.stack(counted).reshape(len(DEPTHS), slices, channels, BINS).swapaxes(0, 1).astype(np.int32)


def depth_in_slice(values: npt.NDArray[Any]) -> Floats:
    """Distance (R, A, S) to the body's surface within the slice, as a share of the greatest; 0 outside of the body."""
    body = np.pad(values > TISSUE, ((1, 1), (1, 1), (0, 0)))  # the box's border is a surface too
    body = np.stack([ndimage.binary_fill_holes(body[:, :, s]) for s in range(body.shape[2])], axis=2)
    within = np.stack([ndimage.distance_transform_edt(body[:, :, s]) for s in range(body.shape[2])], axis=2)
    shares: Floats = within[1:-1, 1:-1] / max(float(within.max()), 1.0)
    return shares


def choose_rule(y: Floats, counts: npt.NDArray[Any]) -> Rule:
    """The rule of highest AUC; of several the band that is widest, then the lowest, then the largest place.

    Args:
        y: labels (n,), 0 or 1.
        counts: (n, depths, C, bins).

    Raises:
        ValueError: where the cases are of one class.
    """
    if len(set(y)) < 2:
        raise ValueError("the cases are all of one class: no rule can be chosen by them")
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    sums = np.concatenate([np.zeros((*shares.shape[:-1], 1)), np.cumsum(shares, axis=-1)], axis=-1)  # bins + 1
    best = Rule(0, 0.0, 1.0, True, DEPTHS[0], 0.5)
    places = list(itertools.product(range(len(DEPTHS)), range(shares.shape[2])))
    for width in range(BINS - 1, 0, -1):
        for low in range(BINS - width + 1):
            for depth, channel in places:
                band = sums[:, depth, channel, low + width] - sums[:, depth, channel, low]
                # Sums of shares differ in their last digit where counts do not: rounded, they tie as counts do.
                area = float(roc_auc(y, np.round(band, 12)))
                sure = max(area, 1 - area)
                if sure > best.auc + 1e-9:
                    best = Rule(channel, low / BINS, (low + width) / BINS, area >= 0.5, DEPTHS[depth], sure)
    return best


def rule_predictions(
    training: pd.DataFrame, table: pd.DataFrame, counts: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, Rule]]:
    """Choose a rule for each output on training cases, and score others with it.

    Args:
        training: `id` and `y_<output>`, lists where an output is answered by slice.
        table: a table of predictions, whose `p_<output>` are replaced; where a slice has none it stays without.
        counts: of each volume (S, depths, C, bins), as `intensity_counts` gives them.
        outputs: names of the outputs; one whose training cases are of one class scores .5 throughout.

    Returns:
        The table with the rules' scores, and the rules by output.
    """
    scored, rules = table.copy(), {}
    for output in outputs:
        by_slice = is_by_entry(table, output)
        y, known = _cases(training, counts, output, by_slice=by_slice)
        if len(set(y)) < 2:
            scored[f"p_{output}"] = [_half(cell) for cell in table[f"p_{output}"]]
            continue
        rule = rules[output] = choose_rule(y, known)
        scores = [rule.score(counts[key] if by_slice else counts[key].sum(axis=0)) for key in table["id"]]
        cells = [
            np.where(np.isnan(np.asarray(cell, dtype=float)), np.nan, score).tolist() if by_slice else float(score)
            for cell, score in zip(table[f"p_{output}"], scores, strict=True)
        ]
        scored[f"p_{output}"] = pd.Series(cells, index=table.index)
    return scored, rules


def _cases(
    training: pd.DataFrame, counts: Mapping[str, npt.NDArray[Any]], output: str, *, by_slice: bool
) -> tuple[Floats, npt.NDArray[Any]]:
    """Known labels (n,) and their counts (n, depths, C, bins): of volumes, or of all slices laid end to end."""
    of_volumes = [counts[key] for key in training["id"]]
    if by_slice:
        rows = [row | {f"p_{output}": np.zeros(len(c))} for row, c in zip(_rows(training), of_volumes, strict=True)]
        y = np.concatenate([entries_of(row, output)[0] for row in rows])
        stacked = np.concatenate(of_volumes)
    else:
        y = training[f"y_{output}"].to_numpy(dtype=np.float64)
        stacked = np.stack([c.sum(axis=0) for c in of_volumes])
    known = ~np.isnan(y)
    return y[known], stacked[known]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _half(cell: Any) -> Any:
    return [0.5] * len(cell) if isinstance(cell, list | tuple | np.ndarray) else 0.5
