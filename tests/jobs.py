"""The jobs of a comparison in the test's own process: processes of their own take seconds each to start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volssl.bundle import compare_worker
from volssl.bundle.compare_jobs import Job

RUN_PART = "volssl.bundle.compare_runner.run_part"  # what `run_here` stands in for


def run_here(job: Job, part: Mapping[str, Any], started: list[Any]) -> None:
    """Run one part; what it raises goes through."""
    getattr(compare_worker, part["part"])(part)
