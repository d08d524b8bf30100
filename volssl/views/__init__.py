"""Views: what a method looks at, made from one scan."""

from volssl.views.base import Box, Scan, Views
from volssl.views.multicrop import MultiCrop

__all__ = ["Box", "MultiCrop", "Scan", "Views"]
