"""MONAI's DenseNet121 in 3D (Huang et al. 2017) as an encoder: 1024 pooled features, five levels of stride 2 to 32.

Parameters have the names that stock `monai.networks.nets.DenseNet121` gives them, so that weights go both ways as they
are. Levels are the stem before its pooling, the four dense blocks, and the last with its normalisation: `features` of
the stock network; what stands behind it, ReLU, mean and the linear layer, is `pool` and a head.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DenseNet121 as StockDenseNet121
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder, Size
from volssl.encoders.recompute import recomputed

LEVEL_ENDS = ("relu0", "denseblock1", "denseblock2", "denseblock3", "norm5")  # layers whose outputs are the levels
UNITS = (6, 12, 24, 16)  # dense layers of each block


class DenseNet121(Encoder):
    """MONAI's DenseNet121 for volumes of at least 29 voxels along each axis, where its last map has one voxel.

    In training a batch needs more than one voxel in that map: two volumes, or one of 58 voxels along an axis.

    Args:
        in_channels: channels of the volume.
        init_features: channels of the stem.
        growth: channels each dense layer adds.
        checkpointing: recompute the dense blocks in the backward pass to save memory.
    """

    # Stem and pooling halve rounding up, three transitions rounding down: 29 -> 15 -> 8 -> 4 -> 2 -> 1, and 28 -> 0.
    min_size: Size = (29, 29, 29)
    strides: tuple[Size, ...] = ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32))
    first_layers = ("features.conv0.weight",)

    def __init__(
        self, in_channels: int = 1, *, init_features: int = 64, growth: int = 32, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "init_features": init_features,
            "growth": growth,
            "checkpointing": checkpointing,
        }
        self.in_channels = in_channels
        self.checkpointing = checkpointing
        stock = StockDenseNet121(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=1,  # of the classifier, which is left behind
            init_features=init_features,
            growth_rate=growth,
            block_config=UNITS,
        )
        self.features = stock.features
        channels, width = [init_features], init_features
        for units in UNITS:
            channels.append(width + units * growth)
            width = channels[-1] // 2  # what the transition leaves
        self.channels = tuple(channels)
        self.dim = channels[-1]

    def forward(self, x: Tensor) -> list[Tensor]:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(x)
        recompute = self.checkpointing and self.training
        pyramid: list[Tensor] = []
        for name, layer in self.features.named_children():
            x = recomputed(layer, x) if recompute and name.startswith("denseblock") else layer(x)
            if name in LEVEL_ENDS:
                pyramid.append(x)
        return pyramid

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return functional.relu(pyramid[-1]).mean(dim=(2, 3, 4))  # not in place: the level stays as it is

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        stages: list[tuple[nn.Module, ...]] = [()]
        for name, layer in self.features.named_children():
            stages[-1] += (layer,)
            if name in LEVEL_ENDS[:-1]:
                stages.append(())
        return tuple(stages)
