"""Views: what a method looks at, made from one scan."""

from volssl.views.base import Box, Scan, Views
from volssl.views.combined import CombinedViews
from volssl.views.cropper import Cropper, in_voxels
from volssl.views.held import HeldScan
from volssl.views.multicrop import MultiCrop
from volssl.views.pairs import TwoCrops
from volssl.views.presets import generic, paper
from volssl.views.random_crops import RandomCrops
from volssl.views.restoration import RestorationViews
from volssl.views.rotation import TurnedCrops, TurnedPair

__all__ = [
    "Box",
    "CombinedViews",
    "Cropper",
    "HeldScan",
    "MultiCrop",
    "RandomCrops",
    "RestorationViews",
    "Scan",
    "TurnedCrops",
    "TurnedPair",
    "TwoCrops",
    "Views",
    "generic",
    "in_voxels",
    "paper",
]
