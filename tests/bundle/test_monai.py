"""What MONAI's own tools make of an exported bundle, from another working directory and with other values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, create_workflow, load, onnx_export
from monai.data import load_net_with_metadata

from tests.bundle.conftest import GRID, Line
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.runs import load_run
from volssl.bundle.shipped import bundle_folder
from volssl.errors import user_error_in

TASK_RECIPES = ("head_ct_hemorrhage_classification", "volume_classification", "brain_mr_metastasis_classification")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is neither the bundle's nor the repository's."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def places(line: Line, out: str) -> dict[str, str]:
    return {
        "bundle_root": str(line.bundle),
        "dataset_dir": str(line.store),
        "labels": str(line.cohort / "labels.csv"),
        "output_dir": out,
    }


def configs(line: Line, *names: str) -> list[str]:
    return [str(line.bundle / "configs" / f"{name}.yaml") for name in names]


def test_no_required_property_of_a_training_workflow_is_missing(line: Line) -> None:
    workflow = ConfigWorkflow(
        config_file=configs(line, "train"), workflow_type="train", logging_file=False, **places(line, "run")
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == 1  # what the run was trained with


@pytest.mark.parametrize("method", ["swav", "simclr"])
def test_no_required_property_of_a_pretraining_workflow_is_missing(line: Line, method: str) -> None:
    files = [str(bundle_folder("volume_pretraining") / "configs" / f"{name}.yaml") for name in ("base", method)]
    given = {"batch_size": 4, "workers": 0, "spacing_mm": [7.0, 7.0, 14.0], "crop_size": [24, 28, 8]}
    small = {"small_crop_size": [16, 16, 4]}
    workflow = ConfigWorkflow(
        config_file=files,
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(line.store),
        output_dir="run",
        **given,
        **small,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_a_workflow_that_monai_creates_has_the_bundles_network_and_takes_other_values(line: Line) -> None:
    workflow = create_workflow(
        config_file=configs(line, "inference")[0],
        workflow_type="inference",
        bundle_root=str(line.bundle),
        dataset_dir=[str(line.volumes[0])],
        flips=True,
    )
    assert workflow.network_def.flips
    assert workflow.bundle_root == str(line.bundle)
    assert [volume["image"].shape for volume in workflow.dataset] == [(1, 1, *GRID)]


def test_monai_loads_the_weights_and_fills_a_network_with_them(line: Line) -> None:
    network = load_run(line.run).network
    state = load(line.bundle.name, bundle_dir=line.bundle.parent, workflow_type="inference", device="cpu")
    assert state.keys() == network.state_dict().keys()
    empty = load_run(line.run).network
    torch.nn.init.zeros_(empty.labels.weight)
    filled = load(line.bundle.name, model=empty, bundle_dir=line.bundle.parent, device="cpu")
    assert torch.equal(filled.labels.weight, network.labels.weight)


def test_evaluate_yaml_gives_the_figures_of_volssl_evaluate(line: Line, elsewhere: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=configs(line, "train", "evaluate"),
        workflow_type="train",
        logging_file=False,
        split="validation",
        **places(line, "evaluated"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    theirs = pd.read_parquet(elsewhere / "evaluated" / "predictions.parquet")
    evaluate_run(
        line.run, store=line.store, labels=line.cohort / "labels.csv", split="validation", out=tmp_path / "ours"
    )
    ours = pd.read_parquet(tmp_path / "ours" / "predictions.parquet")
    assert len(theirs) > 0
    pd.testing.assert_frame_equal(theirs, ours)
    found = [
        json.loads((folder / "metrics.json").read_text()) for folder in (elsewhere / "evaluated", tmp_path / "ours")
    ]
    assert found[0]["outputs"] == found[1]["outputs"]


def test_evaluate_yaml_refuses_training_patients_whom_a_run_names(line: Line) -> None:
    workflow = ConfigWorkflow(
        config_file=configs(line, "train", "evaluate"),
        workflow_type="train",
        logging_file=False,
        split="all",
        weights=str(line.run / "model.pt"),
        **places(line, "evaluated"),
    )
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert "were seen in training" in str(user_error_in(caught.value))


@pytest.mark.parametrize("recipe", TASK_RECIPES)
def test_every_task_is_evaluated_by_the_same_config(recipe: str) -> None:
    first, other = (bundle_folder(name) / "configs" / "evaluate.yaml" for name in (TASK_RECIPES[0], recipe))
    assert first.read_text() == other.read_text()


def test_monai_exports_the_checkpoint_to_torchscript_with_its_metadata(line: Line, tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    ckpt_export(config_file=configs(line, "inference")[0], filepath=str(path), bundle_root=str(line.bundle))
    exported, metadata, files = load_net_with_metadata(str(path), more_extra_files=("inference.json",))
    image = torch.rand(1, 1, *GRID)
    with torch.no_grad():
        assert torch.equal(exported(image), load_run(line.run).network(image))
    assert metadata["name"] == "Head CT hemorrhage classification"
    assert json.loads(files["inference.json"])["grid"] == list(GRID)


@pytest.mark.slow
def test_monai_exports_the_checkpoint_to_onnx(line: Line, tmp_path: Path) -> None:
    import onnxruntime

    path = tmp_path / "model.onnx"
    onnx_export(
        "network_def",
        filepath=str(path),
        ckpt_file=str(line.bundle / "models" / "model.pt"),
        meta_file=str(line.bundle / "configs" / "metadata.json"),
        config_file=configs(line, "inference")[0],
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 1, *GRID)
    answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(answer, load_run(line.run).network(image), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_command_lines_of_monai_run_on_a_bundle(line: Line, shared_data: Path, tmp_path: Path) -> None:
    meta, inference = (str(line.bundle / "configs" / name) for name in ("metadata.json", "inference.yaml"))
    schema = str(shared_data.parent / "schema" / "meta_schema_20240725.json")
    ts = str(tmp_path / "model.ts")
    for words in (
        ["verify_metadata", f"--meta_file={meta}", f"--filepath={schema}"],
        ["verify_net_in_out", "network_def", f"--meta_file={meta}", f"--config_file={inference}", "--device=cpu"],
        ["ckpt_export", f"--config_file={inference}", f"--filepath={ts}", f"--bundle_root={line.bundle}"],
        ["run", f"--config_file={inference}", f"--bundle_root={line.bundle}", f"--dataset_dir={line.volumes[0]}",
         "--output_dir=answers", "--flips=True"],
    ):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "monai.bundle", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert Path(ts).is_file()
    assert len(list(Path("answers").glob("*.json"))) == 1
