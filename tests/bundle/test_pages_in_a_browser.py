"""The pages that real runs write, opened in Chromium: no script error, every figure is seen, nothing is too wide."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.conftest import Line
from tests.pages import CHROMIUM, Elements, opened_in_a_browser
from volssl.bundle.embed import embed_run
from volssl.bundle.evaluate import evaluate_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def seen_whole(page: Path) -> Elements:
    """The page, after a browser showed all of it without an error."""
    elements = Elements(page)
    count = len(elements.pictures())
    assert count > 0
    assert opened_in_a_browser(page) == {"errors": 0, "pictures": count, "loaded": count, "over": 0}
    return elements


def alts(page: Elements) -> str:
    return " ".join(picture["alt"] or "" for picture in page.pictures())


def test_the_page_of_a_pretraining(swav_run: Path) -> None:
    page = seen_whole(swav_run / "report.html")
    assert "Views of the first batch" in alts(page)
    assert "Loss" in alts(page)


def test_the_page_of_a_fine_tuning(line: Line) -> None:
    page = seen_whole(line.run / "report.html")
    assert "What the classifier is fed" in alts(page)
    assert "Loss" in alts(page)


def test_the_page_of_an_evaluation_with_what_spoke_for_each_score(line: Line, tmp_path: Path) -> None:
    evaluate_run(line.run, store=line.store, labels=line.cohort / "labels.csv", split="train", out=tmp_path)
    page = seen_whole(tmp_path / "report.html")
    assert "HiResCAM" in page.text
    assert "spoke for" in alts(page)


def test_the_page_of_the_prototypes(swav_run: Path, store: Path, tmp_path: Path) -> None:
    files = embed_run(swav_run, store=store, out=tmp_path).files
    assert tmp_path / "prototypes.html" in files
    seen_whole(tmp_path / "prototypes.html")


def test_a_broken_page_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><html><head><title>broken</title></head><body><img src='data:image/png;base64,AAAA'>"
        "<div style='width:1300px'>wide</div><script>console.error('one'); missing()</script></body></html>"
    )
    found = opened_in_a_browser(page)
    assert (found["errors"], found["pictures"], found["loaded"]) == (3, 1, 0)  # said, thrown, not loaded
    assert found["over"] > 100
