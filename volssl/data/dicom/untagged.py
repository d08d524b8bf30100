"""Stacks that lie in one another though no tag tells them apart: by their origin, their slices' order, or the gaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import Any

from volssl.data.dicom.headers import Header
from volssl.data.dicom.lines import SLICES_MIN, Line, dot, gap_tolerance, interleave
from volssl.data.dicom.tags import MARKS

ORIGIN_TOLERANCE_MM = 0.1  # origins in the plane of the slices that differ by less are one
JUMP = 0.75  # of the usual step: a shorter one leads to another stack
OVERLAP = 1.2  # thickness by gap: above it slices overlap
_THICKNESS, _ACQUISITION_TIME = (list(MARKS).index(mark) for mark in ("slice thickness", "acquisition time"))

Key = Callable[[Header], Any]
Groups = Sequence[Sequence[Header]]
_NUMBER: tuple[str, Key] = ("the order of instance numbers", attrgetter("instance"))
_TIMES: list[tuple[str, Key]] = [
    ("the order of content times", attrgetter("content_time")),
    ("the order of acquisition times", lambda one: one.marks[_ACQUISITION_TIME]),
]


def parts_without_tag(whole: Line, place: dict[int, float]) -> tuple[str, list[Line]] | None:
    """The stacks that the slices are, and what tells them apart; None where they are one, or nothing tells.

    Each is even and has slices enough, and they lie in one another.

    Args:
        place: of each slice along the normal in mm, by its `id`.
    """
    if len(whole.slices) < 2 * SLICES_MIN:
        return None
    for name, groups in _ways(whole, place):
        if not 2 <= len(groups) <= len(whole.slices) // SLICES_MIN:
            continue
        parts = [Line(group, place) for group in groups]
        if all(part.is_even for part in parts) and (whole.doubles or interleave(parts)):
            return name, parts
    return None


def _ways(whole: Line, place: dict[int, float]) -> Iterator[tuple[str, Groups]]:
    """Ways to part the slices, the surest first.

    Slices that lie evenly, one at a place, are one stack in whatever order they were taken: scanners take every second
    slice first. Only numbers that run through the stack more than once speak against it, and not where an MR is as
    thick as its gaps: then numbers tell the order in which they were taken.
    """
    yield "the origin of their slices", _by_origin(whole)
    if whole.is_even and (
        _is_mr_of_touching_slices(whole) or not all(one.instance is not None for one in whole.slices)
    ):
        return
    for name, key in [_NUMBER] if whole.is_even else [_NUMBER, *_TIMES]:
        if any(key(one) in (None, "") for one in whole.slices):
            continue
        if whole.doubles:
            yield name, _turns(whole, key)
        yield name, _runs(whole, key, place)
        if key is _NUMBER[1] and not whole.doubles:
            yield "equal instance numbers", _repeated(whole)
    if not whole.is_even and not whole.doubles:
        yield "position alone", _alternating(whole, place)


def _is_mr_of_touching_slices(whole: Line) -> bool:
    text = whole.slices[0].marks[_THICKNESS]
    try:
        thickness_mm = float(text)
    except ValueError:
        return False
    return whole.slices[0].modality == "MR" and 0 < thickness_mm <= OVERLAP * whole.usual_mm


def _by_origin(whole: Line) -> Groups:
    """Slices of one place in the plane."""
    x, y = (whole.slices[0].orientation or ())[:3], (whole.slices[0].orientation or ())[3:]
    origins: list[tuple[float, float, list[Header]]] = []
    for one in whole.slices:
        across, down = dot(x, one.position_mm or ()), dot(y, one.position_mm or ())
        for its_across, its_down, members in origins:
            if abs(across - its_across) <= ORIGIN_TOLERANCE_MM and abs(down - its_down) <= ORIGIN_TOLERANCE_MM:
                members.append(one)
                break
        else:
            if len(origins) * SLICES_MIN > len(whole.slices):
                return []  # a tilt shifts every slice
            origins.append((across, down, [one]))
    return [members for _, _, members in origins]


def _turns(whole: Line, key: Key) -> Groups:
    """The first slice at every place, the second, and so on: where all first ones come before all second ones, or
    all slices of a place before those of the next place.
    """
    at_place: list[list[Header]] = []
    for one, again in zip(whole.slices, whole.doubled, strict=True):
        if again:
            at_place[-1].append(one)
        else:
            at_place.append([one])
    at_place = [sorted(group, key=key) for group in at_place]
    if any(len(set(map(key, group))) != len(at_place[0]) or len(group) != len(at_place[0]) for group in at_place):
        return []
    turns: list[tuple[Header, ...]] = list(zip(*at_place, strict=True))
    in_order = any(_follow(groups, key) for groups in (turns, at_place, at_place[::-1]))
    return turns if in_order else []


def _follow(groups: Groups, key: Key) -> bool:
    return all(max(map(key, low)) < min(map(key, high)) for low, high in pairwise(groups))


def _runs(whole: Line, key: Key, place: dict[int, float]) -> Groups:
    """Slices in their order, parted where it turns back, or goes on by less than a step."""
    ordered = sorted(whole.slices, key=lambda one: (key(one), one.instance or 0, place[id(one)]))
    steps = [place[id(high)] - place[id(low)] for low, high in pairwise(ordered)]
    usual = median(map(abs, steps))
    runs, ahead = [[ordered[0]]], 0.0
    for one, step in zip(ordered[1:], steps, strict=True):
        if step * ahead < 0 or abs(step) < JUMP * usual:
            runs.append([one])
            ahead = 0.0
        else:
            runs[-1].append(one)
            ahead = step
    return runs


def _repeated(whole: Line) -> Groups:
    """The lowest slice of each number, the next, and so on: each stack has its own numbers from 1."""
    of_number: dict[int | None, list[Header]] = defaultdict(list)
    for one in whole.slices:
        of_number[one.instance].append(one)
    if len({len(group) for group in of_number.values()}) != 1:
        return []
    return list(zip(*of_number.values(), strict=True))


def _alternating(whole: Line, place: dict[int, float]) -> Groups:
    """Two stacks of one step: gaps of 1, 4, 1, 4 mm."""
    parts = whole.slices[::2], whole.slices[1::2]
    steps = [Line(part, place).usual_mm for part in parts]
    return parts if abs(steps[0] - steps[1]) <= gap_tolerance(steps[0]) else []
