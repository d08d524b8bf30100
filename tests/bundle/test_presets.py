"""Presets of the pretraining configs: what they state is what was published, and what they name can be built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from volssl.bundle.config import PRESETS, bundle_config, bundle_folder, read_config, resolved
from volssl.data import Store
from volssl.errors import UserError

FILES = sorted((bundle_folder("volume_pretraining") / "configs" / PRESETS).glob("*.yaml"))


def parsed(name: str, preset: str, store: Path, out: Path, **values: object) -> ConfigParser:
    given = {"dataset_dir": str(store), "output_dir": str(out), **values}
    return ConfigParser(resolved(read_config(bundle_config("volume_pretraining", name, preset=preset)), given))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_presets_views_look_at_a_scan(file: Path, store: Path, tmp_path: Path) -> None:
    name, preset = file.stem.split("_", 1)
    small = {"crop_size": [24, 24, 8], "small_crop_size": [16, 16, 4]}
    parser = parsed(name, preset, store, tmp_path, **small)
    views = parser.get_parsed_content("method").views
    if preset == "paper":  # its crops are Table 1's, whatever the configuration says
        assert [cropper.size for cropper in views.croppers] == [(224, 224, 192), (112, 112, 96)]
        return
    opened = Store.open(store)
    crops = views(opened.scan(opened.rows["id"][0].as_py()), np.random.RandomState(0))
    assert [tuple(crop.shape) for crop in crops.values()] == [(1, 24, 24, 8), *[(1, 16, 16, 4)] * 4]


def test_the_papers_preset_is_its_table_1(store: Path, tmp_path: Path) -> None:
    parser = parsed("swav", "paper", store, tmp_path)
    method, views = parser.get_parsed_content("method"), parser.get_parsed_content("method").views
    assert views.counts == [1, 4]
    assert views.croppers[0].rescale.fraction == (0.1, 0.7)
    assert views.croppers[0].rescale.sizes == ((112, 112, 96), (250, 250, 200))
    assert (views.gamma, views.scale, views.shift) == ((1.8, 2.6), (0.9, 1.1), (-0.2, 0.2))
    assert all(cropper.border == 0.1 for cropper in views.croppers)
    assert method.assigned == (0, 1)
    assert (method.temperature, method.epsilon, method.iterations) == (0.1, 0.03, 3)
    assert tuple(method.prototypes.shape) == (1, 1500, 128)
    assert (method.queue_length, method.queue_start_epoch, method.freeze_steps) == (1920, 3, 4000)
    assert (parser["max_epochs"], parser["batch_size"]) == (100, 4)
    optimizer = parser.get_parsed_content("optimizer")
    assert optimizer.defaults["weight_decay"] == 1e-6
    assert optimizer.defaults["lr"] == pytest.approx(0.6 * 4 / 128)
    assert 0.6 * parser.get_parsed_content("train::trainer::schedule").final == pytest.approx(0.0006)


def test_a_preset_that_does_not_exist_lists_those_there_are() -> None:
    with pytest.raises(UserError, match=r"papr: no such preset of swav, did you mean paper\?; there are .*paper_views"):
        bundle_config("volume_pretraining", "swav", preset="papr")
