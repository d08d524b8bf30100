"""Methods: one pretext task a file."""

from volssl.methods.base import Method, Progress
from volssl.methods.supervised import Supervised
from volssl.methods.swav import SwAV

__all__ = ["Method", "Progress", "Supervised", "SwAV"]
