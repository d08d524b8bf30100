"""Reads a page as a program does, and opens it as a reader's browser does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--virtual-time-budget=4000",
]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--dump-dom"]
PROBE = """<script>
let errors = 0; addEventListener("error", () => errors++, true); console.error = () => errors++;
onload = () => { const told = document.createElement("pre"); told.id = "told";
  told.textContent = JSON.stringify({errors, pictures: document.images.length,
    loaded: [...document.images].filter(image => image.naturalWidth).length,
    over: document.documentElement.scrollWidth - document.documentElement.clientWidth});
  document.body.append(told) }
</script>"""


class Elements(HTMLParser):
    """All start tags with their attributes, and the visible text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def pictures(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def opened_in_a_browser(page: Path, *, width: int = 1200) -> dict[str, int]:
    """What Chromium makes of a page: script errors, pictures, pictures that loaded, pixels it is too wide."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / "probed.html"
        probed.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
        command = [
            CHROMIUM,
            *OPTIONS,
            f"--window-size={width},900",
            f"--user-data-dir={folder}/profile",
            probed.as_uri(),
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found: dict[str, int] = json.loads(re.findall(r'<pre id="told">(.*?)</pre>', shown)[0])
    return found
