"""Slices of a series fall into stacks: together where they are one scan, apart where they interleave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.data.sources import block, write_series
from volssl.data.dicom import series as series_module
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.dicom.series import Series, grouped
from volssl.data.dicom.tags import MARKS
from volssl.data.discovery import discover
from volssl.data.volume import RefusedError


@pytest.fixture(scope="module")
def slice_header(tmp_path_factory: pytest.TempPathFactory) -> Header:
    folder = tmp_path_factory.mktemp("slice")
    write_series(folder, block(0)[..., :1])
    (headers,) = read_headers(discover([folder]).files)
    assert isinstance(headers, tuple)
    return headers[0]


def stack(header: Header, places: Sequence[float], **marks: object) -> list[Header]:
    """A slice at each place along z in mm, with these marks: a text for all, or one a slice."""
    made = []
    for index, z_mm in enumerate(places):
        values = dict.fromkeys(MARKS, "")
        for name, value in marks.items():
            values[name.replace("_", " ")] = str(value[index] if isinstance(value, list) else value)
        sop = f"{z_mm} {sorted(marks.items())} {index}"
        made.append(
            replace(header, position_mm=(0.0, 0.0, float(z_mm)), sop=sop, slice_sop=sop, marks=tuple(values.values()))
        )
    return made


def numbered(slices: Sequence[Header], numbers: Sequence[int], **more: object) -> list[Header]:
    """The slices with these instance numbers."""
    return [replace(one, instance=number, **more) for one, number in zip(slices, numbers, strict=True)]


def timed(slices: Sequence[Header], start: int) -> list[Header]:
    """The slices with content times a second apart."""
    return [replace(one, content_time=f"12{start + index:04d}") for index, one in enumerate(slices)]


def shifted(slices: Sequence[Header], x_mm: float) -> list[Header]:
    return [replace(one, position_mm=(x_mm, *(one.position_mm or ())[1:])) for one in slices]


def lengths(series: list[Series]) -> list[int]:
    return sorted(len(one.slices) for one in series)


def places_mm(one: Series) -> list[float]:
    return sorted(header.position_mm[2] for header in one.slices if header.position_mm)


def test_an_acquisition_for_every_slice_is_one_stack(slice_header: Header) -> None:
    assert lengths(grouped(stack(slice_header, range(12), acquisition=list(range(12))))) == [12]


def test_an_acquisition_for_every_table_position_is_one_stack(slice_header: Header) -> None:
    numbers = [index // 6 for index in range(24)]
    assert lengths(grouped(stack(slice_header, range(24), acquisition=numbers))) == [24]


def test_two_kernels_one_above_the_other_are_one_stack(slice_header: Header) -> None:
    kernels = ["base"] * 8 + ["vertex"] * 8
    assert lengths(grouped(stack(slice_header, range(16), kernel=kernels))) == [16]


def test_stacks_that_interleave_evenly_come_apart_by_their_tag(slice_header: Header) -> None:
    first = stack(slice_header, np.arange(0, 50, 5.0), acquisition=1)
    second = stack(slice_header, np.arange(2.5, 52, 5.0), acquisition=2)
    one, other = grouped([*first, *second])
    assert places_mm(one) == list(np.arange(0, 50, 5.0))
    assert places_mm(other) == list(np.arange(2.5, 52, 5.0))
    assert one.identity != other.identity


def test_slices_acquired_in_turns_stay_one_stack(slice_header: Header) -> None:
    times = [index % 2 for index in range(20)]  # odd slices are acquired after the even ones
    assert lengths(grouped(stack(slice_header, range(20), trigger_time=times))) == [20]


def test_thin_and_thick_slices_of_one_series_come_apart(slice_header: Header) -> None:
    thin = stack(slice_header, range(51), slice_thickness=1)
    thick = stack(slice_header, range(0, 51, 5), slice_thickness=5)
    assert lengths(grouped([*thin, *thick])) == [11, 51]


def test_overlapping_helices_come_apart(slice_header: Header) -> None:
    chest = stack(slice_header, np.arange(0, 30, 1.0), acquisition=1)
    abdomen = stack(slice_header, np.arange(25.5, 60, 1.0), acquisition=2)
    assert lengths(grouped([*chest, *abdomen])) == [30, 35]


def test_echoes_and_image_types_are_parted_one_after_the_other(slice_header: Header) -> None:
    times = {(echo, kind): [f"{echo}{kind}{n}" for n in range(8)] for echo in (1, 2, 3) for kind in "MP"}  # all differ
    slices = [
        header
        for echo in (1, 2, 3)
        for kind in ("M", "P")
        for header in stack(slice_header, range(8), echo=echo, image_type=kind, acquisition_time=times[echo, kind])
    ]
    series = grouped(slices)
    assert lengths(series) == [8] * 6
    assert len({one.identity for one in series}) == 6
    assert all(len(one.notes) == 2 for one in series)


def test_a_repeated_slice_does_not_spoil_the_stack(slice_header: Header) -> None:
    again = stack(slice_header, [7], acquisition=2)
    assert lengths(grouped([*stack(slice_header, range(12), acquisition=1), *again])) == [1, 12]


def test_a_series_of_times_is_refused_as_a_whole(slice_header: Header) -> None:
    slices = [header for time in range(40) for header in stack(slice_header, range(6), time=time)]
    (series,) = grouped(slices)
    with pytest.raises(RefusedError) as caught:
        series.read()
    assert caught.value.reason == "time_series"
    assert "40 stacks" in caught.value.sentence


def test_the_order_of_headers_changes_nothing(slice_header: Header) -> None:
    slices = [header for echo in (1, 2) for header in stack(slice_header, range(12), echo=echo)]
    shuffled = [slices[index] for index in np.random.RandomState(0).permutation(24)]
    first, second = grouped(slices), grouped(shuffled)
    assert [one.identity for one in first] == [one.identity for one in second]
    assert [one.stamp for one in first] == [one.stamp for one in second]


def test_what_cannot_be_grouped_is_refused_and_stops_nothing(
    slice_header: Header, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = series_module.stacks_of

    def fail(series: list[Header]) -> object:
        if series[0].series == "bad":
            raise ValueError("nobody foresaw it")
        return whole(series)

    monkeypatch.setattr(series_module, "stacks_of", fail)
    bad = [replace(one, series="bad") for one in stack(slice_header, range(3))]
    strange = replace(slice_header, image_type=None)  # type: ignore[arg-type]
    series = grouped([*bad, strange, *stack(slice_header, range(12))])
    assert lengths(series) == [1, 3, 12]
    assert len({one.source for one in series}) == 3
    for one in series:
        if len(one.slices) < 12:
            assert (one.voxels, len(one.files)) == (0, 1)
            with pytest.raises(RefusedError, match="failed"):
                one.read()


EVERY_3, BETWEEN = np.arange(0, 36, 3.0), np.arange(1.5, 37, 3.0)
ODD_FIRST = [*range(1, 13, 2), *range(2, 13, 2)]


@pytest.mark.parametrize("numbers", [range(1, 25), range(24, 0, -1)])
def test_numbers_that_run_along_the_stack_leave_it_whole_whatever_the_times(
    slice_header: Header, numbers: range
) -> None:
    half = timed(stack(slice_header, np.arange(0, 72, 6.0)), 0)
    rest = timed(stack(slice_header, np.arange(3, 72, 6.0), trigger_time=1), 100)
    ordered = sorted([*half, *rest], key=lambda one: (one.position_mm or ())[2])
    (series,) = grouped(numbered(ordered, list(numbers)))
    assert (len(series.slices), series.notes) == (24, ())


def test_numbers_without_order_leave_a_stack_whole(slice_header: Header) -> None:
    shuffled = np.random.RandomState(1).permutation(24).tolist()
    assert lengths(grouped(numbered(stack(slice_header, range(24)), shuffled))) == [24]


def test_two_blocks_one_above_the_other_are_one_stack_though_numbered_anew(slice_header: Header) -> None:
    numbers = [*range(13, 25), *range(1, 13)]
    assert lengths(grouped(numbered(stack(slice_header, range(24)), numbers))) == [24]
    assert lengths(grouped(numbered(stack(slice_header, range(24)), [*range(12), *range(12)]))) == [24]


@pytest.mark.parametrize(("thickness_mm", "expected"), [("1.0", [24]), ("2.0", [12, 12]), ("", [12, 12])])
def test_mr_numbered_as_it_was_taken_stays_whole_where_slices_do_not_overlap(
    slice_header: Header, thickness_mm: str, expected: list[int]
) -> None:
    slices = [replace(one, modality="MR") for one in stack(slice_header, range(24), slice_thickness=thickness_mm)]
    order = [index // 2 if index % 2 == 0 else 12 + index // 2 for index in range(24)]  # every second slice first
    assert lengths(grouped(numbered(slices, order))) == expected


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (range(1, 13), range(13, 25), "order of instance numbers"),
        (range(12, 0, -1), range(13, 25), "order of instance numbers"),
        (range(1, 13), range(24, 12, -1), "order of instance numbers"),
        (range(1, 13), range(1, 13), "equal instance numbers"),
    ],
)
def test_stacks_half_a_step_apart_come_apart_by_their_numbers(
    slice_header: Header, first: range, second: range, told: str
) -> None:
    slices = [*numbered(stack(slice_header, EVERY_3), first), *numbered(stack(slice_header, BETWEEN), second)]
    copy = replace(slices[3], found=replace(slices[3].found, name="copy"))
    one, other = grouped([*slices, copy])
    assert places_mm(one) == sorted([*EVERY_3, 9.0])
    assert places_mm(other) == list(BETWEEN)
    assert (
        one.notes == other.notes == (f"one of 2 stacks of a series, told apart by {'the ' * ('order' in told)}{told}",)
    )
    assert one.identity != other.identity


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (range(1, 13), range(13, 25)),
        (range(1, 24, 2), range(2, 25, 2)),
        (range(23, 0, -2), range(24, 1, -2)),
        (ODD_FIRST, [12 + number for number in ODD_FIRST]),
    ],
)
def test_phases_at_the_same_places_come_apart_by_their_numbers(
    slice_header: Header, first: Sequence[int], second: Sequence[int]
) -> None:
    early = numbered(stack(slice_header, EVERY_3), first, slope=1.0)
    late = numbered(stack(slice_header, EVERY_3, acquisition=""), second, slope=2.0)
    late = [replace(one, sop=f"late {one.sop}") for one in late]
    series = grouped([*early, *late])
    assert [{one.slope for one in part.slices} for part in series] == [{1.0}, {2.0}]
    assert lengths(series) == [12, 12]


def test_phases_with_the_same_numbers_come_apart_by_their_times(slice_header: Header) -> None:
    late = [replace(one, sop=f"late {one.sop}") for one in timed(stack(slice_header, EVERY_3), 300)]
    series = grouped(numbered([*timed(stack(slice_header, EVERY_3), 0), *late], [*range(12), *range(12)]))
    assert [{one.content_time[:3] for one in part.slices} for part in series] == [{"120"}, {"120"}]
    assert [min(one.content_time for one in part.slices) for part in series] == ["120000", "120300"]
    assert lengths(series) == [12, 12]
    assert series[0].notes == ("one of 2 stacks of a series, told apart by the order of content times",)


def test_times_of_scanners_that_take_slices_at_once_do_not_cut_phases_in_pieces(slice_header: Header) -> None:
    times = [f"{index // 6}" for index in range(24)]
    early, late = (
        stack(slice_header, EVERY_3, acquisition_time=times[:12]),
        stack(slice_header, EVERY_3, acquisition_time=times[12:]),
    )
    assert lengths(grouped(numbered([*early, *late], range(24)))) == [12, 12]


def test_phases_without_any_order_stay_together(slice_header: Header) -> None:
    late = [replace(one, sop=f"late {one.sop}") for one in stack(slice_header, EVERY_3)]
    slices = [*stack(slice_header, EVERY_3), *late]
    assert lengths(grouped(slices)) == [24]
    assert lengths(grouped(numbered(slices, np.random.RandomState(0).permutation(24).tolist()))) == [24]


def test_stacks_with_other_origins_come_apart(slice_header: Header) -> None:
    one, other = grouped([*stack(slice_header, EVERY_3), *shifted(stack(slice_header, BETWEEN), 5.0)])
    assert (places_mm(one), places_mm(other)) == (list(EVERY_3), list(BETWEEN))
    assert one.notes == ("one of 2 stacks of a series, told apart by the origin of their slices",)


def test_a_tilt_that_moves_every_origin_leaves_the_stack_whole(slice_header: Header) -> None:
    tilted = [
        replace(one, position_mm=(0.0, 0.03 * index, 3.0 * index))
        for index, one in enumerate(stack(slice_header, np.arange(0, 120, 3.0)))
    ]
    assert lengths(grouped(tilted)) == [40]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_slices_are_one_stack(slice_header: Header, count: int) -> None:
    assert lengths(grouped(numbered(stack(slice_header, np.arange(count) ** 2), range(count)))) == [count]
