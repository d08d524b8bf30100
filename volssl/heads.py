"""Heads: what stands on an encoder while it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder, Size


def projection_head(in_dim: int, out_dim: int, hidden: int = 2048) -> nn.Sequential:
    """Linear, batch normalisation, ReLU, linear: SwAV's and SimCLR's projector. (B, in_dim) -> (B, out_dim)."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_dim)
    )


class SliceHead(nn.Module):
    """One logit a slice, from levels of an encoder's pyramid. Pyramid -> (B, slices).

    Each level is pooled in plane (maximum and mean) and brought to the number of slices, and a small convolution along
    S looks at the neighbours. Fine levels tell where, deep ones what: `slice_levels` chooses.

    Args:
        channels: of each level of the pyramid.
        levels: which are looked at.
        slices: of the result.
    """

    def __init__(self, channels: Sequence[int], *, levels: Sequence[int], slices: int) -> None:
        super().__init__()
        self.levels, self.slices = tuple(levels), slices
        self.mix = nn.Conv1d(2 * sum(channels[level] for level in levels), 32, kernel_size=3, padding=1)
        self.score = nn.Conv1d(32, 1, kernel_size=1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        rows = []
        for level in self.levels:
            x = pyramid[level]
            profile = torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], dim=1)  # (B, 2 C, S / stride)
            if profile.shape[-1] != self.slices:
                profile = functional.interpolate(profile, size=self.slices, mode="linear", align_corners=False)
            rows.append(profile)
        hidden = functional.leaky_relu(self.mix(torch.cat(rows, dim=1)), 0.01)
        scores: Tensor = self.score(hidden)
        return scores.squeeze(1)


def slice_levels(strides: Sequence[Size]) -> tuple[int, ...]:
    """The levels of a pyramid that tell of slices, by its strides.

    The deepest level that still has every slice, and the last. Where no level has every slice, all: the finest along
    S is a stem that has seen little around a voxel, and each deeper one places what it knows less exactly.
    """
    last = len(strides) - 1
    whole = [level for level, stride in enumerate(strides) if stride[2] == 1]
    return tuple(dict.fromkeys((whole[-1], last))) if whole else tuple(range(last + 1))


class TaskNetwork(nn.Module):
    """Encoder and the paper's multi-task head: one tensor of logits (B, volume + types + slices).

    Args:
        encoder: any `Encoder`.
        volume: labels of the whole volume, the first columns.
        types: auxiliary labels of the volume, the next columns; 0 leaves them out.
        slices: slices of the grid, inferior to superior, the last columns; 0 leaves them out.
        dropout: on the pooled feature.
        flips: in evaluation mode, give the mean of the logits of a volume and of its left-right mirror image.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        volume: int = 1,
        types: int = 5,
        slices: int = 20,
        dropout: float = 0.2,
        flips: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.flips = encoder, flips
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Linear(encoder.dim, volume + types)
        self.slices = (
            SliceHead(encoder.channels, levels=slice_levels(encoder.strides), slices=slices) if slices else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> logits (B, volume + types + slices)."""
        if self.flips and not self.training:
            return (self.logits(x) + self.logits(x.flip(2))) / 2
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """What the network makes of a volume as it lies."""
        pyramid = self.encoder(x)
        labels = self.labels(self.dropout(self.encoder.pool(pyramid)))
        return labels if self.slices is None else torch.cat([labels, self.slices(pyramid)], dim=1)
