"""`volssl pretrain METHOD` for every method, on real CT and MR among simulated ones: a new method is run here too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from matplotlib import pyplot
from monai.bundle import ConfigParser

from tests.tiny import CROPS, split_cohort
from volssl.bundle.config import read_config
from volssl.bundle.shipped import train_configs
from volssl.data import Store, StoredScan, prepare
from volssl.data.manifest import table_of
from volssl.encoders import load_encoder
from volssl.methods import Restoration
from volssl.simulate.cohort import simulate_brain_mr_cohort, simulate_cohort

WORDS = ["max_epochs=2", "batch_size=4", "workers=0", "modality=CT+MR", "near_duplicates=true"]
CUBES = ["network_settings={feature_size: 12}", "crop_size=[32, 32, 32]", "spacing_mm=[7.0, 7.0, 7.0]"]
SIZES = {"swin_unetr": CUBES, "rotation": [*CROPS[:1], "crop_size=[24, 24, 8]"]}  # others: CROPS
REAL_CT, STEPS = 4, 2


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six coarse simulated heads; those of the first patient, one with a hemorrhage and one without, are trained on."""
    folder = simulate_cohort(tmp_path_factory.mktemp("real") / "heads", 6, spacing_mm=6.0, slice_mm=9.0, workers=1)
    split_cohort(folder, train=0.01, validation=0.6)
    return folder


@pytest.fixture(scope="module")
def scans(shared_data: Path, heads: Path) -> tuple[Path, set[str]]:
    """A store with six CT and two MR to train on, and the ids of the real ones: a body, a series, two brains, a T1."""
    store = heads.parent / "store"
    prepare([shared_data, heads], store, workers=0)
    brain = simulate_brain_mr_cohort(heads.parent / "brain", 1, spacing_mm=6.0, slice_mm=9.0, workers=1)
    prepare([brain], store, workers=0)
    rows = Store.open(store).rows.to_pylist()
    real = {row["id"] for row in rows if max(row["shape"]) > 60}
    for row in rows:
        row["split"] = "train" if row["id"] in real or row["modality"] == "MR" else row["split"]
    pq.write_table(table_of(rows), store / "manifest.parquet")
    return store, real


@pytest.mark.parametrize("method", train_configs("volume_pretraining"))
def test_every_method_pretrains_on_real_scans(
    scans: tuple[Path, set[str]],
    heads: Path,
    tmp_path: Path,
    volssl_command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    (store, real), run, looked_at = scans, tmp_path / "run", set[str]()
    read = StoredScan.read

    def told(self: StoredScan, box: Any = None) -> Any:
        looked_at.add(self.id)
        return read(self, box)

    monkeypatch.setattr(StoredScan, "read", told)
    given = ["--store", store, "--out", run, "--labels", heads / "labels.csv"]
    answer = volssl_command("pretrain", method, *given, *WORDS, *SIZES.get(method, CROPS))
    assert answer.code == 0, answer.lines
    assert len(real) == REAL_CT + 1
    assert real <= looked_at

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [(row["step"], row["epoch"]) for row in steps] == [(i + 1, 1 + i // STEPS) for i in range(2 * STEPS)]
    assert all(math.isfinite(value) for row in steps for name, value in row.items() if "loss" in name)
    assert steps[-1]["loss"] != steps[0]["loss"]

    encoder, contract = load_encoder(run)
    assert contract.modality == "CT+MR"
    with torch.no_grad():
        assert torch.isfinite(encoder.pooled(torch.rand(2, 1, *contract.grid))).all()

    trained = ConfigParser(read_config(run / "config.yaml")).get_parsed_content("method")
    restores = any(isinstance(part, Restoration) for part in trained.modules())
    pictures = {"views", "curve", *(["last_batch"] if restores else [])}
    assert {path.stem for path in (run / "figures").glob("*.png")} == pictures
    for name in pictures:
        assert pyplot.imread(run / "figures" / f"{name}.png").std() > 0.01
