"""`python -m monai.bundle run` on each bundle: it trains, scores and answers, from elsewhere and with other values."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from monai.bundle import ConfigWorkflow, onnx_export

from tests.bundle.conftest import BRAIN_GRID, GRID, Line
from tests.ranks import on_ranks
from volssl.bundle.config import read_config
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.runs import load_run
from volssl.bundle.shipped import PRETRAINING, bundle_folder, train_configs
from volssl.bundle.verify import check_bundle
from volssl.tensors import load_tensors

pytestmark = pytest.mark.slow
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")  # what `torchrun` runs


@dataclass(frozen=True)
class Case:
    """A bundle, the data that it is run on, and what its answers hold."""

    bundle: Path
    store: Path
    cohort: Path
    answer: str
    studies: list[Path]


@pytest.fixture(params=["head_ct", "brain_mr", "pretraining"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "head_ct":
        line: Line = request.getfixturevalue("line")
        return Case(line.bundle, line.store, line.cohort, "volume", line.series)
    fixtures = {
        "brain_mr": ("brain_bundle", "brain_store", "brain_cohort", "volume"),
        "pretraining": ("swav_bundle", "store", "cohort", "embedding"),
    }
    *names, answer = fixtures[request.param]
    bundle, store, cohort = (request.getfixturevalue(name) for name in names)
    return Case(bundle, store, cohort, answer, sorted((cohort / "volumes").glob("*.nii.gz"))[:2])


def run(
    folder: Path, *words: str, launcher: tuple[str, ...] = (), module: tuple[str, ...] = ("monai.bundle", "run")
) -> str:
    """What `monai.bundle run`, or another command, says in a folder of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *launcher, "-m", *module, *words]
    threads = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | threads, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def files(folder: Path, *names: str) -> str:
    return f"--config_file={[str(folder / 'configs' / f'{name}.yaml') for name in names]}"


