"""Slices of a series fall into stacks: together where they are one scan, apart where they interleave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.data.sources import block, write_series
from volssl.data.dicom import series as series_module
from volssl.data.dicom.headers import MARKS, Header, read_headers
from volssl.data.dicom.series import Series, grouped
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
