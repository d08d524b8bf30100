"""The wheel holds all that a command needs, and works where no checkout is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import volssl
from volssl.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BUILT_FROM = ("volssl", "bundles", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def setup() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(source / "dist"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not re.search(r"deprecat", built.stdout + built.stderr, re.IGNORECASE)
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_the_installed_version_is_the_packages_own() -> None:
    assert distribution("volssl").version == volssl.__version__
    assert f"## [{volssl.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_what_ci_tests_lies_in_the_ranges_that_setup_cfg_states(setup: ConfigParser) -> None:
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    extras = setup["options.extras_require"]
    stated = [setup["options"]["install_requires"], *extras.values()]
    for line in "\n".join(stated).split("\n"):
        if not line:
            continue
        requirement = Requirement(line)
        name = requirement.name.lower().replace("_", "-")
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), line
        else:
            assert line in extras["dev"], f"{name} has no tested version in constraints.txt"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_pages_link_to_what_is_there_and_name_commands_that_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"(?:^|`)volssl ([a-z]+)", text, re.MULTILINE))
    assert named <= commands | {"simulate"}


@pytest.mark.slow
def test_the_wheel_holds_bundles_templates_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in (ROOT / "bundles").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"volssl/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "volssl").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    assert "volssl/py.typed" in names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith(("tests/", "docs/"))]


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_runs_the_demo_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    # The dependencies are those of this environment; a path in a .pth brings no editable install with it.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)

    where = run(str(python), "-c", "import volssl.bundles; print(volssl.__file__, *volssl.bundles.__path__)").stdout
    assert all(str(site) in path for path in where.split())
    demo = run(str(environment / "bin" / "volssl"), "demo", "--n", "40", "--out", "demo")
    assert demo.returncode == 0, demo.stderr
    assert "pretrained with SwAV" in demo.stderr
    assert (tmp_path / "demo" / "head_ct_hemorrhage_classification" / "models" / "model.pt").is_file()
    assert list((tmp_path / "demo" / "answer").glob("*.json"))
