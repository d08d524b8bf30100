"""Marking voxels: Dice and cross-entropy against a mask, both MONAI's (Milletari et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping

from monai.losses import DiceCELoss
from torch import Tensor

from volssl.methods.base import Batch, Losses, Method
from volssl.slabs import SuspectNetwork
from volssl.views.base import Views


class Segmentation(Method):
    """Train a network that marks voxels.

    Dice is taken over the voxels of the whole batch: most scans have nothing to mark, and by themselves no Dice.

    Args:
        network: gives a logit for each voxel.
        views: makes `image` and `mask` of one scan, or of some crops of it.
    """

    couples_samples = True

    def __init__(self, network: SuspectNetwork, *, views: Views) -> None:
        # Not an encoder: the trainer wants no more of it than to have parameters.
        super().__init__(network, views=views)  # type: ignore[arg-type]
        self.network = network
        self.measure = DiceCELoss(sigmoid=True, batch=True)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`image` and `mask` (B, 1, R, A, S), or (B, crops, 1, R, A, S) -> `logits` and `mask`, (N, 1, R, A, S)."""
        image, mask = (batch[name].flatten(0, -5) for name in ("image", "mask"))
        return {"logits": self.network.voxels(image).float(), "mask": mask}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """Of all voxels of a batch, `loss`."""
        return {"loss": self.measure(embedded["logits"], embedded["mask"])}
