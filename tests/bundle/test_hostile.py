"""Eighty hostile bundles at the command line: each is refused in one line that says what was found, and none runs.

What each tries leaves a canary: a file that is not there afterwards. `test_verify.py` has the rules one by one.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.bundle.conftest import Line
from volssl import cli
from volssl.tasks.hemorrhage import TYPES
from volssl.tensors import save_tensors

INFERER = "inferer: {_target_: monai.inferers.SimpleInferer}"
EVALUATOR = "  decollate: false\n"
RUN = "run:\n"
CONTROL = "\x1b[2J"


class Payload:
    """Runs a shell when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def config(old: str, new: str) -> Callable[[Path, Path], None]:
    """Replaces a text of the inference config; CANARY in it is the canary's path."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "configs" / "inference.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new.replace("CANARY", str(canary)), 1))

    return change


def inferer(value: str) -> Callable[[Path, Path], None]:
    """Puts something in the inferer's place."""
    return config(INFERER, f"inferer: {value}")


def metadata(**values: Any) -> Callable[[Path, Path], None]:
    """Lets the metadata's own section say something else."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "configs" / "metadata.json"
        told = json.loads(path.read_text())
        told["volssl"] |= values
        path.write_text(json.dumps(told))

    return change


def file(name: str, text: str) -> Callable[[Path, Path], None]:
    """Writes a file into the bundle; CANARY in it is the canary's path."""

    def change(bundle: Path, canary: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text(text.replace("CANARY", str(canary)))

    return change


def weights(name: str, make: Callable[[Path, Path], None], key: str = "weights_sha256") -> Callable[[Path, Path], None]:
    """Exchanges a file of tensors, and says its hash in the metadata."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "models" / name
        make(path, canary)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        told = json.loads((bundle / "configs" / "metadata.json").read_text())["volssl"]
        ranges = told["training_ranges"]
        metadata(**({key: found} if key in told else {"training_ranges": ranges | {key: found}}))(bundle, canary)

    return change


def linked(name: str) -> Callable[[Path, Path], None]:
    """Moves a part of the bundle out of it, and leaves a link to it."""

    def change(bundle: Path, canary: Path) -> None:
        shutil.move(bundle / name, canary.parent / "outside")
        (bundle / name).symlink_to(canary.parent / "outside")

    return change


def without(text: str) -> Callable[[Path, Path], None]:
    """Deletes the lines of the inference config that have a text."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "configs" / "inference.yaml"
        lines = path.read_text().splitlines()
        kept = [line for line in lines if text not in line]
        assert len(kept) < len(lines)
        path.write_text("\n".join(kept) + "\n")

    return change


def entry(name: str, value: str) -> Callable[[Path, Path], None]:
    """Puts something in the place of an entry at the top of the inference config."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "configs" / "inference.yaml"
        values = yaml.safe_load(path.read_text())
        assert name in values
        path.write_text(yaml.safe_dump(values | {name: yaml.safe_load(value)}, sort_keys=False))

    return change


def contract(**values: Any) -> Callable[[Path, Path], None]:
    """Lets the metadata's input be another."""

    def change(bundle: Path, canary: Path) -> None:
        told = json.loads((bundle / "configs" / "metadata.json").read_text())["volssl"]["input_contract"]
        metadata(input_contract=told | values)(bundle, canary)

    return change


def both(*changes: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    """Several changes, one after the other."""

    def change(bundle: Path, canary: Path) -> None:
        for one in changes:
            one(bundle, canary)

    return change


def grid(*size: int) -> Callable[[Path, Path], None]:
    """Another size of the input, of the same extent, in metadata and config."""
    extent_mm = (168.0, 196.0, 140.0)
    spacing_mm = [mm / n for mm, n in zip(extent_mm, size, strict=True)]
    return both(contract(grid=list(size), spacing_mm=spacing_mm), config("grid: [32, 36, 12]", f"grid: {list(size)}"))


def resized(*spacing_mm: float) -> Callable[[Path, Path], None]:
    """Other voxels of the input, in metadata and config."""
    extent_mm = [mm * n for mm, n in zip(spacing_mm, (32, 36, 12), strict=True)]
    return both(contract(spacing_mm=list(spacing_mm)), entry("extent_mm", str(extent_mm)))


def windows(count: int) -> Callable[[Path, Path], None]:
    """So many windows in metadata and config, and weights of a network that sees them all."""

    def widened(path: Path, canary: Path) -> None:
        state = torch.load(path, weights_only=True)
        (stem,) = (name for name, value in state.items() if value.ndim == 5 and value.shape[1] == 1)
        save_tensors(path, state | {stem: state[stem].repeat(1, count, 1, 1, 1)})

    many = [[55.0, 200.0]] * count
    return both(
        contract(window_hu=many, channels=count),
        config("window_hu: [55.0, 200.0]", f"window_hu: {many}"),
        config("in_channels: 1,", f"in_channels: {count},"),
        weights("model.pt", widened),
    )


def metadata_text(old: str, new: str) -> Callable[[Path, Path], None]:
    """Replaces a text of the metadata."""

    def change(bundle: Path, canary: Path) -> None:
        path = bundle / "configs" / "metadata.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def circle(bundle: Path, canary: Path) -> None:
    """A link to itself."""
    (bundle / "docs" / "loop").symlink_to("loop")


def grown(level: int) -> str:
    """Lists in lists by YAML's aliases, nine times as many values a level."""
    return "&l0 [1, 2]" if not level else f"&l{level} [{grown(level - 1)}{f', *l{level - 1}' * 8}]"


def merged(levels: int) -> str:
    """Mappings that are merged of others, nine times as many a level."""
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


LABELS = ["hemorrhage", "a", "b", "c", "d", "e"]


def piped(bundle: Path, canary: Path) -> None:
    """A pipe in the weights' place: who opens it waits for ever."""
    (bundle / "models" / "model.pt").unlink()
    os.mkfifo(bundle / "models" / "model.pt")


LOGGING = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
args=(__import__('os').system('touch CANARY'),)
"""

HOSTILE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a shell as a target": (
        inferer("{_target_: os.system, command: 'touch CANARY'}"),
        "inferer: _target_ os.system is not on the list",
    ),
    "a shell that MONAI itself has": (
        inferer("{_target_: monai.utils.run_cmd, cmd_list: [touch, CANARY]}"),
        "_target_ monai.utils.run_cmd is not on the list",
    ),
    "an interpreter of expressions": (
        inferer("{_target_: builtins.eval, source: \"open('CANARY', 'w')\"}"),
        "_target_ builtins.eval",
    ),
    "an expression": (inferer("\"$open('CANARY', 'w')\""), "inferer: the expression $open"),
    "an expression deep in a list": (
        config(EVALUATOR, EVALUATOR + "hidden: [1, [2, [{x: [\"$open('CANARY', 'w')\"]}]]]\n"),
        "hidden::1::1::0::x::0: the expression $open",
    ),
    "an expression in a handler": (
        config("- '@writer'", "- \"$__import__('os').system('touch CANARY')\""),
        "handlers::1: the expression $__import__",
    ),
    "an import": (
        config("run:\n", "imports: [\"$open('CANARY', 'w')\"]\nrun:\n"),
        "imports::0: the expression $open",
    ),
    "an initialization": (
        config("run:\n", "initialize: [{_target_: os.mkdir, path: CANARY}]\nrun:\n"),
        "initialize::0: _target_ os.mkdir",
    ),
    "a macro into another file": (inferer("'%CANARY.yaml::x'"), "inferer: the macro %"),
    "a requirement that is an expression": (
        inferer("{_target_: monai.inferers.SimpleInferer, _requires_: \"$open('CANARY', 'w')\"}"),
        "monai.inferers.SimpleInferer with _requires_",
    ),
    "a switch that is an expression": (
        inferer("{_target_: monai.inferers.SimpleInferer, _disabled_: \"$open('CANARY', 'w')\"}"),
        "monai.inferers.SimpleInferer with _disabled_",
    ),
    "a debugger": (
        inferer("{_target_: monai.inferers.SimpleInferer, _mode_: debug}"),
        "monai.inferers.SimpleInferer with _mode_",
    ),
    "a known target with an argument that is not": (
        config(EVALUATOR, EVALUATOR + "  iteration_update: '@device'\n"),
        "monai.engines.SupervisedEvaluator with iteration_update",
    ),
    "a known target that writes elsewhere": (
        config("output_dir: '@output_dir'", "output_dir: CANARY"),
        "volssl.bundle.answers.AnswerWriter with output_dir",
    ),
    "a path upwards": (inferer("{_target_: monai.transforms.Compose, transforms: ../../x}"), "the path ../../x"),
    "an absolute path": (inferer("{_target_: monai.transforms.Compose, transforms: CANARY}"), "the path /"),
    "a Python object in YAML": (
        inferer("!!python/object/apply:os.system ['touch CANARY']"),
        "not a readable YAML file",
    ),
    "a Python name in YAML": (inferer("!!python/name:os.system"), "not a readable YAML file"),
    "lists without end": (inferer("[" * 700 + "]" * 700), "nested too deeply"),
    "an alias that grows": (
        inferer("[&a [x, x, x, x, x, x, x], &b [*a, *a, *a, *a, *a, *a, *a], &c [*b, *b, *b, *b, *b, *b, *b],"
                " &d [*c, *c, *c, *c, *c, *c, *c]]"),
        "has an alias (*a)",
    ),
    "a number of ten thousand digits": (inferer("9" * 10000), "not a readable YAML file"),
    "a number of ten thousand digits of another kind": (inferer("0x" + "f" * 10000), "of 40000 bits is larger than"),
    "signs that move the cursor": (
        inferer(f'"${CONTROL}"'.replace("\x1b", "\\e")), "the expression $\N{REPLACEMENT CHARACTER}[2J"
    ),
    "code as a config of logging": (file("configs/logging.conf", LOGGING), "configs/logging.conf is not volssl's own"),
    "code in the bundle": (file("scripts/volssl.py", "open('CANARY', 'w')"), "scripts/volssl.py is code"),
    "a link to weights elsewhere": (linked("models/model.pt"), "models/model.pt is a link out of the bundle"),
    "a link to configs elsewhere": (linked("configs"), "configs is a link out of the bundle"),
    "a pipe in the weights' place": (piped, "models/model.pt is no ordinary file"),
    "metadata that lie about the hash": (metadata(weights_sha256="0" * 64), "the weights were exchanged"),
    "metadata with a label that moves the cursor": (metadata(labels=[CONTROL]), "signs that cannot be printed"),
    "metadata of deep nesting": (file("configs/metadata.json", "[" * 100_000), "not a readable JSON file"),
    "metadata with an input of no voxels": (
        metadata(
            input_contract={"modality": "CT", "window_hu": [55, 200], "spacing_mm": [1, 1, 1], "grid": [-9, -9, 9]}
        ),
        "an input of -9×-9×9 voxels is none",
    ),
    "metadata with an input of a terabyte": (
        metadata(
            input_contract={"modality": "CT", "window_hu": [55, 200], "spacing_mm": [1, 1, 1], "grid": [10**4] * 3}
        ),
        "voxels is none, or more than volssl makes",
    ),
    "a pickle as weights": (
        weights("model.pt", lambda path, canary: path.write_bytes(pickle.dumps(Payload(canary)))),
        "something other than tensors",
    ),
    "a pickle in torch's own archive": (
        weights("model.pt", lambda path, canary: torch.save({"weight": Payload(canary)}, path)),
        "something other than tensors",
    ),
    "a pickle beside the weights": (
        weights("features.pt", lambda path, canary: torch.save({"mean": Payload(canary)}, path), "features_sha256"),
        "features.pt: holds something other than tensors",
    ),
    "a tensor that claims ten gigabytes": (
        weights("model.pt", lambda path, _: torch.save({"weight": torch.zeros(1).expand(2_500_000_000)}, path)),
        "tensors are larger than the file",
    ),
    "a network of a hundred gigabytes": (config("growth: 7", "growth: 4096"), "the weights do not fit"),
    "weights that nobody loads": (without("BundleWeights"), "handlers is another than volssl's own"),
    "logits called probabilities": (config("sigmoid: true", "sigmoid: false"), "postprocessing is another than"),
    "no postprocessing": (without("postprocessing: '@postprocessing'"), "evaluator is another than volssl's own"),
    "no preprocessing": (
        entry("preprocessing", "{_target_: monai.transforms.Compose, transforms: []}"), "preprocessing is another than"
    ),
    "a number as an evaluator": (entry("evaluator", "5"), "evaluator is another than volssl's own"),
    "a number as a network": (entry("network_def", "5"), "network_def is another than volssl's own"),
    "transforms as a network": (
        entry("network_def", "{_target_: monai.transforms.Compose, transforms: []}"), "network_def has no encoder"
    ),
    "an encoder of another network": (
        config("encoder: {_target_: volssl.encoders.PaperDenseNet", "encoder: {_target_: volssl.heads.TaskNetwork} #"),
        "network_def has no encoder of volssl",
    ),
    "a part of the network as one of its settings": (
        config("init_features: 16", "init_features: '@evaluator'"), "its encoder's init_features is no plain value"
    ),
    "a text as a switch": (config("flips: false", "flips: 'no'"), "flips is no plain bool"),
    "a reference as a switch": (config("flips: false", "flips: '@evaluator'"), "flips is no plain bool"),
    "mappings that are merged of others": (config(RUN, merged(7) + RUN), "has an alias (*x0)"),
    "lists in an argument that grow": (config("decollate: false", f"decollate: {grown(7)}"), "has an alias (*l0)"),
    "lists as a target that grow": (inferer(f"{{_target_: {grown(7)}}}"), "has an alias (*l0)"),
    "two hundred thousand values": (config(RUN, f"big: [{'1,' * 200_000}]\n{RUN}"), "over 64 kB"),
    "ten thousand values": (config(RUN, f"big: [{'1,' * 10_000}]\n{RUN}"), "more than 4000 words"),
    "a huge number as a target": (inferer("{_target_: 0x" + "f" * 10000 + "}"), "_target_ of 40000 bits is not"),
    "a huge number as an argument": (config("decollate: false", "decollate: 0x" + "f" * 10000), "of 40000 bits in"),
    "a key of many lines": (inferer('{"a\\nb": 1}'), "the key 'a\\nb'"),
    "a modality that moves the cursor": (
        contract(modality=f"C{CONTROL}T"), "the input's modality is none"
    ),
    "another config that MONAI prefers": (
        file("configs/inference.json", '{"x": "$open(\'CANARY\', \'w\')"}'), "configs/inference.json is no config of"
    ),
    "a config under another suffix": (file("configs/inference.yml", "{}"), "configs/inference.yml is no config of"),
    "code in capitals": (file("scripts/volssl.PY", "open('CANARY', 'w')"), "scripts/volssl.PY is code"),
    "a script of a shell": (file("docs/run.sh", "touch CANARY"), "docs/run.sh is code"),
    "a link in a circle": (circle, "docs/loop is a link to nothing"),
    "metadata with infinitely many labels": (metadata_text('"volume": 1', '"volume": 1e400'), "volume is a float"),
    "metadata with a grid of words": (contract(grid=["a", "b", "c"]), "the input's grid is none"),
    "metadata without a grid": (contract(grid=None), "the input's grid is none"),
    "metadata with a spacing that is repeated": (contract(spacing_mm=["a" * 10**6, 1, 1]), "the input's spacing_mm is"),
    "metadata with a window of no width": (contract(window_hu=[55.0, 0.0]), "the input's window_hu is none"),
    "metadata with a hundred labels": (metadata(labels=[f"x{n}" for n in range(100)]), "feeds types 5, the weights"),
    "metadata with a label": (metadata(labels=["hemorrhage"]), "feeds types 5, the weights were trained with 0"),
    "metadata with a label more for a slice less": (
        both(metadata(labels=[*LABELS, "f"], slices=11), config("slices: 12", "slices: 11"),
             config("types: 5", "types: 6")),
        "11 slices, the input has 12",
    ),
    "metadata with slices without end": (metadata(slices=10**9), "feeds slices 12, the weights were trained with 1000"),
    "metadata with a label that a column has": (metadata(labels=["study", *LABELS[1:]]), "a label is one of notice, "),
    "metadata with a label called notice": (metadata(labels=["notice", *LABELS[1:]]), "a label is one of notice, "),
    "metadata with a label that a spreadsheet runs": (
        metadata(labels=["=HYPERLINK(A1)", *LABELS[1:]]), "a label begins with one of = + - @"
    ),
    "metadata with a label that a spreadsheet calls": (
        metadata(labels=[*LABELS[:-1], "@SUM(A1)"]), "a label begins with one of = + - @"
    ),
    "metadata with two types the other way round": (
        metadata(labels=["hemorrhage", *reversed(TYPES)]), "those of hemorrhage are hemorrhage, subarachnoid, subdural"
    ),
    "metadata with voxels of a billionth millimetre": (
        resized(1e-9, 1.0, 1.0), "an input with voxels of 1e-09×1×1 mm; plausible are 0.05 to 50 mm"
    ),
    "metadata with an extent of four metres": (
        resized(1.0, 4000 / 36, 1.0), "an input with voxels of 1×111.111×1 mm; plausible are 0.05 to 50 mm"
    ),
    "an answer for the mirror image too": (
        config("flips: false", "flips: true"), "feeds flips True, the weights were trained with False"
    ),
    "metadata that lie about the mirror image": (
        metadata(flips=True), "feeds flips False, the weights were trained with True"
    ),
    "metadata with a word for the mirror image": (metadata(flips="no"), "flips is a str"),
    "metadata with two equal labels": (metadata(labels=["a", *LABELS[1:]]), "two labels are the same"),
    "metadata with a word for yes or no": (metadata(simulated_training_data="no"), "simulated_training_data is a str"),
    "metadata of a task that there is not": (metadata(task="stroke"), "there is no task stroke"),
    "metadata of another task": (metadata(task="metastasis"), "is missing; "),
    "six hundred windows": (
        both(contract(window_hu=[[55.0, 200.0]] * 600, channels=600), grid(256, 256, 128)),
        "voxels is none, or more than volssl makes",
    ),
    "three hundred windows of a small input": (
        windows(300), "an input of 300 channels is more than volssl makes, which are 16"
    ),
    "a network that makes too much of its input": (
        both(grid(250, 250, 240), metadata(slices=240), config("slices: 12", "slices: 240"),
             config("init_features: 16", "init_features: 4096")),
        "values, which is too much",
    ),
    "weights of sixty gigabytes of holes": (
        weights("model.pt", lambda path, _: os.truncate(path, 10**6)), "has 1000000 bytes, the network of the config"
    ),
    "features of gigabytes": (
        weights("features.pt", lambda path, _: os.truncate(path, 10**7), "features_sha256"), "has 10000000 bytes"
    ),
    "weights that are no numbers": (
        weights("model.pt", lambda path, _: save_tensors(
            path, {name: value / 0 for name, value in torch.load(path, weights_only=True).items()})),
        "values that are no numbers",
    ),
}  # fmt: skip


def test_there_are_at_least_twenty() -> None:
    assert len(HOSTILE) >= 20


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_line_and_nothing_of_it_runs(
    line: Line,
    bundle_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    change, found = HOSTILE[name]
    canary, out = tmp_path / "canary", tmp_path / "out"
    change(bundle_copy, canary)
    monkeypatch.setattr("sys.argv", ["volssl", "predict", str(bundle_copy), str(line.volumes[0]), "--out", str(out)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    (said,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 1
    assert said.startswith("error: ")
    assert found in said
    assert len(said) < 800
    assert said.isprintable()
    assert str(bundle_copy) in said
    assert not canary.exists()
    assert not out.exists()


def test_the_canary_would_have_been_found(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()
    canary.unlink()
    (tmp_path / "logging.conf").write_text(LOGGING.replace("CANARY", str(canary)))
    code = "import logging.config, sys; logging.config.fileConfig(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "logging.conf")], capture_output=True, check=False)
    assert canary.exists()
