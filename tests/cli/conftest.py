"""A command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from volssl import cli


@dataclass(frozen=True)
class Answer:
    """What a command did: exit code, standard output, and the lines of standard error."""

    code: int
    out: str
    lines: list[str]


@pytest.fixture
def volssl_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `volssl` with these words."""

    def run(*words: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["volssl", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), said.out, said.err.splitlines())

    return run
