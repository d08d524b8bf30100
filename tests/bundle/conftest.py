"""One short line for all tests of bundles: twelve coarse simulated heads, one epoch, exported.

The voxel sizes are no float32 numbers, so that NIfTI and DICOM disagree on them in the eighth digit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from volssl.bundle.export import export_run
from volssl.bundle.workflow import finetune
from volssl.data import prepare
from volssl.simulate.cohort import simulate_cohort

GRID = (32, 36, 12)
N = 12


@dataclass(frozen=True)
class Line:
    """Folders of the line; `dicom` holds the first two studies of the cohort as DICOM series."""

    cohort: Path
    dicom: Path
    store: Path
    run: Path
    bundle: Path

    @property
    def volumes(self) -> list[Path]:
        return sorted((self.cohort / "volumes").glob("*.nii.gz"))

    @property
    def series(self) -> list[Path]:
        return sorted((self.dicom / "volumes").iterdir())


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """Simulated, prepared, fine-tuned and exported; nobody changes it."""
    root = tmp_path_factory.mktemp("line")
    made = Line(root / "cohort", root / "dicom", root / "store", root / "run", root / "bundle")
    simulate_cohort(made.cohort, N, spacing_mm=4.1, slice_mm=8.2, workers=1)
    simulate_cohort(made.dicom, 2, spacing_mm=4.1, slice_mm=8.2, fmt="dicom", workers=1)
    prepare([made.cohort], made.store, workers=0)
    words = ["max_epochs=1", "batch_size=4", f"task::grid={list(GRID)}"]
    finetune("hemorrhage", store=made.store, labels=made.cohort / "labels.csv", out=made.run, words=words)
    export_run(made.run, made.bundle)
    return made


@pytest.fixture
def bundle_copy(line: Line, tmp_path: Path) -> Path:
    """A copy of the bundle to change."""
    copy: Path = shutil.copytree(line.bundle, tmp_path / "bundle")
    return copy


@pytest.fixture
def run_copy(line: Line, tmp_path: Path) -> Path:
    """A copy of the run to change."""
    copy: Path = shutil.copytree(line.run, tmp_path / "run")
    return copy


@pytest.fixture
def edited(bundle_copy: Path) -> Callable[[str, str], Path]:
    """Replaces a text of the inference config, which must be there, and returns the bundle."""

    def edit(old: str, new: str) -> Path:
        path = bundle_copy / "configs" / "inference.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return bundle_copy

    return edit
