"""The scripts of benchmarks/ that ask for hours or a GPU: what they time is what they say."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.test_examples import ROOT, module_of


def test_the_gpus_batch_and_views_are_those_of_table_1() -> None:
    gpu = module_of(ROOT / "benchmarks" / "gpu.py", "benchmark_gpu")
    scans = [gpu.MadeUpScan(i, gpu.SMALL_SCAN) for i in range(2)]
    whole = gpu.paper_views(scans, gpu.SIZES)
    assert whole.counts == [1, 4]
    assert [cropper.size for cropper in whole.croppers] == [(224, 224, 192), (112, 112, 96)]
    assert whole.energies.count == {"CT": 2}
    views = gpu.paper_views(scans, gpu.SMALL)
    batch = gpu.made_up(views, torch.device("cpu"))
    shapes = [tuple(value.shape) for name, value in batch.items() if name.startswith("crop")]
    assert shapes == [(4, 1, 48, 48, 32), *[(4, 1, 24, 24, 16)] * 4]  # four large crops a step
    made = gpu.ViewDataset(scans, views, seed=0)[0, 0]
    assert [(4, *made[f"crop{i}"].shape) for i in range(5)] == shapes
    assert "crop5" not in made


def test_a_method_is_timed_on_what_its_own_config_looks_at(store: Path, cohort: Path) -> None:
    methods = module_of(ROOT / "benchmarks" / "methods.py", "benchmark_methods")
    methods.LARGE, methods.SMALL = (24, 28, 8), (16, 16, 4)
    heads = methods.Heads(store, cohort / "labels.csv", batch=3)
    method, batch = heads.built("swav")
    sizes = [tuple(value.shape[2:]) for value in batch.values() if value.ndim == 5]
    assert sizes == [(24, 28, 8)] * 2 + [(16, 16, 4)] * 2
    for name in methods.train_configs(methods.PRETRAINING):
        method, batch = heads.built(name)
        assert torch.isfinite(method(batch)["loss"])
    assert tuple(heads.built("rotation")[1]["rotated"].shape) == (3, 1, 24, 24, 8)
