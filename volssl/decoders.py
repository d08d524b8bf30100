"""Decoders: a volume and an encoder's pyramid in, a volume of the same size out.

Any module with `forward(x, pyramid) -> (B, C, R, A, S)` is one; `volssl.encoders.UNETRDecoder` is Swin-UNETR's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, int, int]
GROUPS = 4


class PyramidDecoder(nn.Module):
    """A light decoder over any encoder's pyramid, after feature pyramid networks (Lin et al. 2017).

    From the coarsest level up: a 1×1×1 convolution brings the level below to this level's width, each of its voxels is
    repeated, the level itself is added through a 1×1×1 convolution of its own, and one small convolution mixes
    neighbours, in plane alone where the level still has every slice. From the finest level a 1×1×1 convolution makes
    all voxels that one of its voxels stands for (sub-voxel convolution, Shi et al. 2016): nothing runs at full
    resolution. There is no activation at the end, and normalisation is by sample (Wu and He 2018), so that
    nothing depends on what else is in the batch.

    Args:
        channels: of each level, finest first.
        strides: input voxels for each feature voxel, of each level along R, A, S.
        out_channels: of the volume that is made.
        width: channels at the finest level; doubled for each coarser one, up to 4 times as many. A multiple of 4.

    Raises:
        ValueError: where the lists differ in length, or for another width.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Size], *, out_channels: int = 1, width: int = 8
    ) -> None:
        super().__init__()
        if len(channels) != len(strides) or not channels or width < GROUPS or width % GROUPS:
            raise ValueError(f"one stride a level and width 4, 8, …, not {channels}, {strides}, width {width}")
        widths = [width * min(2**level, 4) for level in range(len(channels))]
        self.laterals = nn.ModuleList(nn.Conv3d(c, w, 1) for c, w in zip(channels, widths, strict=True))
        self.rises = nn.ModuleList(nn.Conv3d(below, w, 1) for w, below in pairwise(widths))
        self.mixes = nn.ModuleList(mix(w, stride) for w, stride in zip(widths, strides, strict=True))
        self.out_channels, self.stride = out_channels, strides[0]
        block = strides[0][0] * strides[0][1] * strides[0][2]
        self.head = nn.Conv3d(widths[0], out_channels * block, 1)
        for weight in self.head.parameters():  # a block's voxels begin alike: no checkerboard (Aitken et al. 2017)
            weight.data = weight.data[::block].repeat_interleave(block, dim=0)

    def forward(self, x: Tensor, pyramid: list[Tensor]) -> Tensor:
        """(B, C, R, A, S), of which the size alone is used, and its pyramid -> (B, out_channels, R, A, S)."""
        y = self.mixes[-1](self.laterals[-1](pyramid[-1]))
        for level in range(len(pyramid) - 2, -1, -1):
            lateral = self.laterals[level](pyramid[level])
            y = functional.interpolate(self.rises[level](y), size=lateral.shape[2:], mode="nearest")
            y = self.mixes[level](y + lateral)
        return fitted(spread(self.head(y), self.out_channels, self.stride), x.shape[2:])


def mix(width: int, stride: Size) -> nn.Sequential:
    """A small convolution with normalisation and activation; (B, width, ...) stays as it is in shape."""
    kernel: Size = (3, 3, 1 if stride[2] == 1 else 3)
    return nn.Sequential(
        nn.Conv3d(width, width, kernel, padding=(1, 1, kernel[2] // 2), bias=False),
        nn.GroupNorm(GROUPS, width),
        nn.LeakyReLU(0.01, inplace=True),
    )


def spread(x: Tensor, channels: int, stride: Size) -> Tensor:
    """Each voxel's channels become a block of voxels: (B, C × i × j × k, R, A, S) -> (B, C, R i, A j, S k)."""
    (b, _, r, a, s), (i, j, k) = x.shape, stride
    blocks = x.reshape(b, channels, i, j, k, r, a, s).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, channels, r * i, a * j, s * k)


def fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut off, or repeat, the last voxels of axes that strides do not divide, as encoders round: (B, C, *size)."""
    x = x[:, :, : size[0], : size[1], : size[2]]
    short = [n - have for n, have in zip(size, x.shape[2:], strict=True)]
    return functional.pad(x, (0, short[2], 0, short[1], 0, short[0]), mode="replicate") if any(short) else x
