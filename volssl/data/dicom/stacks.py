"""Which DICOM slices make one stack: the same series and plane, and where slices interleave, the same acquisition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from volssl.data.checks import THRESHOLDS
from volssl.data.dicom.headers import Header
from volssl.data.dicom.kinds import refusal
from volssl.data.dicom.lines import SLICES_MIN, Line, copies_of, dot, interleave, places_of
from volssl.data.dicom.tags import MARKS
from volssl.data.dicom.untagged import parts_without_tag
from volssl.data.volume import RefusedError

SAME_DIRECTION, SAME_SPACING_MM = 0.002, 0.001
# Marks that may differ from slice to slice of one stack which was acquired in turns; they part only what is uneven.
_MAY_ALTERNATE = {"trigger time", "inversion time", "acquisition time"}

Rank = tuple[int, int, int]  # slices in parts that are not even, doubles, and parts


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
    series = one.series or f"{one.found.folder} {one.frame_of_reference}"
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
    products = dot(x, x), dot(y, y), dot(x, y)
    return abs(products[0] - 1) < 0.01 and abs(products[1] - 1) < 0.01 and abs(products[2]) < 0.01


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


def _parted(stack: Stack) -> list[Stack]:
    """Part a stack where it interleaves, by the mark that leaves the best parts, and these in their turn.

    Without such a mark, or where it cuts each part in pieces (times do where a scanner takes some slices at once), what
    else tells parts apart counts.
    """
    place = places_of(stack.slices)
    whole = Line(stack.slices, place)
    best = _best_mark(stack, whole, place)
    if best is None or best[0] > (0, 0, 2):
        found = parts_without_tag(whole, place)
        if found and (best is None or (0, 0, len(found[1])) < best[0] < (0, 1, 0)):
            return _untagged(stack, *found)
    if best is None:
        return [stack]
    _, mark, parts = best
    note = f"one of {len(parts)} stacks of a series, told apart by {mark}"
    return [
        found
        for value, part in sorted(parts.items())
        for found in _parted(Stack(tuple(part), f"{stack.part} {mark}={value}", (*stack.notes, note)))
    ]


def _best_mark(stack: Stack, whole: Line, place: dict[int, float]) -> tuple[Rank, str, dict[str, list[Header]]] | None:
    """The mark that leaves the best parts, how good they are, and the parts by its values."""
    best: tuple[Rank, str, dict[str, list[Header]]] | None = None
    for index, mark in enumerate(MARKS):
        if whole.is_even and mark in _MAY_ALTERNATE:
            continue
        parts: dict[str, list[Header]] = defaultdict(list)
        for one in stack.slices:
            parts[one.marks[index]].append(one)
        if len(parts) < 2:
            continue
        rank = _rank(whole, [Line(part, place) for part in parts.values()])
        if rank and (best is None or rank < best[0]):
            best = (rank, mark, parts)
    return best


def _untagged(stack: Stack, name: str, parts: Sequence[Line]) -> list[Stack]:
    copies = {id(group[0]): group for group in copies_of(stack.slices)}
    notes = (*stack.notes, f"one of {len(parts)} stacks of a series, told apart by {name}")
    return [
        Stack(tuple(copy for one in part.slices for copy in copies[id(one)]), f"{stack.part} {name}={turn}", notes)
        for turn, part in enumerate(parts)
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


def _rank(whole: Line, parts: list[Line]) -> Rank | None:
    """How good parts are, less being better; None where they are no reason to part the stack.

    A mark may differ from slice to slice (AcquisitionNumber does where the table moves step by step): parts that lie
    one above the other stay one stack.
    """
    uneven = sum(len(part.places) for part in parts if not part.is_even)
    if not whole.doubles:
        return None if uneven or not interleave(parts) else (0, 0, len(parts))
    small = sum(len(part.places) for part in parts if len(part.places) < SLICES_MIN)
    doubles = sum(part.doubles for part in parts)
    if 2 * small > len(whole.places) or doubles >= whole.doubles:
        return None
    return uneven, doubles, len(parts)
