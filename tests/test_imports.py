"""Who may import whom, and other rules that can be read off the source: docs/architecture.md gives the reasons."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "volssl").rglob("*.py"))
WRITTEN = ROOT / "bundles" / "volume_pretraining" / "configs" / "train.yaml"  # by `volssl export`
CONFIGS = sorted({*(ROOT / "bundles").glob("*/configs/*.yaml")} - {WRITTEN})
LEAVES = {
    "errors",
    "files",
    "tensors",
    "progress",
    "contract",
    "seen",
}  # anyone may import them; they import leaves alone
TOP = {"bundle", "cli"}

# What each part may import beside itself and the leaves. A name of a module stands for that module alone.
MAY_IMPORT = {
    "losses": set(),
    "transforms": set(),
    "encoders": set(),
    "simulate": set(),
    "heads": {"encoders.base"},
    "slabs": {"encoders.base"},
    "decoders": set(),
    "views": {"transforms"},
    "data": {"views.base"},
    "tasks": {"transforms", "views"},
    "methods": {"losses", "transforms", "encoders", "decoders", "heads", "views"},
    "methods/segmentation.py": {"slabs", "views"},
    "methods/supervised.py": {"losses", "transforms", "encoders", "decoders", "heads", "slabs", "views", "tasks"},
    "engine": {"methods.base", "data.loader", "encoders"},
    "evaluation": {"tasks", "views"},
}


def part(path: Path) -> str:
    """The part of the package that a module belongs to: a folder's or a file's name; `` for volssl/__init__.py."""
    first = path.relative_to(ROOT / "volssl").parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """The modules of volssl that a module imports when it runs, without `volssl.`; not those for annotations alone."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module or ""]
            if node.module == "volssl":
                names = [f"volssl.{name.name}" for name in node.names if name.name != "__version__"]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        yield from (name.removeprefix("volssl.") for name in names if name.startswith("volssl."))


def admitted(module: str, allowed: set[str]) -> bool:
    """Whether `a.b` is one of the modules, or lies in one."""
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def test_every_part_imports_only_what_it_may() -> None:
    wrong = []
    for path in MODULES:
        own = part(path)
        if own in TOP or not own:
            continue
        name = path.relative_to(ROOT / "volssl").as_posix()
        allowed = set() if own in LEAVES else MAY_IMPORT.get(name, MAY_IMPORT[own]) | {own}
        wrong += [f"{name} imports {m}" for m in imports(path) if not admitted(m, allowed | LEAVES)]
    assert wrong == []


def test_nobody_imports_the_command_line_and_only_it_imports_the_bundle_line() -> None:
    by_part = [(part(path), module.split(".")[0]) for path in MODULES for module in imports(path)]
    assert {own for own, module in by_part if module == "cli"} == {"cli"}
    assert {own for own, module in by_part if module == "bundle"} == {"bundle", "cli"}


def test_the_reader_of_imports_sees_a_forbidden_one(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("from volssl import methods\nimport volssl.cli\nif TYPE_CHECKING:\n    import volssl.engine\n")
    assert list(imports(path)) == ["methods", "cli"]
    assert not admitted("methods", {"methods.base"})
    assert admitted("methods.base", {"methods"})
    assert not admitted("taskset", {"tasks"})


@pytest.mark.parametrize("module", ["volssl", "volssl.data.preparation", "volssl.data.integrity", "volssl.cli"])
def test_what_reads_an_archive_loads_no_torch(module: str) -> None:
    import subprocess
    import sys

    heavy = ("torch", "monai", "ignite", "volssl.engine")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert loaded.strip() == "[]"


def test_the_package_offers_to_load_an_encoder() -> None:
    import volssl
    from volssl.encoders import load_encoder

    assert volssl.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="no attribute 'load_decoder'"):
        volssl.load_decoder  # noqa: B018


def test_setup_cfg_lists_every_package() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES}
    assert listed == found | {"volssl.bundles"}
    assert {path.parent for path in MODULES} <= {path.parent for path in MODULES if path.name == "__init__.py"}


def test_no_error_is_caught_unnamed_and_none_whatever_is_passed_over() -> None:
    wrong = []
    for path in MODULES:
        handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
        for handler in handlers:
            silent = all(isinstance(inner, ast.Pass) for inner in handler.body)
            anything = isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
            if handler.type is None or (anything and silent):
                wrong.append(f"{path.name}:{handler.lineno}")
    assert wrong == []


def test_nothing_refers_to_folders_beside_the_repository() -> None:
    files = [*MODULES, *(path for path in (ROOT / "bundles").rglob("*") if path.is_file() and path.suffix != ".pyc")]
    texts = {path: path.read_text(errors="replace") for path in files}
    assert [path.name for path, text in texts.items() if "../shared" in text or "shared/" in text] == []
    assert [path.name for path, text in texts.items() if "/tmp/" in text or "/home/" in text] == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_a_config_is_prose(config: Path) -> None:
    assert len(config.read_text().splitlines()) < 80


def test_everything_public_says_what_it_is() -> None:
    silent = []
    for path in MODULES:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) and path.read_text().strip():
            silent.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert silent == []
