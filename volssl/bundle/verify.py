"""Whether a bundle may be run: its config builds objects, so it names what is known here alone, and no path out of it.

MONAI evaluates `$` expressions, reads the files that `%` macros name, and imports and calls any `_target_`. A bundle
from elsewhere is read as plain values and looked through before any of it is built, and what was looked through is
what is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from volssl.bundle.config import read_config
from volssl.bundle.metadata import LARGEST_FILE_MB, METADATA, BundleFacts, read_facts
from volssl.bundle.ranges import FeatureSpace
from volssl.bundle.shipped import PRETRAINING, bundle_folder
from volssl.bundle.weights import FEATURES, read_space, read_weights
from volssl.contract import as_list
from volssl.errors import UserError
from volssl.progress import say

INFERENCE = Path("configs") / "inference.yaml"
ANY = object()

# Every `_target_` by its exact name, with the arguments it may be given; where a value stands, only that value.
ALLOWED: dict[str, dict[str, Any]] = {
    "ignite.distributed.device": {},
    "monai.engines.SupervisedEvaluator": {
        "device": "@device",
        "val_data_loader": "@dataset",
        "network": "@network_def",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "decollate": False,
    },
    "monai.engines.SupervisedEvaluator.run": {"self": "@evaluator"},
    "monai.inferers.SimpleInferer": {},
    "monai.transforms.Activationsd": {"keys": ANY, "sigmoid": ANY},
    "monai.transforms.Compose": {"transforms": ANY},
    "volssl.bundle.answers.AnswerWriter": {
        "bundle_root": "@bundle_root",
        "output_dir": "@output_dir",
        "studies": "@dataset",
        "network": "@network_def",
    },
    "volssl.bundle.embedding.EmbeddingNetwork": {"encoder": ANY},
    "volssl.bundle.embedding.MiddleCropd": {
        "keys": "image",
        "modality": "@modality",
        "grid": "@grid",
        "spacing_mm": "@spacing_mm",
        "window_hu": "@window_hu",
    },
    "volssl.bundle.weights.BundleWeights": {"bundle_root": "@bundle_root", "network": "@network_def"},
    "volssl.data.studies.Studies": {"data": "@dataset_dir", "transform": "@preprocessing", "modality": ANY},
    "volssl.encoders.DenseNet121": {"in_channels": ANY, "init_features": ANY, "growth": ANY, "checkpointing": ANY},
    "volssl.encoders.PaperDenseNet": {
        "in_channels": ANY,
        "init_features": ANY,
        "growth": ANY,
        "compress": ANY,
        "checkpointing": ANY,
    },
    "volssl.encoders.SwinUNETR": {
        "in_channels": ANY,
        "feature_size": ANY,
        "depths": ANY,
        "num_heads": ANY,
        "window_size": ANY,
        "drop_path_rate": ANY,
        "downsample": ANY,
        "use_v2": ANY,
        "checkpointing": ANY,
    },
    "volssl.heads.TaskNetwork": {
        "encoder": ANY,
        "volume": ANY,
        "types": ANY,
        "slices": ANY,
        "dropout": ANY,
        "flips": ANY,
    },
    "volssl.slabs.SlabNetwork": {
        "encoder": ANY,
        "suspects": ANY,
        "slab": ANY,
        "scored": ANY,
        "dropout": ANY,
        "flips": ANY,
    },
    "volssl.slabs.SuspectNetwork": {"features": ANY},
    "volssl.transforms.probabilities.Probabilitiesd": {"keys": "pred", "kinds": "@kinds", "sizes": "@sizes"},
    "volssl.transforms.scan_box.ScanBoxd": {
        "keys": "image",
        "modality": "@modality",
        "place": "@place",
        "grid": "@grid",
        "extent_mm": "@extent_mm",
        "window_hu": "@window_hu",
    },
    "volssl.transforms.head_box.HeadBoxd": {
        "keys": "image",
        "grid": "@grid",
        "extent_mm": "@extent_mm",
        "window_hu": "@window_hu",
    },
}
REFERENCE = re.compile(r"@\w+(::\w+)*")
KEY = re.compile(r"\w+")
LARGEST_NUMBER = 4096  # voxels, channels, millimetres and HU of a config
MOST_VALUES, DEEPEST = 2000, 20  # of a config; YAML's aliases can make more than was written
LARGEST_INPUT = 2**24  # voxels
LONGEST = 60  # characters that are shown of what was found
LOGGING = Path("configs") / "logging.conf"
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".pth")


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle that may be run: its folder, the config as it was checked, and its facts."""

    root: Path
    config: dict[str, Any]
    facts: BundleFacts


