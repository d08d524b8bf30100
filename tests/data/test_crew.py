"""A crew keeps the order, survives a worker that dies, and goes when its parent is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from volssl.data.crew import CrashError, crew

ORPHANS = """
import os, time
from tests.data.test_crew import name_yourself
from volssl.data.crew import Crew
print(os.getpid(), flush=True)
for _ in Crew(2).map(name_yourself, ["{folder}"] * 200):
    pass
"""


def die_over_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


def hang_at_two(number: int) -> int:
    if number == 2:
        os.write(2, b"a library's own words")
        re.match(r"(a+)+$", "a" * 40 + "b")  # C code that keeps the interpreter's lock for years
    return number


def name_yourself(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(0.1)


def test_an_item_that_kills_its_worker_is_told_and_the_others_are_done() -> None:
    with crew(2) as hands:
        results = list(hands.map(die_over_three, range(6)))
    assert [result for result in results if not isinstance(result, CrashError)] == [0, 1, 4, 16, 25]
    assert isinstance(results[3], CrashError)


def test_an_item_that_hangs_in_a_library_is_given_up_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with crew(2, limit_s=1.0) as hands:
        results = list(hands.map(hang_at_two, range(5)))
    assert [result for result in results if not isinstance(result, CrashError)] == [0, 1, 3, 4]
    assert str(results[2]) == "it was not done after 1 seconds"
    assert "own words" not in capfd.readouterr().err


def test_workers_go_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS.format(folder=tmp_path)], cwd=Path(__file__).parents[2])
    while not any(tmp_path.iterdir()):
        assert parent.poll() is None
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    end = time.monotonic() + 5
    while any(Path(f"/proc/{worker}/cmdline").exists() and _runs(worker) for worker in workers):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.05)
    assert workers


def _runs(worker: int) -> bool:
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
