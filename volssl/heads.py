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
        join: how the pooled features of two series of a study are joined, `mean` or `max`. Each goes through the one
            encoder, whose batch they share. A mean keeps features of the size of one series', which a study without a
            second one has; a maximum lets one series say it alone. None, or an empty word, looks at one series.
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
        join: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.flips, self.join = encoder, flips, join or None
        self.dropout = nn.Dropout(dropout)
        self.labels = nn.Linear(encoder.dim, volume + types)
        self.slices = (
            SliceHead(encoder.channels, levels=slice_levels(encoder.strides), slices=slices) if slices else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S), or (B, 2 C, R, A, S) of two series to join -> logits (B, volume + types + slices)."""
        if self.flips and not self.training:
            return (self.logits(x) + self.logits(x.flip([2]))) / 2
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """What the network makes of a volume as it lies."""
        return self.with_pyramid(x)[0]

    def with_pyramid(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the encoder's pyramid of the first series, whose slices they are."""
        if self.join is None or x.shape[1] == self.encoder.in_channels:
            pyramid: list[Tensor] = self.encoder(x)
            feature = self.encoder.pool(pyramid)
        else:
            feature, pyramid = self.joined(x)
        labels = self.labels(self.dropout(feature))
        logits = labels if self.slices is None else torch.cat([labels, self.slices(pyramid)], dim=1)
        return logits, pyramid

    def joined(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The feature of two series, (B, dim), and the pyramid of the first; a second one of zeros alone is none.

        While training, batch statistics are of the series that are there. Else zeros are encoded too and passed over:
        that needs no look at values, so that the network can be traced, exported, and built without memory.
        """
        batch, channels = x.shape[0], self.encoder.in_channels
        first, second = x[:, :channels], x[:, channels:]
        there = (second != 0).flatten(1).any(dim=1)
        pyramid = self.encoder(torch.cat([first, second[there] if self.training else second]))
        pooled = self.encoder.pool(pyramid)
        own, other = pooled[:batch], pooled[batch:]
        other = own.masked_scatter(there[:, None], other) if self.training else torch.where(there[:, None], other, own)
        feature = torch.maximum(own, other) if self.join == "max" else (own + other) / 2
        return feature, [level[:batch] for level in pyramid]


class NeighbourNetwork(nn.Module):
    """Encoder and nearest neighbours among labelled features, as a network: logits of the shares of their votes.

    Each neighbour's vote weighs exp(cosine similarity / temperature) (Wu et al. 2018; Caron et al. 2021).

    Args:
        encoder: any `Encoder`.
        columns: of the answer.
        one_of: columns that are classes of one target: their logits are for a softmax, all others for a sigmoid.
        neighbours: that vote on a column, of those with a label in it.
        temperature: divides the similarities.
        flips: in evaluation mode, give the mean of the logits of a volume and of its left-right mirror image.

    Attributes:
        cases: (N, dim) labelled features of length 1; empty until they are remembered.
        votes: (N, columns) of 0, 1 and NaN, where a case has no vote.
    """

    cases: Tensor
    votes: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        columns: int,
        one_of: Sequence[int] = (),
        neighbours: int = 20,
        temperature: float = 0.07,
        flips: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.neighbours, self.temperature, self.flips = encoder, neighbours, temperature, flips
        self.one_of = tuple(one_of)
        self.remember(torch.zeros(0, encoder.dim), torch.zeros(0, columns))

    def remember(self, features: Tensor, votes: Tensor) -> None:
        """Take these features (N, dim) and votes (N, columns) in the place of those before."""
        self.register_buffer("cases", functional.normalize(features, dim=1))
        self.register_buffer("votes", votes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> logits (B, columns)."""
        logits = self.answer(self.encoder.pooled(x))
        if self.flips and not self.training:
            return (logits + self.answer(self.encoder.pooled(x.flip(2)))) / 2
        return logits

    def answer(self, features: Tensor) -> Tensor:
        """(B, dim) -> logits (B, columns)."""
        similar = functional.normalize(features, dim=1) @ self.cases.T
        return torch.stack([self.column(similar, column) for column in range(self.votes.shape[1])], dim=1)

    def column(self, similar: Tensor, column: int) -> Tensor:
        """Similarities (B, N) -> the logit (B,) of one column; 0, or the log of a half, where no case has a vote."""
        known = ~torch.isnan(self.votes[:, column])
        votes, similar = self.votes[known, column], similar[:, known]
        nearest = similar.topk(min(self.neighbours, similar.shape[1]), dim=1)
        weights = torch.softmax(nearest.values / self.temperature, dim=1)
        share = (weights * votes[nearest.indices]).sum(dim=1) if len(votes) else similar.new_full((len(similar),), 0.5)
        share = share.clamp(1e-6, 1 - 1e-6)
        return share.log() if column in self.one_of else torch.logit(share)
