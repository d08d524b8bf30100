"""MONAI transforms for 3D volumes, and the plain functions they call."""

from volssl.transforms.resample import resample_box
from volssl.transforms.window import WindowHUd, window

__all__ = ["WindowHUd", "resample_box", "window"]
