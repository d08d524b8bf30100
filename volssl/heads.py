"""Heads: what stands on an encoder while it is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder


def projection_head(in_dim: int, out_dim: int, hidden: int = 2048) -> nn.Sequential:
    """Linear, batch normalisation, ReLU, linear: SwAV's and SimCLR's projector. (B, in_dim) -> (B, out_dim)."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_dim)
    )


class SliceHead(nn.Module):
    """One logit a slice, from the finest level that still has every slice and from the deepest one.

    Both levels are pooled in plane (maximum and mean), the deep one is brought to the number of slices, and a small
    convolution along S looks at the neighbours. Pyramid -> (B, slices).
    """

    def __init__(self, fine_channels: int, deep_channels: int, *, fine_level: int, slices: int) -> None:
        super().__init__()
        self.fine_level, self.slices = fine_level, slices
        self.mix = nn.Conv1d(2 * (fine_channels + deep_channels), 32, kernel_size=3, padding=1)
        self.score = nn.Conv1d(32, 1, kernel_size=1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        rows = []
        for level in (self.fine_level, -1):
            x = pyramid[level]
            profile = torch.cat([x.amax(dim=(2, 3)), x.mean(dim=(2, 3))], dim=1)  # (B, 2 C, S / stride)
            if profile.shape[-1] != self.slices:
                profile = functional.interpolate(profile, size=self.slices, mode="linear", align_corners=False)
            rows.append(profile)
        hidden = functional.leaky_relu(self.mix(torch.cat(rows, dim=1)), 0.01)
        scores: Tensor = self.score(hidden)
        return scores.squeeze(1)


class TaskNetwork(nn.Module):
    """Encoder and the paper's multi-task head: one tensor of logits (B, volume + types + slices).

    Args:
        encoder: any `Encoder`.
        volume: labels of the whole volume, the first columns.
        types: auxiliary labels of the volume, the next columns; 0 leaves them out.
        slices: slices of the grid, inferior to superior, the last columns; 0 leaves them out.
        dropout: on the pooled feature.
    """

    def __init__(
        self, encoder: Encoder, *, volume: int = 1, types: int = 5, slices: int = 20, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Linear(encoder.dim, volume + types)
        whole = [level for level, stride in enumerate(encoder.strides) if stride[2] == 1]
        fine = whole[-1] if whole else 0
        self.slices = (
            SliceHead(encoder.channels[fine], encoder.channels[-1], fine_level=fine, slices=slices) if slices else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> logits (B, volume + types + slices)."""
        pyramid = self.encoder(x)
        labels = self.labels(self.dropout(self.encoder.pool(pyramid)))
        return labels if self.slices is None else torch.cat([labels, self.slices(pyramid)], dim=1)
