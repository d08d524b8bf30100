"""The scripts of examples/ and the worked example of docs/add_a_method.md, run on tiny data."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.tiny import CROPS, TINY
from volssl.bundle.config import bundle_config
from volssl.bundle.export import export_run
from volssl.bundle.workflow import run_training
from volssl.encoders import load_encoder

ROOT = Path(__file__).resolve().parents[1]


def module_of(path: Path, name: str) -> ModuleType:
    """A file as a module, not run as a script."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its data classes look their annotations up
    spec.loader.exec_module(module)
    return module


def example(name: str) -> Callable[..., None]:
    main: Callable[..., None] = module_of(ROOT / "examples" / f"{name}.py", f"example_{name}").main
    return main


@pytest.fixture(scope="module")
def work(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples/pretrain_on_your_cts.py wrote."""
    out = tmp_path_factory.mktemp("work")
    example("pretrain_on_your_cts")(cohort, [*TINY, *CROPS], out=out)
    return out


def test_pretrain_on_your_cts(work: Path, cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features_of = module_of(ROOT / "examples" / "pretrain_on_your_cts.py", "example").features_of
    feature = features_of(work / "swav", work / "store")
    assert feature.shape == (1024,)
    assert feature.std() > 0


def test_finetune_on_your_labels_then_run_a_bundle(
    work: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "task::grid=[24, 28, 10]"]
    example("finetune_on_your_labels")(work / "store", cohort / "labels.csv", work / "swav", words, out=tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in said] == ["scratch:", "pretrained:", "pretrained"]
    scratch, pretrained, gain = (float(re.search(r"(?:AUC|scratch:) (-?\d\.\d+)", line)[1]) for line in said)  # type: ignore[index]
    assert gain == pytest.approx(pretrained - scratch, abs=0.002)

    export_run(tmp_path / "pretrained", tmp_path / "bundle")
    study = sorted((cohort / "volumes").iterdir())[0]
    example("run_a_bundle")(tmp_path / "bundle", [study], out=tmp_path / "answer")
    told = capsys.readouterr().out
    answer = json.loads(next((tmp_path / "answer").glob("*.json")).read_text())
    lines = told.splitlines()
    assert lines[:2] == [answer["notice"], f"{study}: hemorrhage {answer['volume']['hemorrhage']:.3f}"]
    assert "no medical device" in lines[0]

    export_run(work / "swav", tmp_path / "embedding")
    example("run_a_bundle")(tmp_path / "embedding", [study], out=tmp_path / "features")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{study}: a feature of 1024 numbers"
    assert "simulated" in lines[0]


def test_add_a_method(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")  # as for a script that is run
    words = [*TINY, *CROPS[:2], "method::feature_dim=16"]
    example("add_a_method")(work / "store", words, out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "vicreg" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    for row in steps:
        terms = 25 * row["invariance"] + 25 * row["variance"] + row["covariance"]
        assert row["loss"] == pytest.approx(terms, rel=1e-4)
    assert f"{len(steps)} steps, the loss from {steps[0]['loss']:.2f}" in capsys.readouterr().out
    assert load_encoder(tmp_path / "vicreg")[1].grid == (24, 28, 8)


def test_the_terms_of_the_methods_loss_are_those_worked_out_by_hand() -> None:
    written = module_of(ROOT / "examples" / "add_a_method.py", "example")
    rows = torch.tensor([[0.0, 0.0], [2.0, 4.0]])  # variances 2 and 8, covariance 4
    assert written.covariance(rows).item() == pytest.approx(2 * 4**2 / 2)
    assert written.lacking_variance(rows).item() == 0
    half = torch.tensor([[0.0, 0.0], [0.0, 4.0]])  # one feature is constant: it lacks all but the root of 1e-4
    assert written.lacking_variance(half).item() == pytest.approx((1 - 0.01) / 2)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_method_of_the_manual_trains_and_passes_its_own_test(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "add_a_method.md").read_text()
    method, test = blocks(text, "python")
    (section,) = blocks(text, "yaml")
    assert len(method.splitlines()) < 60
    (tmp_path / "manual_barlow_twins.py").write_text(method)
    monkeypatch.syspath_prepend(tmp_path)
    written = module_of(tmp_path / "manual_barlow_twins.py", "m")
    monkeypatch.setitem(sys.modules, "volssl.methods.barlow_twins", written)
    base, _ = bundle_config("volume_pretraining", "swav")
    for name in (base.name, "metadata.json"):
        (tmp_path / name).write_text((base.parent / name).read_text())
    path = tmp_path / "barlow_twins.yaml"
    path.write_text(section.replace("volssl.methods.barlow_twins", "manual_barlow_twins"))
    given = {"dataset_dir": str(store), "output_dir": str(tmp_path / "run")}
    words = ["method::redundancy=0.01", *TINY, *CROPS]
    run_training([tmp_path / base.name, path], given=given, words=words, resume=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(0 < loss < 4 * 512 + 0.01 * 512 * 511 for loss in losses)  # correlations lie within -1 and 1
    assert (tmp_path / "run" / "encoder.pt").is_file()

    (tmp_path / "manual_test.py").write_text(test)
    for name, function in vars(module_of(tmp_path / "manual_test.py", "manual_test")).items():
        if name.startswith("test_"):
            function()
