"""The config beside the weights of a run that MONAI alone trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigWorkflow, run

from volssl.bundle.config import bundle_config, read_config
from volssl.bundle.kept_config import keep_config
from volssl.bundle.shipped import PRETRAINING, SINGLE, TASK_BUNDLES, presets, train_configs

CONFIG = """
imports: [$from pathlib import Path]
output_dir: nowhere
max_epochs: 3
resume: false
steps: $@max_epochs * 2
trainer: {_target_: types.SimpleNamespace, run_dir: $Path(@output_dir), resume: '@resume', steps: '@steps'}
run: [{_target_: volssl.bundle.kept_config.keep_config, run: '@trainer'}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(CONFIG)
    return tmp_path / "train.yaml"


def trained(file: Path, **override: Any) -> dict[str, Any]:
    workflow = ConfigWorkflow(str(file), logging_file=False, workflow_type="train", **override)
    workflow.initialize()
    workflow.run()
    kept: dict[str, Any] = yaml.safe_load((file.parent / "run" / "config.yaml").read_text())
    return kept


def test_the_config_is_kept_with_what_was_said_otherwise_and_nothing_of_it_resolved(file: Path) -> None:
    kept = trained(file, output_dir=file.parent / "run", max_epochs=5)
    assert kept == yaml.safe_load(CONFIG) | {"output_dir": str(file.parent / "run"), "max_epochs": 5}


def test_a_run_that_goes_on_keeps_the_config_that_it_was_begun_with(file: Path) -> None:
    trained(file, output_dir=str(file.parent / "run"), max_epochs=5)
    assert trained(file, output_dir=str(file.parent / "run"), max_epochs=7, resume=True)["max_epochs"] == 5
    assert trained(file, output_dir=str(file.parent / "run"), max_epochs=7)["max_epochs"] == 7


def test_the_command_of_monai_keeps_it_too(file: Path) -> None:
    run("run", config_file=str(file), output_dir=str(file.parent / "run"), max_epochs=4)
    assert yaml.safe_load((file.parent / "run" / "config.yaml").read_text())["max_epochs"] == 4


def test_where_no_workflow_runs_nothing_is_kept(tmp_path: Path) -> None:
    keep_config(SimpleNamespace(run_dir=tmp_path, resume=False))
    assert list(tmp_path.iterdir()) == []


CONFIGS = [
    (bundle, name, preset)
    for bundle in (PRETRAINING, *TASK_BUNDLES.values())
    for name in train_configs(bundle)
    for preset in presets(bundle, name)
]


@pytest.mark.parametrize(("bundle", "name", "preset"), [*CONFIGS, (PRETRAINING, "train", SINGLE)])
def test_every_config_that_trains_keeps_itself_first(bundle: str, name: str, preset: str) -> None:
    files = bundle_config(bundle, name, preset=preset) if name in train_configs(bundle) else [shipped_train()]
    first, second = read_config(files)["run"]
    assert first["_target_"] == "volssl.bundle.kept_config.keep_config"
    assert second == f"${first['run']}.run()"


def shipped_train() -> Path:
    """What trained the weights of `volume_pretraining`, in one file."""
    return bundle_config(PRETRAINING, "swav")[0].parent / "train.yaml"