def check_bundle(bundle: Path, *, trust: bool = False) -> CheckedBundle:
    """Read a bundle's inference config, facts and weights, and refuse what is not known to be harmless.

    Args:
        trust: run what the config names, whoever wrote it; weights are read as tensors alone all the same.

    Raises:
        UserError: for what is no bundle of volssl, or one that would run other code, reads or writes elsewhere, holds
            weights that are not its own, or wants an input of unreasonable size. The line says what was found.
    """
    if not bundle.is_dir():
        raise UserError(f"{bundle}: no bundle there; write one with `volssl export`")
    for part in (METADATA, INFERENCE):
        if not (bundle / part).is_file():
            raise UserError(f"{bundle}: {part} is missing; write the bundle with `volssl export`")
    findings = links_out(bundle) + strange_files(bundle)
    if findings and not trust:
        raise refusal(bundle, findings)
    config = inference_values(bundle / INFERENCE)
    findings += config_findings(config)
    if findings and not trust:
        raise refusal(bundle, findings)
    for finding in findings:
        say(f"trusted: {finding}")
    checked = CheckedBundle(bundle, config, read_facts(bundle))
    state = read_weights(bundle)
    space = read_space(bundle, checked.facts.ranges)
    if not findings:
        refuse_disagreement(checked, state, space)
    return checked


def inference_values(path: Path) -> dict[str, Any]:
    """The inference config as plain values, nothing resolved."""
    if path.stat().st_size > LARGEST_FILE_MB * 2**20:
        raise UserError(f"{path}: over {LARGEST_FILE_MB} MB, no config is so large")
    try:
        return read_config(path)
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply for a config") from error
    except ValueError as error:  # bytes that are no text, a number of thousands of digits, a date that is none
        raise UserError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from error


def refuse_disagreement(checked: CheckedBundle, state: Mapping[str, Tensor], space: FeatureSpace | None) -> None:
    """Raise a UserError where the config would feed or build something else than metadata and weights say.

    The network is built without memory first, so that its size is known to be that of the weights.
    """
    config, contract = checked.config, checked.facts.contract
    if min(contract.grid) < 1 or math.prod(contract.grid) > LARGEST_INPUT:
        size = "×".join(str(n)[:9] for n in contract.grid)
        raise UserError(f"{checked.root}: an input of {size} voxels is none, or more than volssl makes")
    extent_mm = [mm * n for mm, n in zip(contract.spacing_mm, contract.grid, strict=True)]
    lengths = ("spacing_mm", list(contract.spacing_mm)) if checked.facts.dim else ("extent_mm", extent_mm)
    modality = config["dataset"].get("modality") if isinstance(config.get("dataset"), dict) else None
    if modality == "@modality":
        modality = config.get("modality")
    for name, fed, wanted in (
        ("grid", config.get("grid"), list(contract.grid)),
        (lengths[0], config.get(lengths[0]), lengths[1]),
        ("window_hu", config.get("window_hu"), as_list(contract.window_hu or ())),
        ("modality", modality, contract.modality),
        ("place", config.get("place", "middle" if checked.facts.dim else "head"), checked.facts.box),
    ):
        if not same(fed, wanted):
            raise UserError(f"{checked.root}: {INFERENCE} feeds {name} {fed}, the weights were trained with {wanted}")
    with torch.device("meta"):
        network = build(checked.config, "network_def")
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    strange = [name for name in {**shapes, **state} if name not in state or shapes.get(name) != state[name].shape]
    if strange:
        raise UserError(f"{checked.root}: {INFERENCE} builds a network that the weights do not fit, at {strange[0]}")
    if checked.facts.dim and checked.facts.dim != network.encoder.dim:
        raise UserError(
            f"{checked.root}: a feature of {checked.facts.dim} numbers, the encoder has {network.encoder.dim}"
        )
    if space is not None and len(space.mean) != network.encoder.dim:
        raise UserError(f"{checked.root}: {FEATURES} are {len(space.mean)}, the encoder has {network.encoder.dim}")


def same(fed: Any, wanted: Any) -> bool:
    """Whether two values are equal, numbers in lists but for rounding."""
    if isinstance(fed, list) and isinstance(wanted, list):
        return len(fed) == len(wanted) and all(same(*pair) for pair in zip(fed, wanted, strict=True))
    if isinstance(fed, int | float) and isinstance(wanted, int | float):
        return math.isclose(fed, wanted, rel_tol=1e-6)
    return bool(fed == wanted)


