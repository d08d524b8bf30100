"""SimCLR for volumes: two crops that belong together attract, those of other samples repel (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.heads import projection_head
from volssl.losses import nt_xent
from volssl.losses.collapse import feature_spread
from volssl.methods.base import Batch, Losses, Method
from volssl.views.base import Views
from volssl.views.pairs import TwoCrops


class SimCLR(Method):
    """Contrast two crops of each sample with those of all other samples of the batch.

    What belongs together is the data set's choice: crops of one volume, or of two that metadata pairs (`pairs` of
    `TrainingScans`; Vu et al. 2021). Samples that might have been paired but are not in this batch neither attract nor
    repel: pushing a patient's other study away in one step and pulling it near in the next teaches nothing. MedAug lets
    them repel; so does `repel_kin=True`.

    Args:
        encoder: any `Encoder`.
        views: makes `crop0` and `crop1`; `TwoCrops()` where None.
        feature_dim: length of the projected feature.
        hidden_dim: of the projection head.
        temperature: divides the cosine similarities; smaller is sharper.
        repel_kin: whether samples that might have been paired repel as all others do.
    """

    couples_samples = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views | None = None,
        feature_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
        repel_kin: bool = False,
    ) -> None:
        super().__init__(encoder, views=views or TwoCrops())
        self.projector: nn.Module = projection_head(encoder.dim, feature_dim, hidden_dim)
        self.temperature, self.repel_kin = temperature, repel_kin
        self._last: dict[str, Tensor] = {}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`crop0` and `crop1` (B, C, R, A, S) -> their features (B, feature_dim), and `kin` (B, 3).

        One pass of the encoder over both, whose batch statistics are then those of both.
        """
        pyramid = self.encode(torch.cat([batch["crop0"], batch["crop1"]]))
        first, second = self.projector(self.encoder.pool(pyramid)).chunk(2)
        return {"first": first, "second": second, "kin": kin_of(batch)}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """NT-Xent over all samples."""
        first, kin = embedded["first"], embedded["kin"]
        self._last = {"feature_std": feature_spread(first), "loss_floor": torch.tensor(float(2 * len(first) - 1)).log()}
        near = None if self.repel_kin else is_kin(kin, kin[:, 0])
        return {"loss": nt_xent(first, embedded["second"], temperature=self.temperature, kin=near)}

    def diagnostics(self) -> dict[str, float]:
        """What `engine.monitor` reads; the loss's floor is that of features that are all alike."""
        return {name: float(value) for name, value in self._last.items()}


def kin_of(batch: Batch) -> Tensor:
    """(B, 3): a sample's place in an order, and the range of places of those who might have been paired with it.

    `TrainingScans` gives it for pairs by metadata; else a sample is near to itself alone.
    """
    if "kin" in batch:
        return batch["kin"]
    index = batch["index"]
    return torch.stack([index, index, index + 1], dim=1)


def is_kin(kin: Tensor, places: Tensor) -> Tensor:
    """(B, 3) and (Q,) -> (B, Q) bool: which places lie in each sample's range; a place below 0 in none."""
    return (kin[:, 1:2] <= places) & (places < kin[:, 2:3])
