"""The page that explains refusals knows every reason."""

from __future__ import annotations

from pathlib import Path

from volssl.data.reasons import REASONS

PAGE = Path(__file__).parents[2] / "docs" / "store.md"


def test_the_documented_reasons_are_the_codes_with_their_meaning() -> None:
    part = PAGE.read_text().split("## Reasons in rejected.csv")[1].split("##")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    assert {code.strip("`"): meaning for code, meaning in rows} == REASONS
