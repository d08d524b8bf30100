"""Pages: one self-contained HTML file from a template, its pictures inside it, every inserted text escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from volssl import __version__
from volssl.files import write_text

NO_DEVICE = "Research software, no medical device. Not for diagnosis, and not for decisions about patients."
NOTHING = "–"


@dataclass(frozen=True)
class Picture:
    """A picture for a page: its bytes, what it shows in words for those who do not see it, and a caption for all."""

    content: bytes
    media_type: str
    alt: str
    caption: str = ""

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"


def svg_picture(svg: str, *, alt: str, caption: str = "") -> Picture:
    """A drawing."""
    return Picture(svg.encode("utf-8"), "image/svg+xml", alt, caption)


def png_picture(path: Path, *, alt: str, caption: str = "") -> Picture:
    """A PNG file as it is."""
    return Picture(path.read_bytes(), "image/png", alt, caption)


def grey_picture(rows: npt.NDArray[Any], *, alt: str, caption: str = "") -> Picture:
    """An array (rows, columns) of values in [0, 1] as a grey PNG; values outside are clipped, NaN is black."""
    grey = np.round(255 * np.clip(np.nan_to_num(np.asarray(rows, dtype=np.float64)), 0, 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG", optimize=True)
    return Picture(file.getvalue(), "image/png", alt, caption)


def write_page(template: str, path: Path, *, title: str, simulated: str | None, **content: Any) -> Path:
    """Fill a template of `volssl/evaluation/templates` and write it, the notices on every page; returns the path."""
    notices = {"title": title, "simulated": simulated, "no_device": NO_DEVICE, "version": __version__}
    write_text(path, _environment().get_template(template).render(**notices, **content))
    return path


def number(value: float | None, digits: int = 3) -> str:
    """A figure with a fixed number of decimals, a true minus sign, and a dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) != 0 else text


def bounds(interval: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a figure, such as `0.901 to 0.953`; empty where the figure is undefined."""
    if interval["value"] is None:
        return ""
    return f"{number(interval['low'], digits)} to {number(interval['high'], digits)}"


def readable(name: str) -> str:
    """A column's name as people write it: `age_band` becomes `Age band`."""
    text = name.replace("_", " ").replace("-", " ").strip()
    return text[:1].upper() + text[1:]


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("volssl.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, bounds=bounds)
    return environment