def test_a_bundle_trains_again_with_other_values(case: Case, tmp_path: Path) -> None:
    given = {"bundle_root": case.bundle, "dataset_dir": case.store, "output_dir": "again", "max_epochs": 2}
    labels = [f"--labels={case.cohort / 'labels.csv'}"] * (case.answer == "volume")
    run(tmp_path / "here", files(case.bundle, "train"), *(f"--{key}={value}" for key, value in given.items()), *labels)
    rows = [json.loads(line) for line in (tmp_path / "here/again/metrics.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in rows if "loss" in row) >= 1
    again, out = tmp_path / "here" / "again", tmp_path / "out"
    assert (again / "encoder.pt").is_file()
    export_run(again, out)
    assert check_bundle(out).facts.task == check_bundle(case.bundle).facts.task
    assert read_config(out / "configs" / "train.yaml")["bundle_root"] == "."


def test_a_bundle_answers_with_other_values(case: Case, tmp_path: Path) -> None:
    study = sorted((case.cohort / "volumes").glob("*.nii.gz"))[0]
    places = [f"--bundle_root={case.bundle}", f"--dataset_dir={study}", "--output_dir=told"]
    run(tmp_path / "here", files(case.bundle, "inference"), *places)
    (answer,) = (json.loads(path.read_text()) for path in (tmp_path / "here" / "told").glob("*.json"))
    assert len(answer[case.answer]) > 0
    assert (tmp_path / "here" / "told" / "answers.csv").is_file()


@pytest.mark.parametrize("kind", ["head_ct", "brain_mr"])
def test_a_bundle_is_scored_with_other_values(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if kind == "head_ct":
        line: Line = request.getfixturevalue("line")
        bundle, store, cohort = line.bundle, line.store, line.cohort
    else:
        bundle, store, cohort = (request.getfixturevalue(f"brain_{name}") for name in ("bundle", "store", "cohort"))
    places = [f"--bundle_root={bundle}", f"--dataset_dir={store}", f"--labels={cohort / 'labels.csv'}"]
    run(tmp_path / "here", files(bundle, "train", "evaluate"), *places, "--output_dir=scored", "--split=validation")
    metrics = json.loads((tmp_path / "here" / "scored" / "metrics.json").read_text())
    assert metrics["split"] == "validation"
    assert metrics["n_studies"] > 0


def answered(rank: int, bundle: Path, studies: list[Path], out: Path) -> list[dict[str, Any]]:
    """What one of several processes answers, into a folder of its own."""
    return [answer.content for answer in predict_studies(bundle, studies, out / f"of{rank}")]


def test_of_two_processes_one_answers_as_one_alone_does(line: Line, tmp_path: Path) -> None:
    studies, out = [line.series[0], line.volumes[1]], tmp_path / "out"
    first, second = on_ranks(answered, tmp_path / "ranks", line.bundle, studies, out)
    assert (len(first), second) == (2, [])
    assert [path.name for path in out.iterdir()] == ["of0"]
    alone = predict_studies(line.bundle, studies, tmp_path / "alone", key=out / "of0" / "private.key")
    assert [answer.content for answer in alone] == first


def test_two_processes_of_monai_answer_and_score_once(case: Case, tmp_path: Path) -> None:
    studies = [str(path) for path in case.studies]
    places = [f"--bundle_root={case.bundle}", f"--dataset_dir={studies}", "--output_dir=told"]
    run(tmp_path / "here", files(case.bundle, "inference"), *places, launcher=TWO)
    rows = list(csv.DictReader((tmp_path / "here" / "told" / "answers.csv").open()))
    assert len(rows) == len(list((tmp_path / "here" / "told").glob("*.json"))) == 2
    alone = predict_studies(case.bundle, case.studies, tmp_path / "alone", key=tmp_path / "here/told/private.key")
    assert len(alone) == 2
    for answer in alone:
        assert json.loads((tmp_path / "here" / "told" / answer.path.name).read_text()) == answer.content

    places = [f"--bundle_root={case.bundle}", f"--dataset_dir={case.store}", f"--labels={case.cohort / 'labels.csv'}"]
    words = [files(case.bundle, "train", "evaluate"), *places, "--split=validation"]
    run(tmp_path / "here", *words, "--output_dir=two", launcher=TWO)
    run(tmp_path / "here", *words, "--output_dir=one")
    two, one = (json.loads((tmp_path / "here" / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert two == one


def test_two_processes_of_torchrun_finetune_as_one_alone_did(line: Line, tmp_path: Path) -> None:
    places = ["--store", line.store, "--labels", line.cohort / "labels.csv", "--out", "run"]
    words = ["max_epochs=1", "batch_size=2", f"task::grid={list(GRID)}", "train::trainer::sync_batchnorm=true"]
    given = ["hemorrhage", *map(str, places), *words]
    run(tmp_path / "two", *given, launcher=TWO, module=("volssl.cli", "finetune"))
    found = []
    for folder in (tmp_path / "two" / "run", line.run):  # that of one process with batches of four
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([row["loss"] for row in rows if "loss" in row])
        assert sum("validation_auc" in row for row in rows) == 1
    assert len(found[0]) == len(found[1]) == 2
    assert found[0][0] == pytest.approx(found[1][0], rel=0.05)  # dropout is each process's own
    two, one = (load_tensors(folder / "model.pt") for folder in (tmp_path / "two" / "run", line.run))
    assert two["patients"] == one["patients"]
    assert two["network"].keys() == one["network"].keys()
    assert all(torch.isfinite(value).all() for value in two["network"].values())


def test_two_processes_train_as_one(store: Path, tmp_path: Path) -> None:
    configs = bundle_folder("volume_pretraining")
    words = [
        files(configs, "base", "simclr"),
        f"--dataset_dir={store}",
        "--output_dir=run",
        "--max_epochs=1",
        "--workers=0",
        "--spacing_mm=[7.0, 7.0, 14.0]",
        "--crop_size=[24, 28, 8]",
        "--method::hidden_dim=16",
        "--train::trainer::sync_batchnorm=True",
    ]
    run(tmp_path / "two", *words, "--batch_size=2", launcher=TWO)
    run(tmp_path / "one", *words, "--batch_size=4")
    found = []
    for folder in (tmp_path / "two" / "run", tmp_path / "one" / "run"):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([row["loss"] for row in rows if "loss" in row])
    assert len(found[0]) == len(found[1]) > 0
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    two, one = (load_tensors(tmp_path / name / "run" / "encoder.pt") for name in ("two", "one"))
    assert two["patients"] == one["patients"]
    assert all(torch.isfinite(value).all() for value in two["state_dict"].values())


def shipped(name: str) -> dict[str, list[Path]]:
    """The configs that a filled recipe's card names, by what they do."""
    configs = bundle_folder(name) / "configs"
    presets = sorted((configs / "presets").glob("*_shipped.yaml"))
    if train_configs(name) == ["train"]:
        train = [path for path in (configs / "base.yaml", configs / "train.yaml", *presets) if path.is_file()]
        return {"train": train, "evaluate": [*train, configs / "evaluate.yaml"]}
    (preset,) = presets
    method = configs / f"{preset.stem.removesuffix('_shipped')}.yaml"
    return {
        "train": [configs / "train.yaml"],
        "train by method": [configs / "base.yaml", method, preset],
        "evaluate": [configs / "train.yaml", configs / "evaluate.yaml"],
    }


FILLED = sorted(path.name for path in bundle_folder("").iterdir() if (path / "models" / "model.pt").is_file())
CASES = [(name, case) for name in FILLED for case in shipped(name)]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_shipped_weights_train_again_and_are_scored(
    name: str, case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    brain = name.startswith("brain")
    store, cohort = (request.getfixturevalue(f"{'brain_' if brain else ''}{part}") for part in ("store", "cohort"))
    places = {"bundle_root": bundle_folder(name), "dataset_dir": store, "output_dir": tmp_path / "out"}
    given = {key: str(path) for key, path in (places | {"labels": cohort / "labels.csv"}).items()}
    small = {"max_epochs": 1, "batch_size": 4, "workers": 0} | ({"suspect_epochs": 1, "scored": 4} if brain else {})
    more = small | ({"split": "validation"} if case == "evaluate" else {})  # the trainer is built to be checked
    files = [str(path) for path in shipped(name)[case]]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **given, **more)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    if case == "evaluate":
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["outputs"]
    else:
        assert (tmp_path / "out" / "encoder.pt").is_file()
        assert (tmp_path / "out" / "model.pt").is_file() is (name != PRETRAINING)


def test_monai_exports_the_brain_bundle_to_onnx(brain_run: Path, brain_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx_export(
        "network_def",
        filepath=str(path),
        ckpt_file=str(brain_bundle / "models" / "model.pt"),
        meta_file=str(brain_bundle / "configs" / "metadata.json"),
        config_file=str(brain_bundle / "configs" / "inference.yaml"),
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 1, *BRAIN_GRID)
    answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    with torch.no_grad():
        wanted = load_run(brain_run).network(image)
    assert wanted.shape == (1, 1 + BRAIN_GRID[2])
    torch.testing.assert_close(answer, wanted, rtol=0, atol=1e-4)
