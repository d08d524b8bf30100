"""Losses: pure functions of tensors."""

from volssl.losses.contrastive import contrastive_loss, nt_xent, queue_loss
from volssl.losses.reconstruction import reconstruction_error
from volssl.losses.sinkhorn import sinkhorn
from volssl.losses.swav import swav_loss

__all__ = ["contrastive_loss", "nt_xent", "queue_loss", "reconstruction_error", "sinkhorn", "swav_loss"]
