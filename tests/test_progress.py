"""What the terminal shows of several processes that train together."""

from __future__ import annotations

import pytest

from volssl.progress import say


@pytest.mark.parametrize(("rank", "heard"), [("0", "written\nwrong\n"), ("1", "wrong\n")])
def test_the_first_rank_alone_speaks_but_of_errors(
    rank: str, heard: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    say("written")
    say("wrong", every_rank=True)
    assert capfd.readouterr().err == heard
