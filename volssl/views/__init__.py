"""Views: what a method looks at, made from one scan."""

from volssl.views.base import Box, Scan, Views
from volssl.views.cropper import Cropper
from volssl.views.multicrop import MultiCrop
from volssl.views.presets import generic, paper
from volssl.views.random_crops import RandomCrops

__all__ = ["Box", "Cropper", "MultiCrop", "RandomCrops", "Scan", "Views", "generic", "paper"]
