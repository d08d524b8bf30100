"""What the tests share: where real volumes lie, and one thread, so that numbers repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
