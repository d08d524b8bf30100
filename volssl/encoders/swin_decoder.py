"""Swin-UNETR's own decoder (Hatamizadeh et al. 2022): the input and a pyramid of Swin features -> a volume.

Layers are MONAI's, under the names of stock `monai.networks.nets.SwinUNETR`: `SwinUNETR` (the encoder) and this one
together are that network, and their state dicts joined are its state dict.
"""

from __future__ import annotations

from functools import partial

from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.encoders.swin import SwinUNETR


class UNETRDecoder(nn.Module):
    """The decoder half of Swin-UNETR, for restoring or segmenting volumes.

    A level is normalised over its voxels (instance normalisation), so that training needs more than one voxel in the
    last: at least 64 along some axis.

    Args:
        encoder: the `SwinUNETR` whose pyramid it decodes.
        out_channels: channels of the result; None takes those of the encoder's input.

    Raises:
        ValueError: for an encoder of another architecture.
    """

    def __init__(self, encoder: Encoder, *, out_channels: int | None = None) -> None:
        super().__init__()
        if not isinstance(encoder, SwinUNETR):
            raise ValueError(f"Swin-UNETR's decoder needs SwinUNETR's pyramid, not that of a {type(encoder).__name__}")
        a, b, c, d, e = encoder.channels
        self.out_channels = encoder.in_channels if out_channels is None else out_channels
        refine = partial(UnetrBasicBlock, 3, kernel_size=3, stride=1, norm_name="instance", res_block=True)
        rise = partial(UnetrUpBlock, 3, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True)
        self.encoder1 = refine(encoder.in_channels, a)
        self.encoder2, self.encoder3, self.encoder4, self.encoder10 = (
            refine(a, a),
            refine(b, b),
            refine(c, c),
            refine(e, e),
        )
        self.decoder5, self.decoder4, self.decoder3, self.decoder2 = rise(e, d), rise(d, c), rise(c, b), rise(b, a)
        self.decoder1 = rise(a, a)
        self.out = UnetOutBlock(3, a, self.out_channels)

    def forward(self, x: Tensor, pyramid: list[Tensor]) -> Tensor:
        """(B, C, R, A, S) and its pyramid -> (B, out_channels, R, A, S)."""
        a, b, c, d, e = pyramid
        y = self.decoder5(self.encoder10(e), d)
        y = self.decoder4(y, self.encoder4(c))
        y = self.decoder3(y, self.encoder3(b))
        y = self.decoder2(y, self.encoder2(a))
        result: Tensor = self.out(self.decoder1(y, self.encoder1(x)))
        return result
