"""Headers in little memory: what comes out is what went in, whatever was packed in between."""

from pathlib import Path

import numpy as np

from tests.data.sources import write_series
from volssl.data.dicom.headers import Header, read_headers
from volssl.data.dicom.packed import Piles, pack, unpack
from volssl.data.discovery import Found

SLICES = 24


def headers(folder: Path) -> list[Header]:
    """Of a series of 24 slices."""
    write_series(folder, np.random.RandomState(0).randint(-1000, 1000, (16, 16, SLICES)).astype(np.int16))
    found = read_headers([Found.at(path, folder, "dicom") for path in sorted(folder.iterdir())])
    return [one for slices in found if isinstance(slices, tuple) for one in slices]


def test_headers_come_out_as_they_went_in(tmp_path: Path) -> None:
    before = headers(tmp_path)
    assert len(before) == SLICES
    assert list(unpack(pack(before))) == before


def test_a_packed_slice_takes_under_150_bytes(tmp_path: Path) -> None:
    assert len(pack(headers(tmp_path))) < 150 * SLICES


def test_piles_are_the_same_whether_they_were_packed_or_not(tmp_path: Path) -> None:
    given = headers(tmp_path)
    taken = []
    for loose_max in (1, 5, 1000):
        piles = Piles(loose_max=loose_max)
        for index, one in enumerate(given):
            piles.lay(("odd" if index % 2 else "even",), one)
        taken.append(list(piles.take()))
    assert taken == [[given[::2], given[1::2]]] * 3
