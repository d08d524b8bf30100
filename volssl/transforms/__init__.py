"""MONAI transforms for 3D volumes, and the plain functions they call."""

from volssl.transforms.bezier import RandBezierIntensity, RandBezierIntensityd, bezier_intensity
from volssl.transforms.flips import RandFlips, RandFlipsd, flip
from volssl.transforms.masks import RandBlockMask, RandBlockMaskd, block_mask
from volssl.transforms.paint import RandInPaint, RandInPaintd, RandOutPaint, RandOutPaintd, in_paint, out_paint
from volssl.transforms.patches import RandSwapPatches, RandSwapPatchesd, swap_patches
from volssl.transforms.resample import resample_box
from volssl.transforms.shuffle import RandLocalShuffle, RandLocalShuffled, local_shuffle
from volssl.transforms.window import WindowHUd, window

__all__ = [
    "RandBezierIntensity",
    "RandBezierIntensityd",
    "RandBlockMask",
    "RandBlockMaskd",
    "RandFlips",
    "RandFlipsd",
    "RandInPaint",
    "RandInPaintd",
    "RandLocalShuffle",
    "RandLocalShuffled",
    "RandOutPaint",
    "RandOutPaintd",
    "RandSwapPatches",
    "RandSwapPatchesd",
    "WindowHUd",
    "bezier_intensity",
    "block_mask",
    "flip",
    "in_paint",
    "local_shuffle",
    "out_paint",
    "resample_box",
    "swap_patches",
    "window",
]
