"""What an awkward source is, and what prepare must make of it; the cases stand in awkward_dicom and awkward_files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """A folder of files as an archive may hold it, and the rows it must end in.

    Attributes:
        name: of the folder.
        build: writes the files into the folder, which is there and empty.
        stored: rows of the manifest.
        reasons: refusals, counted by reason.
        notes: each stands in some note of the stored rows.
        expect: further asserts, given the rows and their voxels, (C, R, A, S) each.
    """

    name: str
    build: Callable[[Path], object]
    stored: int = 1
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    expect: Callable[[list[dict[str, Any]], list[np.ndarray]], None] | None = None
