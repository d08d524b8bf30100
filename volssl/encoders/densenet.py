"""The paper's densely connected network for head CT (Ghesu et al. 2022, section 4.5).

"Five dense blocks with (1,2,3,3,3) units, each unit having 3D convolution, 3D batch normalization and LeakyReLU
activation layers with 16 initial features and a growth rate of 7. The first two blocks only process data in-plane [...]
and downsample only in (x, y) plane and the last three process data with full (3,3,3) 3D kernels. The final features of
fixed dimension 1024 are computed through adaptive pooling (both max and average pooling)."

What the paper leaves open, and what stands here:
- a stem of one in-plane convolution of stride 2, as DenseNets have, makes the 16 initial features; at full resolution
  a step costs five times as much on a CPU;
- a dense block concatenates each unit's output to its input, without compression, so that the levels have
  23, 37, 58, 79 and 100 channels;
- downsampling is by maximum, which keeps a small bleed where a mean thins it out: in plane before the second block,
  in 3D before the third and the fourth, so that levels have strides (2,2,1), (4,4,1), (8,8,2), (16,16,4), (16,16,4);
- a 1×1×1 convolution brings the 100 channels to 64, and the maximum and the mean over 2×2×2 parts of the volume
  make 64 × 8 × 2 = 1024 features for any input size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from volssl.encoders.base import Encoder, Size
from volssl.encoders.recompute import recomputed

UNITS = (1, 2, 3, 3, 3)
IN_PLANE_BLOCKS = 2
STEM_STRIDE: Size = (2, 2, 1)  # "in plane" is R and A; S runs through the slices
DOWNSAMPLING: tuple[Size, ...] = ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (1, 1, 1))  # before each block


def unit(in_channels: int, out_channels: int, kernel: Size, stride: Size = (1, 1, 1)) -> nn.Sequential:
    """Convolution, batch normalisation, LeakyReLU; the size stays but for the stride."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.LeakyReLU(0.01, inplace=True),
    )


class DenseBlock(nn.Module):
    """Units that each see all that came before: (B, in_channels, ...) -> (B, in_channels + units * growth, ...)."""

    def __init__(self, in_channels: int, *, units: int, growth: int, kernel: Size) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit(in_channels + i * growth, growth, kernel) for i in range(units))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.units:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def pool_parts(x: Tensor) -> Tensor:
    """Maximum and mean over 2×2×2 parts: (B, C, R, A, S) -> (B, 16 C).

    The same numbers as `AdaptiveMaxPool3d(2)` and `AdaptiveAvgPool3d(2)`, written with slices, which TorchScript and
    ONNX take with free sizes. Parts overlap by one voxel where a size is odd.
    """
    parts = [x]
    for axis in (2, 3, 4):
        n = x.shape[axis]
        halves: list[Tensor] = []
        for part in parts:
            halves += [part.narrow(axis, 0, (n + 1) // 2), part.narrow(axis, n // 2, n - n // 2)]
        parts = halves
    pooled: list[Tensor] = []
    for part in parts:
        pooled += [part.amax(dim=(2, 3, 4)), part.mean(dim=(2, 3, 4))]
    return torch.cat(pooled, dim=1)


class PaperDenseNet(Encoder):
    """The paper's DenseNet, 1024 features for any input of at least 16×16×4 voxels.

    Args:
        in_channels: channels of the volume.
        init_features: channels of the stem.
        growth: channels each unit adds.
        compress: channels of the last level before pooling; `dim` is 16 times as many.
        checkpointing: recompute the blocks in the backward pass to save memory.
    """

    min_size: Size = (16, 16, 4)
    first_layers = ("stem.0.weight",)

    def __init__(
        self,
        in_channels: int = 1,
        *,
        init_features: int = 16,
        growth: int = 7,
        compress: int = 64,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "in_channels": in_channels,
            "init_features": init_features,
            "growth": growth,
            "compress": compress,
            "checkpointing": checkpointing,
        }
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        self.stem = unit(in_channels, init_features, (3, 3, 1), STEM_STRIDE)
        self.pools, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels, strides, features, stride = [], [], init_features, STEM_STRIDE
        for level, (units, factor) in enumerate(zip(UNITS, DOWNSAMPLING, strict=True)):
            kernel: Size = (3, 3, 1) if level < IN_PLANE_BLOCKS else (3, 3, 3)
            self.pools.append(nn.Identity() if factor == (1, 1, 1) else nn.MaxPool3d(factor))
            self.blocks.append(DenseBlock(features, units=units, growth=growth, kernel=kernel))
            features += units * growth
            stride = (stride[0] * factor[0], stride[1] * factor[1], stride[2] * factor[2])
            channels.append(features)
            strides.append(stride)
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.compress = nn.Conv3d(features, compress, kernel_size=1)
        self.dim = 16 * compress

    def forward(self, x: Tensor) -> list[Tensor]:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(x)
        x = self.stem(x)
        pyramid: list[Tensor] = []
        for pool, block in zip(self.pools, self.blocks):  # noqa: B905 - TorchScript knows no `strict`
            x = pool(x)
            if not torch.jit.is_scripting() and self.checkpointing and self.training:  # type: ignore[attr-defined]
                x = recomputed(block, x)
            else:
                x = block(x)
            pyramid.append(x)
        return pyramid

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pool_parts(self.compress(pyramid[-1]))

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        *blocks, last = self.blocks
        return ((self.stem,), *((block,) for block in blocks), (last, self.compress))
