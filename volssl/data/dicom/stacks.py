"""Which DICOM slices make one stack: the same series and plane, and where slices interleave, the same acquisition."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from volssl.data.checks import THRESHOLDS
from volssl.data.dicom.headers import MARKS, Header
from volssl.data.dicom.kinds import refusal
from volssl.data.volume import RefusedError

SLICES_MIN = 5
GAP_TOLERANCE = 0.05  # of the usual gap: beyond it slices are not even, unless it is but the rounding of positions
ROUNDING_MM = 0.1
SAME_DIRECTION, SAME_SPACING_MM = 0.002, 0.001
# Marks that may differ from slice to slice of one stack which was acquired in turns; they part only what is uneven.
_MAY_ALTERNATE = {"trigger time", "inversion time", "acquisition time"}


@dataclass(frozen=True)
class Stack:
    """Slices of one stack, copies included.

    Attributes:
        part: what tells it from other stacks of its series and plane; private.
        notes: the same for the reader.
        refused: why the slices are no volume, where that shows already.
    """

    slices: tuple[Header, ...]
    part: str = ""
    notes: tuple[str, ...] = ()
    refused: RefusedError | None = None


def stacks_of(series: Sequence[Header]) -> list[Stack]:
    """Part the slices of one series, all of one kind, size and class, in a fixed order."""
    found: list[Stack] = []
    for plane in _planes(series):
        if refusal(plane[0]) or not all(has_place(one) for one in plane):
            found.append(Stack(tuple(plane)))
        else:
            found += _few(_parted(Stack(tuple(plane))), plane)
    return found


def bucket(one: Header) -> tuple[str, ...]:
    """What slices of one stack share to the letter; without a series UID, the folder."""
    series = one.series or f"{one.found.path.parent} {one.frame_of_reference}"
    kind = refused.reason if (refused := refusal(one)) else ""
    return (
        one.patient,
        one.study,
        series,
        one.sop_class,
        kind,
        one.stack,
        one.photometric,
        f"{one.rows} {one.columns}",
        "" if has_place(one) else "nowhere",
    )


def has_place(one: Header) -> bool:
    """Whether position, spacing and two directions at a right angle are told."""
    if not one.orientation or not one.position_mm or min(one.row_spacing_mm or 0, one.column_spacing_mm or 0) <= 0:
        return False
    x, y = one.orientation[:3], one.orientation[3:]
    products = _dot(x, x), _dot(y, y), _dot(x, y)
    return abs(products[0] - 1) < 0.01 and abs(products[1] - 1) < 0.01 and abs(products[2]) < 0.01


def without_copies(slices: Sequence[Header]) -> tuple[tuple[Header, ...], int]:
    """Drop files that repeat a slice: its SOPInstanceUID, place and marks; and how many they were."""
    kept: dict[object, Header] = {}
    for index, one in enumerate(slices):
        kept.setdefault((one.sop, one.frame, one.position_mm, one.marks) if one.sop else index, one)
    return tuple(kept.values()), len(slices) - len(kept)


def along_normal(slices: Sequence[Header]) -> list[float]:
    """How far along the normal of the first slice each lies, in mm."""
    a, b, c, d, e, f = slices[0].orientation or (1, 0, 0, 0, 1, 0)
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.sqrt(x * x + y * y + z * z) or 1.0
    return [_dot((x, y, z), one.position_mm or (0, 0, 0)) / length for one in slices]


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


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _planes(series: Iterable[Header]) -> list[list[Header]]:
    """Slices of one orientation and spacing, which may differ by what writers round."""
    kept: list[tuple[tuple[float, ...], tuple[float, float], list[Header]]] = []
    seen: dict[object, list[Header]] = {}
    for one in series:
        spacing = (one.row_spacing_mm or 0.0, one.column_spacing_mm or 0.0)
        orientation = one.orientation or ()
        plane = seen.get((orientation, spacing))
        if plane is None:
            for other, its_spacing, members in kept:
                if _near(orientation, other, SAME_DIRECTION) and _near(spacing, its_spacing, SAME_SPACING_MM):
                    plane = members
                    break
            else:
                plane = []
                kept.append((orientation, spacing, plane))
            seen[orientation, spacing] = plane
        plane.append(one)
    return [members for _, _, members in kept]


def _near(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class _Line:
    """Slices as places along the normal."""

    places: list[float]

    @property
    def doubles(self) -> int:
        return sum(doubled(self.places, usual_gap(self.places)))

    @property
    def is_even(self) -> bool:
        usual = usual_gap(self.places)
        if len(self.places) < SLICES_MIN or not usual:
            return False
        return all(abs(high - low - usual) <= gap_tolerance(usual) for low, high in pairwise(self.places))


def _line(slices: Sequence[Header], place: dict[int, float]) -> _Line:
    return _Line(sorted(place[id(one)] for one in without_copies(slices)[0]))


def _parted(stack: Stack) -> list[Stack]:
    """Part a stack where it interleaves, by the mark that leaves the best parts, and these in their turn."""
    place = dict(zip(map(id, stack.slices), along_normal(stack.slices), strict=True))
    whole = _line(stack.slices, place)
    best: tuple[tuple[int, int, int], str, dict[str, list[Header]]] | None = None
    for index, mark in enumerate(MARKS):
        if whole.is_even and mark in _MAY_ALTERNATE:
            continue
        parts: dict[str, list[Header]] = defaultdict(list)
        for one in stack.slices:
            parts[one.marks[index]].append(one)
        if len(parts) < 2:
            continue
        rank = _rank(whole, [_line(part, place) for part in parts.values()])
        if rank and (best is None or rank < best[0]):
            best = (rank, mark, parts)
    if best is None:
        return [stack] if whole.doubles or whole.is_even else _alternating(stack, place)
    _, mark, parts = best
    note = f"one of {len(parts)} stacks of a series, told apart by {mark}"
    return [
        found
        for value, part in sorted(parts.items())
        for found in _parted(Stack(tuple(part), f"{stack.part} {mark}={value}", (*stack.notes, note)))
    ]


def _few(parts: list[Stack], plane: list[Header]) -> list[Stack]:
    """The parts, or where they are too many the plane as a whole, which is refused."""
    if len(parts) <= THRESHOLDS.parts_max:
        return parts
    sentence = (
        f"The slices are {len(parts)} stacks at one place, {THRESHOLDS.parts_max} are the most: steps of time, or "
        "directions, would drown all other scans."
    )
    return [Stack(tuple(plane), refused=RefusedError("time_series", sentence))]


def _rank(whole: _Line, parts: list[_Line]) -> tuple[int, int, int] | None:
    """How good parts are, less being better; None where they are no reason to part the stack.

    A mark may differ from slice to slice (AcquisitionNumber does where the table moves step by step): parts that lie
    one above the other stay one stack.
    """
    uneven = sum(len(part.places) for part in parts if not part.is_even)
    if not whole.doubles:
        return None if uneven or not _interleave(parts) else (0, 0, len(parts))
    small = sum(len(part.places) for part in parts if len(part.places) < SLICES_MIN)
    doubles = sum(part.doubles for part in parts)
    if 2 * small > len(whole.places) or doubles >= whole.doubles:
        return None
    return uneven, doubles, len(parts)


def _interleave(parts: list[_Line]) -> bool:
    """Whether parts reach into one another."""
    ordered = sorted(parts, key=lambda part: part.places[0])
    return any(low.places[-1] > high.places[0] for low, high in pairwise(ordered))


def _alternating(stack: Stack, place: dict[int, float]) -> list[Stack]:
    """Two even stacks that lie between one another, though no tag tells them apart: gaps of 1, 4, 1, 4 mm."""
    distinct = sorted(without_copies(stack.slices)[0], key=lambda one: place[id(one)])
    rank = {place[id(one)]: index % 2 for index, one in enumerate(distinct)}
    parts = [[one for one in stack.slices if rank[place[id(one)]] == turn] for turn in (0, 1)]
    lines = [_line(part, place) for part in parts]
    if not all(line.is_even for line in lines):
        return [stack]
    steps = [usual_gap(line.places) for line in lines]
    if abs(steps[0] - steps[1]) > gap_tolerance(steps[0]):
        return [stack]
    note = "one of 2 stacks that lie between one another, told apart by position alone"
    return [Stack(tuple(part), f"{stack.part} turn={turn}", (*stack.notes, note)) for turn, part in enumerate(parts)]
