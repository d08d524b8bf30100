"""The contract of an encoder: a volume in, a pyramid of feature maps and one pooled vector out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from volssl.errors import SizeError

Size = tuple[int, int, int]


class Encoder(nn.Module):
    """Maps (B, C, R, A, S) to a pyramid, finest level first.

    Attributes:
        in_channels: C.
        channels: channels of each level.
        strides: input voxels per feature voxel, for each level along R, A, S.
        dim: length of the pooled feature.
        min_size: the smallest input along R, A, S.
        multiple: what the input's size must be divisible by along R, A, S.
        first_layers: names of the weights (out, in_channels, ...) that see the input, so that weights for one channel
            can be brought to several.
        settings: the arguments of `__init__`, so that a file can build the encoder again.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[Size, ...]
    dim: int
    min_size: Size
    multiple: Size = (1, 1, 1)
    first_layers: tuple[str, ...] = ()
    settings: dict[str, Any]

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, R, A, S) -> one (B, channels[i], R / strides[i][0], ...) for each level, finest first."""

    @abstractmethod
    def pool(self, pyramid: list[Tensor]) -> Tensor:
        """The pyramid's last level -> (B, dim)."""

    @abstractmethod
    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """The modules that hold the parameters, each in one group, from the stem to the deepest.

        What a stage makes depends on itself and those before it alone, so that the last few can be trained while the
        others stay, and each can have its own learning rate.
        """

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> (B, dim)."""
        return self.pool(self(x))

    def check_input(self, x: Tensor) -> None:
        """`check_size` of (B, C, R, A, S). Not while `torch.export` looks on, which would take the sizes for fixed."""
        if not torch.compiler.is_exporting():
            self.check_size((int(x.shape[2]), int(x.shape[3]), int(x.shape[4])))

    def check_size(self, size: Size) -> None:
        """Raise a SizeError, which is a ValueError, that names the axis where such a volume cannot be encoded."""
        for axis, n, least, multiple in zip("RAS", size, self.min_size, self.multiple, strict=True):
            if n < least:
                raise SizeError(f"{type(self).__name__}: axis {axis} has {n} voxels, at least {least} are needed")
            if n % multiple:
                raise SizeError(
                    f"{type(self).__name__}: axis {axis} has {n} voxels, a multiple of {multiple} is needed"
                )
