"""Swin-UNETR's encoder, MONAI's Swin transformer (Hatamizadeh et al. 2022; Tang et al. 2022), as a pyramid.

Parameters have the names that stock `monai.networks.nets.SwinUNETR` gives them (`swinViT.…`), so that weights go both
ways as they are; `UNETRDecoder` is the other half of that network.

The pooled feature is the mean over the last map, as in the Swin transformer's own classifier (Liu et al. 2021). The
authors of the self-supervised Swin-UNETR read the map's first token alone, which is the corner of the volume: what it
knows of the other end has come through few windows, and a flip changes which part of the head it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks.nets.swin_unetr import MERGING_MODE, SwinTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from volssl.encoders.base import Encoder, Size

STAGES = 4
MOST_BLOCKS = 64  # of a stage: far more than anyone has published, and a file cannot ask for a million


class SwinUNETR(Encoder):
    """MONAI's Swin transformer: five levels of stride 2 to 32, sizes that are multiples of 32.

    Args:
        in_channels: channels of the volume.
        feature_size: channels of the first level, a multiple of 12; the published networks have 48.
        depths: blocks of each of the four stages.
        num_heads: attention heads of each stage.
        window_size: tokens along an axis of the windows that attention sees.
        drop_path_rate: stochastic depth.
        downsample: `merging`, which the published weights were trained with, or `mergingv2` (see MONAI).
        use_v2: a residual convolution before each stage, as in Swin-UNETR V2.
        checkpointing: recompute the blocks in the backward pass to save memory.

    Raises:
        ValueError: for settings that no Swin-UNETR has.
    """

    min_size: Size = (32, 32, 32)
    multiple: Size = (32, 32, 32)
    strides: tuple[Size, ...] = ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16), (32, 32, 32))
    first_layers = ("swinViT.patch_embed.proj.weight",)

    def __init__(
        self,
        in_channels: int = 1,
        *,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.0,
        downsample: str = "merging",
        use_v2: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_settings(feature_size, depths, num_heads, downsample)
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "feature_size": feature_size,
            "depths": list(depths),
            "num_heads": list(num_heads),
            "window_size": window_size,
            "drop_path_rate": drop_path_rate,
            "downsample": downsample,
            "use_v2": use_v2,
            "checkpointing": checkpointing,
        }
        self.in_channels = in_channels
        self.channels = tuple(feature_size * 2**level for level in range(STAGES + 1))
        self.dim = self.channels[-1]
        with RatesInMemory():
            self.swinViT = SwinTransformer(  # the stock network's name
                in_chans=in_channels,
                embed_dim=feature_size,
                window_size=(window_size,) * 3,
                patch_size=(2, 2, 2),
                depths=tuple(depths),
                num_heads=tuple(num_heads),
                drop_path_rate=drop_path_rate,
                use_checkpoint=checkpointing,
                spatial_dims=3,
                downsample=downsample,
                use_v2=use_v2,
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(x)
        return list(self.swinViT(x))

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1].mean(dim=(2, 3, 4))

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        vit = self.swinViT
        convolved = [getattr(vit, f"layers{stage}c", None) for stage in range(1, STAGES + 1)]  # of use_v2
        blocks = [getattr(vit, f"layers{stage}") for stage in range(1, STAGES + 1)]
        later = [
            (before, after) if before is not None else (after,) for before, after in zip(convolved, blocks, strict=True)
        ]
        return ((vit.patch_embed,), *later)


def check_settings(feature_size: int, depths: Sequence[int], num_heads: Sequence[int], downsample: str) -> None:
    """Raise a ValueError for what no Swin-UNETR has; MONAI checks less where its transformer is built alone."""
    if feature_size <= 0 or feature_size % 12:
        raise ValueError(f"feature_size is {feature_size}, a multiple of 12 is needed")
    for name, values in (("depths", depths), ("num_heads", num_heads)):
        if len(values) != STAGES or min(values) < 1:
            raise ValueError(f"{name} are {list(values)}, {STAGES} numbers above 0 are needed")
    if downsample not in MERGING_MODE:
        raise ValueError(f"downsample is {downsample}, one of {', '.join(MERGING_MODE)} is needed")
    if max(depths) > MOST_BLOCKS:
        raise ValueError(f"depths are {list(depths)}, a stage has at most {MOST_BLOCKS} blocks")
    for stage, heads in enumerate(num_heads):
        if feature_size * 2**stage % heads:
            raise ValueError(f"num_heads {heads} does not divide the {feature_size * 2**stage} channels of its stage")


class RatesInMemory(TorchFunctionMode):
    """Puts `linspace` on the CPU: MONAI reads the stochastic depth of each block off a tensor, which has no values on
    the meta device, where networks are built to see how large they are.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options["device"] = "cpu"
        return func(*args, **options)
