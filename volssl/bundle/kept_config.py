"""Keeps the config of a run that MONAI alone trains, so that the run can be evaluated and exported."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Protocol

import yaml
from monai.bundle import ConfigWorkflow

from volssl.bundle.workflow import CONFIG
from volssl.engine.distributed import rank
from volssl.files import write_text


class Run(Protocol):
    """What trains: a trainer, or the fit of a frozen encoder's head."""

    run_dir: Path
    resume: bool


def keep_config(run: Run) -> None:
    """Write the config that is being run, overrides and all, into the folder of its run.

    The first entry of `run` in every train config, so that what `python -m monai.bundle run` trains has a config.yaml
    as well. A run that goes on has one. Where no `ConfigWorkflow` runs the config, nothing is written.
    """
    kept = run.run_dir / CONFIG
    config = running_config()
    if rank() > 0 or not config or (run.resume and kept.is_file()):
        return
    plain = json.loads(json.dumps(config, default=str))  # who calls MONAI from Python may hand it a Path
    write_text(kept, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def running_config() -> dict[str, Any]:
    """What the `ConfigWorkflow` that called this runs, but for its metadata; nothing where none did.

    MONAI hands a workflow's config to nothing that it builds: it is found among those who called.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            return {key: value for key, value in caller.parser.get().items() if key != caller.parser.meta_key}
        frame = frame.f_back
    return {}
