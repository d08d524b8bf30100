"""Short lines for all tests of bundles: twelve coarse simulated heads, one epoch, exported; brains; a pretraining.

The voxel sizes are no float32 numbers, so that NIfTI and DICOM disagree on them in the eighth digit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny import CROPS, TINY, split_cohort
from volssl.bundle.export import export_run
from volssl.bundle.workflow import finetune, pretrain
from volssl.data import prepare
from volssl.simulate.cohort import simulate_brain_mr_cohort, simulate_cohort

GRID = (32, 36, 12)
N = 12
BRAIN_GRID = (32, 32, 16)
BRAIN_WORDS = ("max_epochs=1", "suspect_epochs=2", "batch_size=4", "scored=4", "ema=0.5")
BRAIN_SIZE = (f"task::grid={list(BRAIN_GRID)}", "task::spacing_mm=[6.0, 6.0, 10.0]")
CROP = (24, 28, 8)
PRETRAINING = (*TINY, *CROPS, "method::prototypes=6")


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


@pytest.fixture(scope="session")
def brain_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four coarse brains: half of the patients for training, a quarter each for validation and test."""
    folder = tmp_path_factory.mktemp("brains") / "cohort"
    simulate_brain_mr_cohort(folder, 24, seed=5, spacing_mm=6.0, slice_mm=9.0, stripped=True, workers=1)
    split_cohort(folder, train=0.5, validation=0.25)
    return folder


@pytest.fixture(scope="session")
def brain_store(brain_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their store."""
    folder = tmp_path_factory.mktemp("brains") / "store"
    prepare([brain_cohort], folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def brain_run(brain_cohort: Path, brain_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages of metastasis, one command."""
    out = tmp_path_factory.mktemp("brains") / "run"
    labels = brain_cohort / "labels.csv"
    finetune("metastasis", store=brain_store, labels=labels, out=out, words=[*BRAIN_WORDS, *BRAIN_SIZE])
    return out


@pytest.fixture(scope="session")
def brain_bundle(brain_run: Path) -> Path:
    """Its bundle."""
    export_run(brain_run, brain_run.parent / "bundle")
    return brain_run.parent / "bundle"


@pytest.fixture(scope="session")
def swav_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch of 3D SwAV on the sixteen heads that all tests share."""
    out = tmp_path_factory.mktemp("swav") / "run"
    pretrain("swav", store=store, out=out, words=PRETRAINING)
    return out


@pytest.fixture(scope="session")
def swav_bundle(swav_run: Path) -> Path:
    """Its bundle."""
    export_run(swav_run, swav_run.parent / "bundle", formats=["torchscript", "onnx"])
    return swav_run.parent / "bundle"
