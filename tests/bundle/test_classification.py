"""The line of a classification: told, trained, exported, asked; the bundle answers as the run's own network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from monai.bundle import verify_net_in_out

from tests.bundle.conftest import Line
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.runs import load_run
from volssl.bundle.targets import told_task
from volssl.bundle.verify import check_bundle
from volssl.bundle.workflow import finetune
from volssl.data import Store
from volssl.errors import UserError
from volssl.tasks import TaskViews
from volssl.tasks.inference import predict_table

WORDS = ["max_epochs=1", "batch_size=4", "task::grid=[16, 16, 8]", "task::spacing_mm=[12.0, 12.0, 24.0]"]
OUTPUTS = ("hemorrhage", "size>=small", "size>=large")


@pytest.fixture(scope="module")
def labels(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort's labels with a scale in words, and one study of unknown size."""
    table = pd.read_csv(line.cohort / "labels.csv")
    sizes = np.where(table["hemorrhage"] == 0, "none", np.where(np.arange(len(table)) % 2, "small", "large"))
    table["size"] = sizes
    table.loc[0, "size"] = ""
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(line: Line, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yes or no and a scale in one network, one epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    words = [*WORDS, "task::kind=ordinal", "task::classes={size: [none, small, large]}"]
    finetune("classification", target="hemorrhage,size", store=line.store, labels=labels, out=out, words=words)
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    export_run(run, folder)
    return folder


def test_what_the_command_tells_stands_in_the_run(run: Path) -> None:
    task = load_run(run).task
    assert (task.output_names, task.contract.modality) == (OUTPUTS, "CT")
    assert task.label_classes["size"] == ("none", "small", "large")


def test_a_bundle_answers_for_a_file_as_the_runs_network_does_for_the_store(
    line: Line, run: Path, bundle: Path, tmp_path: Path
) -> None:
    answers = predict_studies(bundle, line.volumes[:2], tmp_path / "answers")
    model, store = load_run(run), Store.open(line.store)
    ids = store.columns("id")["id"].to_pylist()
    table = predict_table(model.network, [store.scan(i) for i in ids], TaskViews(model.task))
    own = table[[f"p_{name}" for name in OUTPUTS]].to_numpy()
    for one in answers:
        content = json.loads(one.path.read_text())
        assert tuple(content["volume"]) == OUTPUTS
        assert content["volume"]["size>=small"] >= content["volume"]["size>=large"]
        assert np.abs(own - list(content["volume"].values())).max(axis=1).min() < 1e-5
        assert "box placed about the middle of what is not air" in content["preprocessing"]["steps"]
    assert not np.allclose(*(list(one.content["volume"].values()) for one in answers), atol=1e-7)


def test_monai_verifies_the_bundle_and_its_metadata_name_the_outputs(bundle: Path) -> None:
    files = {name: str(bundle / "configs" / name) for name in ("metadata.json", "inference.yaml")}
    verify_net_in_out(
        "network_def", meta_file=files["metadata.json"], config_file=files["inference.yaml"], device="cpu"
    )
    metadata: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text())
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"].values()) == list(OUTPUTS)
    assert "`size>=large`" in (bundle / "docs" / "README.md").read_text()


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [("place: foreground", "place: head", "feeds place head"), ("modality: CT", "modality: MR", "feeds modality MR")],
)
def test_a_bundle_whose_config_feeds_something_else_is_refused(bundle: Path, old: str, new: str, match: str) -> None:
    path = bundle / "configs" / "inference.yaml"
    before = path.read_text()
    path.write_text(before.replace(old, new, 1))
    try:
        with pytest.raises(UserError, match=match):
            check_bundle(bundle)
    finally:
        path.write_text(before)


def test_an_encoders_input_is_taken_over_where_no_word_says_otherwise(line: Line, labels: Path) -> None:
    words = ["task::grid=[8, 8, 8]"]
    told, left = told_task("hemorrhage", store=line.store, labels=labels, encoder=line.run, words=words)
    assert left == words
    contract = load_run(line.run).task.contract
    assert told["task::window_hu"] == list(contract.window_hu or ())
    assert told["task::spacing_mm"] == list(contract.spacing_mm)
    assert "task::grid" not in told
    assert (told["task::kind"], told["task::modality"]) == ("binary", "CT")
