"""Multi-crop views under the names of the paper's comparison: `paper` (Ghesu et al. 2022) and `generic` (SwAV-med)."""

from __future__ import annotations

from collections.abc import Sequence

from volssl.transforms.window import Windows
from volssl.views.cropper import Millimetres, Rescale, Size
from volssl.views.energies import Energies
from volssl.views.multicrop import MultiCrop

PAPER_SIZES = ((224, 224, 192), (112, 112, 96))  # Table 1: rows, columns, slices; R, A, S here


def paper(
    *,
    sizes: Sequence[Size] = PAPER_SIZES,
    counts: Sequence[int] = (1, 4),
    fraction: tuple[float, float] = (0.1, 0.7),
    image_sizes: tuple[Size, Size] | None = None,
    border: float = 0.1,
    min_overlap: float = 0.0,
    window_hu: Windows = (55.0, 200.0),
    energies: Energies | None = None,
    energy_probability: float = 0.5,
    gamma: tuple[float, float] = (1.8, 2.6),
    gamma_probability: float = 0.5,
    scale: tuple[float, float] = (0.9, 1.1),
    shift: tuple[float, float] = (-0.2, 0.2),
) -> MultiCrop:
    """The views of section 3.3 and Table 1: no flips, no noise.

    On 40 simulated hemorrhages, both crops keep the lesion in 64 % of the pairs that SwAV compares, and hold it in 67 %
    (`benchmarks/views.py`): small images make small crops that see much.

    Where the paper is silent:

    - The order is that of its list: rescaling, energy bands, gamma, linear, the crop last. Only the crop's box is read
      all the same: what is done to single voxels may be done after the crop, and the bands come from the whole scan.
    - The fraction s is one number for all axes and counts voxels of the scan as stored, air and table included. An
      axis that s would take out of the image size range is held at its end, by itself: a scan of 512 × 512 × 40
      always becomes 96 slices deep. `Rescale` does this.
    - Up to a tenth of the *image* is cut off each side, uniform and independent; the place of the crop is uniform in
      what is left. A crop larger than what is left looks beyond it, and is padded only where the image itself is
      smaller: a large crop mostly is, for Table 1 lets an image be half its size.
    - Every crop draws a scale, a border and intensities of its own.
    - Bands and gamma are each applied to half of the crops, so that the network also sees images as they will come
      later; the linear change, which has no change in its range, to all.
    - The intensity range that b is a share of is the whole image's, 1 after the window.
    - Values outside of [0, 1] are cut off after the bands and at the end.

    Args:
        sizes: of the large and of the small crops, voxels along R, A, S.
        counts: how many of each.
        fraction: range of s. On stores that were made coarse, 0.1 to 0.7 of them is less than a crop: give more.
        image_sizes: the smallest and the largest image. None scales Table 1 to the crops: from the small crop's size to
            250/224 and 200/192 of the large one's, which at the paper's sizes is (112, 112, 96) to (250, 250, 200).
        border, min_overlap, window_hu, energies, energy_probability: as in `MultiCrop`.
        gamma, gamma_probability, scale, shift: as in `MultiCrop`.
    """
    return MultiCrop(
        sizes=sizes,
        counts=counts,
        zoom=[(1.0, 1.0)] * len(sizes),
        rescale=Rescale(fraction=fraction, sizes=image_sizes or table_1_sizes(sizes)),
        border=border,
        min_overlap=min_overlap,
        window_hu=window_hu,
        energies=energies,
        energy_probability=energy_probability,
        gamma=gamma,
        gamma_probability=gamma_probability,
        scale=scale,
        shift=shift,
        flip=(0.0, 0.0, 0.0),
        noise=0.0,
    )


def generic(
    *,
    sizes: Sequence[Size] = PAPER_SIZES,
    counts: Sequence[int] = (1, 4),
    spacing_mm: Millimetres = (1.0, 1.0, 1.0),
    zoom: Sequence[tuple[float, float]] = ((0.5, 1.0), (0.3, 1.0)),
    border: float = 0.0,
    min_overlap: float = 0.0,
    window_hu: Windows = (55.0, 200.0),
    scale: tuple[float, float] = (0.8, 1.2),
    shift: tuple[float, float] = (-0.2, 0.2),
    flip: tuple[float, float, float] = (0.5, 0.5, 0.5),
    noise: float = 0.1,
) -> MultiCrop:
    """What SwAV does to natural images, in 3D: the baseline that the paper calls SwAV-med.

    A random crop brought to its size, whose scale varies by a factor of two (large) or three (small); mirror
    images along each axis; brightness and contrast by a fifth; noise. No gamma, no bands.

    It erases what it should keep: both crops hold the lesion in 10 % of the pairs that SwAV compares, on 40 simulated
    hemorrhages (`benchmarks/views.py`); in 56 % with the sizes and zooms of `MultiCrop`.

    Args:
        sizes, counts, spacing_mm, zoom, border, min_overlap, window_hu: as in `MultiCrop`.
        scale, shift, flip, noise: as in `MultiCrop`.
    """
    return MultiCrop(
        sizes=sizes,
        counts=counts,
        spacing_mm=spacing_mm,
        zoom=zoom,
        border=border,
        min_overlap=min_overlap,
        window_hu=window_hu,
        gamma_probability=0.0,
        scale=scale,
        shift=shift,
        flip=flip,
        noise=noise,
    )


def table_1_sizes(crops: Sequence[Size]) -> tuple[Size, Size]:
    """Table 1's image size range for crops of other sizes, large ones first."""
    (r, a, s), smallest = crops[0], crops[-1]
    largest = (round(r * 250 / 224), round(a * 250 / 224), round(s * 200 / 192))
    return (smallest[0], smallest[1], smallest[2]), largest
