"""`volssl compare` takes several encoders and fractions after one option, and overrides after them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from volssl.bundle.shipped import TASK_BUNDLES


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `compare` was called with."""
    told: dict[str, Any] = {}

    def noted(task: str, **options: Any) -> list[Path]:
        told.update(options, task=task)
        return [Path("report.html")]

    monkeypatch.setattr("volssl.bundle.compare.compare", noted)
    return told


def test_options_take_all_words_up_to_the_next(
    volssl_command: Callable[..., Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    named = f"SwAV={tmp_path / 'b'}"
    words = ["--encoders", "scratch", "runs/a", named, "--fractions", "0.1", "1", "--seeds", "2", "--out", "x"]
    answer = volssl_command("compare", "hemorrhage", "--store", "s", "--labels", "l", *words, "max_epochs=3")
    assert answer.code == 0
    assert asked["encoders"] == ["scratch", "runs/a", named]
    assert asked["fractions"] == [0.1, 1.0]
    assert (asked["seeds"], asked["task"], asked["words"]) == (2, "hemorrhage", ["max_epochs=3"])


def test_overrides_may_follow_the_encoders(volssl_command: Callable[..., Any], asked: dict[str, Any]) -> None:
    words = ["--out", "x", "--modes", "full,knn", "--encoders", "scratch", "max_epochs=3", "task::slices=false"]
    volssl_command("compare", "--store", "s", "--labels", "l", "hemorrhage", *words)
    assert asked["encoders"] == ["scratch"]
    assert asked["words"] == ["max_epochs=3", "task::slices=false"]
    assert asked["modes"] == ["full", "knn"]
    assert tuple(asked["fractions"]) == (0.1, 0.25, 0.5, 1.0)


def test_the_help_names_every_task_that_can_be_compared(volssl_command: Callable[..., Any]) -> None:
    said = volssl_command("compare", "--help").out
    assert [task for task in TASK_BUNDLES if task not in said] == []
