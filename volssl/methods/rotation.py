"""Rotation prediction: how often was the crop turned? (Gidaris et al. 2018; one of Swin-UNETR's tasks)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders.base import Encoder
from volssl.methods.base import Batch, Losses, Method
from volssl.views.base import Views
from volssl.views.rotation import TurnedCrops


class Rotation(Method):
    """Tell the turns of a crop about the S axis from its pooled feature.

    Args:
        encoder: any `Encoder`.
        views: makes `rotated` and `turns`; `TurnedCrops(turns=turns)` where None.
        turns: 4 for quarter turns, 2 for half turns; as the views have it.
    """

    def __init__(self, encoder: Encoder, *, views: Views | None = None, turns: int = 4) -> None:
        super().__init__(encoder, views=views or TurnedCrops(turns=turns))
        self.head = nn.Linear(encoder.dim, turns)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`rotated` (B, C, R, A, S) and `turns` (B,) -> the cross-entropy and whether it was told right, (B,) each."""
        scores = self.head(self.encoder.pool(self.encode(batch["rotated"]))).float()
        error = functional.cross_entropy(scores, batch["turns"], reduction="none")
        return {"error": error, "right": (scores.detach().argmax(dim=1) == batch["turns"]).to(torch.float32)}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """The mean cross-entropy, and the share of turns told right."""
        return {"loss": embedded["error"].mean(), "accuracy": embedded["right"].mean()}
