"""Losses: pure functions of tensors."""

from volssl.losses.sinkhorn import sinkhorn
from volssl.losses.swav import swav_loss

__all__ = ["sinkhorn", "swav_loss"]
