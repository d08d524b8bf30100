"""Every encoder goes the whole way: a run with it is exported, checked, and answers for a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.bundle.conftest import Line
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.verify import check_bundle
from volssl.encoders import build_encoder
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.tensors import load_tensors, save_tensors

GRID = [32, 32, 32]  # the smallest that both take
SMALL: dict[str, dict[str, Any]] = {
    "DenseNet121": {"init_features": 4, "growth": 2},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "drop_path_rate": 0.1},
}


def run_with(run: Path, name: str) -> TaskNetwork:
    """Give a run another encoder, with random weights."""
    torch.manual_seed(0)
    encoder = build_encoder(name, settings=SMALL[name])
    network = TaskNetwork(encoder, volume=1, types=5, slices=GRID[2])
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["encoder"] = {"_target_": f"volssl.encoders.{name}", **encoder.settings}
    values["task"] |= {"grid": GRID}
    (run / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    save_tensors(run / "model.pt", load_tensors(run / "model.pt") | {"network": network.state_dict()})
    return network.eval()


@pytest.mark.parametrize("name", SMALL)
def test_a_run_with_another_encoder_is_exported_and_answers(
    line: Line, run_copy: Path, tmp_path: Path, name: str
) -> None:
    network = run_with(run_copy, name)
    export_run(run_copy, tmp_path / "bundle")
    config = check_bundle(tmp_path / "bundle").config
    assert config["network_def"]["encoder"] == {"_target_": f"volssl.encoders.{name}", **network.encoder.settings}
    (answer,) = predict_studies(tmp_path / "bundle", [line.volumes[0]], tmp_path / "out")
    assert 0 < answer.content["volume"]["hemorrhage"] < 1
    assert answer.content["preprocessing"]["grid"] == GRID


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("feature_size: 12", "feature_size: 48", "builds a network that the weights do not fit"),
        ("depths: [1, 1, 1, 1]", "depths: [1, 1, 1, 4000]", "at most 64 blocks"),
        ("downsample: merging", "downsample: os.system", "one of merging, mergingv2"),
        ("use_v2: false", "use_v2: false, norm_layer: 3", "SwinUNETR with norm_layer"),
    ],
)
def test_a_bundle_cannot_ask_for_another_swin_than_its_weights_are_of(
    run_copy: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    run_with(run_copy, "SwinUNETR")
    export_run(run_copy, tmp_path / "bundle")
    path = tmp_path / "bundle" / "configs" / "inference.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        check_bundle(tmp_path / "bundle")


def test_a_bundle_says_which_windows_feed_it(run_copy: Path, tmp_path: Path) -> None:
    run_with(run_copy, "DenseNet121")
    export_run(run_copy, tmp_path / "bundle")
    metadata = tmp_path / "bundle" / "configs" / "metadata.json"
    values = json.loads(metadata.read_text())
    values["volssl"]["input_contract"] |= {"window_hu": [[40.0, 80.0], [55.0, 200.0]], "channels": 2}
    metadata.write_text(json.dumps(values))
    words = r"feeds window_hu \[55\.0, 200\.0\], the weights were trained with \[\[40\.0, 80\.0\], \[55\.0, 200\.0\]\]"
    with pytest.raises(UserError, match=words):
        check_bundle(tmp_path / "bundle")
