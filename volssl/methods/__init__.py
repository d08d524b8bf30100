"""Methods: one pretext task a file."""

from volssl.methods.base import Method, Progress
from volssl.methods.combined import Combined
from volssl.methods.moco import MoCo
from volssl.methods.restoration import Restoration
from volssl.methods.rotation import Rotation
from volssl.methods.simclr import SimCLR
from volssl.methods.supervised import Supervised
from volssl.methods.swav import SwAV

__all__ = ["Combined", "Method", "MoCo", "Progress", "Restoration", "Rotation", "SimCLR", "Supervised", "SwAV"]