def build(config: Mapping[str, Any], *names: str) -> Any:
    """What a checked config builds under a name, or a tuple for several.

    Raises:
        UserError: where it cannot be built.
    """
    parser = ConfigParser(dict(config))
    try:
        built = tuple(parser.get_parsed_content(name) for name in names)
    # MONAI raises these for what is missing, refers in a circle, or does not take its arguments
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        detail = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"the inference config cannot be built: {detail}; write the bundle with `volssl export`"
        ) from error
    return built[0] if len(built) == 1 else built


def refusal(bundle: Path, findings: list[str]) -> UserError:
    """The line for a bundle that is not run."""
    more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
    told = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in "; ".join(findings[:3]))
    return UserError(
        f"{bundle}: not run, it could run code or touch files of others: {told}{more}; --trust runs it all the same"
    )


def links_out(bundle: Path) -> list[str]:
    """Symbolic links of the bundle that lead out of it."""
    root = bundle.resolve()
    return [
        f"{path.relative_to(bundle)} is a link out of the bundle"
        for path in sorted(bundle.rglob("*"))
        if path.is_symlink() and not path.resolve().is_relative_to(root)
    ]


def strange_files(bundle: Path) -> list[str]:
    """What a bundle of volssl does not hold: code, files that are none, a logging.conf that is not volssl's.

    MONAI hands logging.conf to Python's `logging.config.fileConfig`, which evaluates what stands in it.
    """
    findings = []
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle)
        if not path.is_symlink() and not path.is_dir() and not path.is_file():
            findings.append(f"{name} is no ordinary file")
        elif path.suffix in CODE:
            findings.append(f"{name} is code")
    logging = bundle / LOGGING
    if logging.is_file() and logging.read_bytes() != (bundle_folder(PRETRAINING) / LOGGING).read_bytes():
        findings.append(f"{LOGGING} is not volssl's own, and Python runs what stands in one")
    return findings


def config_findings(config: Mapping[str, Any]) -> list[str]:
    """What in a config could run or reach something that is not allowed; one phrase each, where it stands first."""
    findings: list[str] = []
    for count, (place, value) in enumerate(entries(config)):
        if count > MOST_VALUES or place.count("::") > DEEPEST:
            return [*findings, f"more than {MOST_VALUES} values or {DEEPEST} levels"]
        if isinstance(value, Mapping):
            findings += [f"{place}: {finding}" for finding in mapping_findings(value)]
        elif isinstance(value, str):
            findings += [f"{place}: {finding}" for finding in string_findings(value)]
        elif isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
            shown = f"{value:g}" if isinstance(value, float) or abs(value) < 1e15 else f"of {value.bit_length()} bits"
            findings.append(f"{place}: the number {shown} is larger than {LARGEST_NUMBER}")
        elif not isinstance(value, list | int | float | None):
            findings.append(f"{place}: a {type(value).__name__}")
    return findings


def entries(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested config with its place, itself first."""
    yield place or "top", value
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    for key, part in inner:
        yield from entries(part, f"{place}::{key}" if place else str(key))


def mapping_findings(values: Mapping[Any, Any]) -> list[str]:
    """Strange keys, and for an object to build, its target and arguments."""
    findings = [
        f"the key {repr(key)[:LONGEST]}" for key in values if not isinstance(key, str) or not KEY.fullmatch(key)
    ]
    if "_target_" not in values:
        return findings + [f"the key {key}" for key in values if str(key).startswith("_")]
    target = values["_target_"]
    if not isinstance(target, str) or target not in ALLOWED:
        return [*findings, f"_target_ {str(target)[:LONGEST]} is not on the list of those that are known"]
    for name, value in values.items():
        if name in ("_target_", "_desc_"):
            continue
        if name not in ALLOWED[target]:
            findings.append(f"{target} with {str(name)[:LONGEST]}")
        elif ALLOWED[target][name] is not ANY and value != ALLOWED[target][name]:
            findings.append(f"{target} with {name} {repr(value)[:LONGEST]} in place of {ALLOWED[target][name]!r}")
    return findings


def string_findings(text: str) -> list[str]:
    """An expression, a macro, a reference into something, or a path that leads elsewhere."""
    if text.startswith("$"):
        return [f"the expression {text[:LONGEST]}"]
    if text.startswith("%"):
        return [f"the macro {text[:LONGEST]}"]
    if ("@" in text and not REFERENCE.fullmatch(text)) or "%" in text:
        return [f"the reference {text[:LONGEST]}"]
    if ".." in re.split(r"[/\\]", text) or text.startswith("~") or absolute(text):
        return [f"the path {text[:LONGEST]}"]
    return []


def absolute(text: str) -> bool:
    """Whether a path starts at a root of any system."""
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).anchor != ""
