"""Methods: one pretext task a file."""

from volssl.methods.base import Method, Progress
from volssl.methods.swav import SwAV

__all__ = ["Method", "Progress", "SwAV"]
