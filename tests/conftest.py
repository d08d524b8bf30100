"""What the tests share: where real volumes lie, and one thread, so that numbers repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import split_cohort

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real volumes; a test that asks for it skips where the folder is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real volumes of shared/data are not on this machine")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """The folder of reference numbers; a test that asks for it skips where the folder is absent."""
    if not (SHARED / "reference").is_dir():
        pytest.skip("the reference numbers of shared/reference are not on this machine")
    return SHARED / "reference"


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen coarse simulated heads, with splits: ten for training, three each for validation and test."""
    from volssl.simulate.cohort import simulate_cohort

    folder = simulate_cohort(
        tmp_path_factory.mktemp("sim") / "cohort", 16, seed=5, spacing_mm=6.0, slice_mm=9.0, workers=1
    )
    split_cohort(folder, train=0.6, validation=0.2)
    return folder


@pytest.fixture(scope="session")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort's store."""
    from volssl.data import prepare

    folder = tmp_path_factory.mktemp("store") / "store"
    prepare([cohort], folder, workers=1)
    return folder
