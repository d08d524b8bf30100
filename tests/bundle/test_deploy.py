"""The lines of docs/deploy.md, run as they stand on a small bundle; the answers are those of `volssl predict`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bundle.conftest import Line
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n.*?```(?:python|bash)\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def work(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page names, and the answer of `volssl predict`."""
    folder = tmp_path_factory.mktemp("deploy")
    export_run(line.run, folder / "out" / "head_ct_hemorrhage_classification", formats=["onnx"])
    (folder / "studies").mkdir()
    (folder / "studies" / "0001").symlink_to(line.series[0])
    return folder


@pytest.fixture(scope="module")
def expected(work: Path) -> float:
    bundle = work / "out" / "head_ct_hemorrhage_classification"
    [answer] = predict_studies(bundle, [work / "studies" / "0001"], work / "expected")
    return float(answer.content["volume"]["hemorrhage"])


@pytest.mark.parametrize("surroundings", ["Plain PyTorch", "ONNX"])
def test_the_python_of_the_page_gives_the_answer_of_predict(
    surroundings: str, work: Path, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[surroundings], str(PAGE), "exec"), names)
    assert float(np.asarray(names["probabilities"])[0, 0]) == pytest.approx(expected, abs=1e-5)


def test_the_command_of_the_page_gives_the_answer_of_predict(work: Path, expected: float) -> None:
    command = BLOCKS["`monai.bundle`"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], cwd=work, env=environment, check=True, capture_output=True)
    [answer] = (work / "answers").glob("*.json")
    assert json.loads(answer.read_text())["volume"]["hemorrhage"] == pytest.approx(expected, abs=1e-6)


def test_the_application_of_the_page_gives_the_answer_of_predict(work: Path, expected: float) -> None:
    pytest.importorskip("monai.deploy.core", reason="monai-deploy-app-sdk is not installed: no dependency of volssl")
    (work / "app.py").write_text(BLOCKS["MONAI Deploy"])
    places = ["-i", "studies/0001", "-o", "deployed", "-m", "out/head_ct_hemorrhage_classification"]
    subprocess.run([sys.executable, "app.py", *places], cwd=work, check=True, capture_output=True)
    [answer] = (work / "deployed").glob("*.json")
    assert json.loads(answer.read_text())["volume"]["hemorrhage"] == pytest.approx(expected, abs=1e-6)


def test_each_of_the_four_is_ten_lines_or_a_little_more() -> None:
    assert set(BLOCKS) == {"Plain PyTorch", "ONNX", "`monai.bundle`", "MONAI Deploy"}
    lengths = {name: sum(map(bool, block.splitlines())) for name, block in BLOCKS.items()}
    assert max(lengths.values()) <= 15, lengths
