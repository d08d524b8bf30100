"""Slices as places along a line: how far apart they lie, whether evenly, and which lie at one place."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median

from volssl.data.dicom.headers import Header

SLICES_MIN = 5
GAP_TOLERANCE = 0.05  # of the usual gap: beyond it slices are not even, unless it is but the rounding of positions
ROUNDING_MM = 0.1


class Line:
    """Slices along their normal, copies left out.

    Attributes:
        slices: in the order of their places.
        places: of each along the normal of the first slice given, in mm.
        usual_mm: the usual gap.
        doubled: for each whether its place is that of the one before.
    """

    def __init__(self, slices: Iterable[Header], place: dict[int, float]) -> None:
        """Take slices and the place of each by its `id`."""
        self.slices = sorted(without_copies(tuple(slices))[0], key=lambda one: place[id(one)])
        self.places = [place[id(one)] for one in self.slices]
        self.usual_mm = usual_gap(self.places)
        self.doubled = doubled(self.places, self.usual_mm)

    @property
    def doubles(self) -> int:
        """How many slices lie at the place of another."""
        return sum(self.doubled)

    @property
    def is_even(self) -> bool:
        """Whether the slices are enough, and lie evenly."""
        if len(self.places) < SLICES_MIN or not self.usual_mm:
            return False
        tolerance = gap_tolerance(self.usual_mm)
        return all(abs(high - low - self.usual_mm) <= tolerance for low, high in pairwise(self.places))


def places_of(slices: Sequence[Header]) -> dict[int, float]:
    """The place of each slice along their normal in mm, by its `id`."""
    return dict(zip(map(id, slices), along_normal(slices), strict=True))


def interleave(parts: Iterable[Line]) -> bool:
    """Whether parts reach into one another."""
    ordered = sorted(parts, key=lambda part: part.places[0])
    return any(low.places[-1] > high.places[0] for low, high in pairwise(ordered))


def copies_of(slices: Sequence[Header]) -> list[list[Header]]:
    """Slices with the files that repeat them: of one SOPInstanceUID, place and marks."""
    found: dict[object, list[Header]] = defaultdict(list)
    for index, one in enumerate(slices):
        found[(one.sop, one.frame, one.position_mm, one.marks) if one.sop else index].append(one)
    return list(found.values())


def without_copies(slices: Sequence[Header]) -> tuple[tuple[Header, ...], int]:
    """Drop files that repeat a slice; and how many they were."""
    kept = tuple(copies[0] for copies in copies_of(slices))
    return kept, len(slices) - len(kept)


def along_normal(slices: Sequence[Header]) -> list[float]:
    """How far along the normal of the first slice each lies, in mm."""
    a, b, c, d, e, f = slices[0].orientation or (1, 0, 0, 0, 1, 0)
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.sqrt(x * x + y * y + z * z) or 1.0
    return [dot((x, y, z), one.position_mm or (0, 0, 0)) / length for one in slices]


def usual_gap(places: Sequence[float]) -> float:
    """The median gap between ordered places that are not one and the same, in mm; 0 where there is none."""
    gaps = [gap for low, high in pairwise(places) if (gap := high - low) > 0.01]
    return median(gaps) if gaps else 0.0


def doubled(places: Sequence[float], usual: float) -> list[bool]:
    """For each ordered place whether it is that of the one before."""
    least = 0.01 * max(usual, 0.1)
    return [False, *(high - low < least for low, high in pairwise(places))]


def gap_tolerance(usual: float) -> float:
    """How much a gap may differ from the usual one, in mm."""
    return max(GAP_TOLERANCE * usual, min(ROUNDING_MM, 0.3 * usual))


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The scalar product of two vectors in space."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
