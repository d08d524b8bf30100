"""What the terminal shows of several processes that train together."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl.data.preparation import PrepareSummary
from volssl.progress import counted, say


@pytest.mark.parametrize(("rank", "heard"), [("0", "written\nwrong\n"), ("1", "wrong\n")])
def test_the_first_rank_alone_speaks_but_of_errors(
    rank: str, heard: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    say("written")
    say("wrong", every_rank=True)
    assert capfd.readouterr().err == heard


@pytest.mark.parametrize(
    ("n", "what", "words"),
    [(0, "volume", "0 volumes"), (1, "study", "1 study"), (2, "study", "2 studies"), (2000, "volume", "2,000 volumes")],
)
def test_one_is_told_as_one_and_several_as_several(n: int, what: str, words: str) -> None:
    assert counted(n, what) == words


def test_a_store_of_one_volume_is_told_so() -> None:
    one = PrepareSummary(Path("store"), stored=1, volumes=1, patients=1, splits={"train": 1})
    told = "1 volume stored, 0 there before, 0 rejected; the store holds 1 of 1 patient (1 train)"
    assert str(one) == told
