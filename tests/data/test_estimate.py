"""Time and disk are told from headers, before anything is read; what the disk cannot hold is not begun."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources import block, write_nifti, write_series
from volssl.data import Store, prepare
from volssl.data.crew import Crew
from volssl.data.discovery import discover
from volssl.data.estimate import START_SECONDS, as_bytes, as_time, estimate
from volssl.data.sources import Source, gather
from volssl.errors import UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """A CT series of 24×20×12 voxels, a NIfTI file of 30×30×30 floats."""
    write_series(tmp_path / "in" / "ct", block(0))
    write_nifti(tmp_path / "in" / "t1.nii", np.random.RandomState(0).gamma(2, 60, (30, 30, 30)).astype(np.float32))
    return [one for one in gather(discover([tmp_path / "in"]).files, Crew(0)) if not hasattr(one, "reason")]


def test_disk_and_time_grow_with_the_voxels(sources: list[Source], tmp_path: Path) -> None:
    told = estimate(sources, tmp_path, workers=1)
    assert told.volumes == 2
    assert told.disk_bytes == pytest.approx(24 * 20 * 12 * 2 * 0.55 + 30**3 * 4 * 0.9)
    assert told.seconds - START_SECONDS == pytest.approx((24 * 20 * 12 * 0.012 + 30**3 * 0.025) / 1e6)
    assert str(told).startswith("2 volumes to read: about 2 s and 104 kB on disk (")


def test_the_estimate_is_not_far_from_what_is_written(sources: list[Source], tmp_path: Path) -> None:
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    written = sum(path.stat().st_size for path in (tmp_path / "store" / "volumes").iterdir())
    assert Store.open(tmp_path / "store").rows.num_rows == 2
    assert 0.5 < estimate(sources, tmp_path, workers=1).disk_bytes / written < 2


def test_what_the_disk_cannot_hold_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nifti(tmp_path / "in" / "a.nii", block(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 9_000, 1_000))
    with pytest.raises(UserError, match=r"1e\+03 bytes free|1 kB free"):
        prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    assert list((tmp_path / "store" / "volumes").iterdir()) == []
    monkeypatch.undo()
    assert prepare([tmp_path / "in"], tmp_path / "store", workers=0).stored == 1


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (123e6, "123 MB"), (4.2e13, "42 TB")]
)
def test_bytes_as_people_say_them(count: float, text: str) -> None:
    assert as_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert as_time(seconds) == text
