"""Masked restoration: a corrupted crop is restored from the encoder's pyramid (Models Genesis; Zhou et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from volssl.decoders import PyramidDecoder
from volssl.encoders.base import Encoder
from volssl.encoders.swin_decoder import UNETRDecoder
from volssl.losses.reconstruction import ERRORS, reconstruction_error
from volssl.methods.base import Batch, Losses, Method
from volssl.views.base import Views
from volssl.views.restoration import RestorationViews

DECODERS = ("light", "unetr")
OVER = ("all", "changed")


class Restoration(Method):
    """Undo what was done to a crop.

    The pooled feature, which fine-tuning reads, takes part: a linear layer adds it to every voxel of the coarsest level
    before that is decoded. Otherwise layers that only pooling uses would not be trained, and the feature would be
    whatever pooling makes of maps that were trained for something else. That is our choice; Models Genesis has a U-Net
    and no pooled feature. There is no sigmoid at the end, unlike there: a window brings many voxels to 0 or 1 exactly,
    which a sigmoid never reaches.

    Args:
        encoder: any `Encoder`.
        views: makes `input` and `target` of one scan; `RestorationViews()` where None.
        decoder: `light` for a `PyramidDecoder`, or `unetr` for Swin-UNETR's own, which needs its encoder.
        error: `mse`, or `l1`.
        over: `all` voxels, or those `changed`: in which the input differs from the target.

    Raises:
        ValueError: for an unknown decoder, error or part of the voxels.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        decoder: str = "light",
        error: str = "mse",
        over: str = "all",
    ) -> None:
        super().__init__(encoder, views=views or RestorationViews())
        for name, value, known in (("decoder", decoder, DECODERS), ("error", error, ERRORS), ("over", over, OVER)):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value}")
        self.decoder: nn.Module = (
            UNETRDecoder(encoder)
            if decoder == "unetr"
            else PyramidDecoder(encoder.channels, encoder.strides, out_channels=encoder.in_channels)
        )
        self.condition = nn.Linear(encoder.dim, encoder.channels[-1])
        self.error, self.over = error, over

    def restored(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> the same shape, on no bounded range."""
        *finer, coarsest = self.encode(x)
        pooled = self.encoder.pool([*finer, coarsest])
        conditioned = coarsest + self.condition(pooled)[:, :, None, None, None]
        output: Tensor = self.decoder(x, [*finer, conditioned])
        return output

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`input` and `target` (B, C, R, A, S) -> the error of each sample, (B,), and the error of its input."""
        x, target = batch["input"], batch["target"]
        where = x != target if self.over == "changed" else None
        error = reconstruction_error(self.restored(x), target, error=self.error, where=where)
        with torch.no_grad():
            damage = reconstruction_error(x, target, error=self.error, where=where)
        return {"error": error, "damage": damage}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The mean error, and how much of the damage is undone: 1 where all is, 0 for an input given back as it is."""
        error, damage = embedded["error"].mean(), embedded["damage"].mean()
        return {"loss": error, "undone": 1 - error.detach() / damage.clamp(min=1e-12)}

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """What is shown of a batch: `input`, `output`, `target` and their `error`, (B, C, R, A, S) in [0, 1]."""
        training = self.training
        output = self.eval().restored(batch["input"]).float().clamp(0, 1)
        self.train(training)
        shown = {"input": batch["input"], "output": output, "target": batch["target"]}
        return shown | {"error": (output - batch["target"]).abs()}
