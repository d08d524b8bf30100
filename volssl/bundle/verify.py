"""Whether a bundle may be run: its config builds objects, so it names what is known here alone, and no path out of it.

MONAI evaluates `$` expressions, reads the files that `%` macros name, and imports and calls any `_target_`. A bundle
from elsewhere is read as plain values and looked through before any of it is built, and what was looked through is
what is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from volssl.bundle.agreement import (
    INFERENCE,
    recipe_findings,
    refuse_other_answer,
    refuse_other_input,
    refuse_other_weights,
)
from volssl.bundle.config import read_config
from volssl.bundle.metadata import METADATA, BundleFacts, read_facts
from volssl.bundle.strange_files import links_out, strange_files
from volssl.bundle.tensor_file import largest_file
from volssl.bundle.weights import FEATURES, read_space, read_weights
from volssl.errors import UserError
from volssl.progress import say

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
    "volssl.data.studies.Studies": {
        "data": "@dataset_dir",
        "transform": "@preprocessing",
        "modality": ANY,
        "join": "@join",
    },
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
        "flips": ANY,
        "join": "@join",
    },
    "volssl.slabs.SlabNetwork": {"encoder": ANY, "suspects": ANY, "flips": ANY},
    "volssl.slabs.SuspectNetwork": {},
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
LARGEST_CONFIG_KB, MOST_WORDS, DEEPEST = 64, 4000, 20  # of a config; those that volssl ships have 3 kB and 200 words
LONGEST, LONGEST_LINE = 60, 600  # characters that are shown of what was found, and of all


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
    try:
        return examined(bundle, trust=trust)
    # Whatever a bundle from elsewhere makes of looking at it, it is not run, and says so in one line
    except Exception as error:
        told = str(error) if isinstance(error, UserError | ValueError) else f"{type(error).__name__}: {error}"
        known = isinstance(error, UserError) and str(bundle) in told
        raise UserError(one_line(told if known else f"{bundle}: not run: {told}")) from error


def one_line(text: str) -> str:
    """A text that moves no cursor of a terminal."""
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    return shown if len(shown) <= LONGEST_LINE else f"{shown[:LONGEST_LINE]}…"


def examined(bundle: Path, *, trust: bool) -> CheckedBundle:
    """`check_bundle`, with errors of every kind."""
    if not bundle.is_dir():
        raise UserError(f"{bundle}: no bundle there; write one with `volssl export`")
    for part in (METADATA, INFERENCE):
        if not (bundle / part).is_file():
            raise UserError(f"{bundle}: {part} is missing; write the bundle with `volssl export`")
    findings = links_out(bundle) + strange_files(bundle)
    refuse(bundle, findings, trust=trust)
    config = inference_values(bundle / INFERENCE)
    findings += config_findings(config)
    refuse(bundle, findings, trust=trust)
    facts = read_facts(bundle)
    findings += recipe_findings(config, facts.task)
    refuse(bundle, findings, trust=trust)
    for finding in findings:
        say(one_line(f"trusted: {finding}"))
    if findings:
        read_weights(bundle)
        read_space(bundle, facts.ranges)
    else:
        refuse_disagreement(bundle, config, facts)
    return CheckedBundle(bundle, config, facts)


def inference_values(path: Path) -> dict[str, Any]:
    """The inference config as plain values, nothing resolved.

    What its text makes is counted first: an alias stands for a part that was written before, and a few of aliases make
    more than any memory holds.
    """
    if path.stat().st_size > LARGEST_CONFIG_KB * 2**10:
        raise UserError(f"{path}: over {LARGEST_CONFIG_KB} kB, no config is so large")
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(path.read_text(), Loader=yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path}: has an alias (*{event.anchor}), which a bundle's config needs not")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{path}: nested too deeply for a config")
            if count > MOST_WORDS:
                raise UserError(f"{path}: more than {MOST_WORDS} words, no config has so many")
        return read_config(path)
    # bytes that are no text, a number of thousands of digits, a date that is none
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({str(error).splitlines()[0]})") from error


def refuse_disagreement(bundle: Path, config: Mapping[str, Any], facts: BundleFacts) -> None:
    """Raise a ValueError where the config would feed or build something else than metadata and weights say.

    The network is built without memory first, so that its size is known before a file of weights is read.
    """
    refuse_other_input(config, facts)
    with torch.device("meta"):
        network = build(config, "network_def")
    refuse_other_answer(network, facts)
    refuse_other_weights(network, read_weights(bundle, most=largest_file(network)))
    dim = network.encoder.dim
    mean_and_precision = torch.nn.Linear(dim, dim, device="meta")  # which have its size
    space = read_space(bundle, facts.ranges, most=largest_file(mean_and_precision))
    if space is not None and len(space.mean) != dim:
        raise ValueError(f"{FEATURES} are {len(space.mean)}, the encoder has {dim}")


def build(config: Mapping[str, Any], *names: str) -> Any:
    """What a checked config builds under a name, or a tuple for several.

    Raises:
        UserError: where it cannot be built.
    """
    parser = ConfigParser(dict(config))
    # Only what was trusted has an expression; elsewhere none is run, wherever MONAI should find one
    expressions = any(isinstance(value, str) and value.startswith("$") for _, value in entries(config))
    try:
        built = tuple(parser.get_parsed_content(name, eval_expr=expressions) for name in names)
    # MONAI raises these for what is missing, refers in a circle, or does not take its arguments
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        detail = one_line(str(error.__cause__ or error).splitlines()[0])
        raise UserError(
            f"the inference config cannot be built: {detail}; write the bundle with `volssl export`"
        ) from error
    return built[0] if len(built) == 1 else built


def refuse(bundle: Path, findings: list[str], *, trust: bool) -> None:
    """Raise the line for a bundle that is not run, where something was found and nobody vouches for it."""
    if findings and not trust:
        more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
        raise UserError(
            f"{bundle}: not run, it could run code, touch files of others or answer otherwise than it says: "
            f"{'; '.join(findings[:3])}{more}; --trust runs it all the same"
        )


def config_findings(config: Mapping[str, Any]) -> list[str]:
    """What in a config could run or reach something that is not allowed; one phrase each, where it stands first."""
    findings: list[str] = []
    for place, value in entries(config):
        if isinstance(value, Mapping):
            findings += [f"{place}: {finding}" for finding in mapping_findings(value)]
        elif isinstance(value, str):
            findings += [f"{place}: {finding}" for finding in string_findings(value)]
        elif isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
            findings.append(f"{place}: the number {shown(value)} is larger than {LARGEST_NUMBER}")
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
        yield from entries(part, f"{place}::{named(key)}" if place else named(key))


def named(value: Any) -> str:
    """A text as it stands, anything else as `shown`."""
    return value[:LONGEST] if isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    """A value in a few characters: Python takes minutes to write a huge number, or refuses."""
    if isinstance(value, int) and value.bit_length() > LONGEST:
        return f"of {value.bit_length()} bits"
    return repr(value)[:LONGEST]


def mapping_findings(values: Mapping[Any, Any]) -> list[str]:
    """Strange keys, and for an object to build, its target and arguments."""
    findings = [f"the key {shown(key)}" for key in values if not isinstance(key, str) or not KEY.fullmatch(key)]
    if "_target_" not in values:
        return findings + [f"the key {key}" for key in values if isinstance(key, str) and key.startswith("_")]
    target = values["_target_"]
    if not isinstance(target, str) or target not in ALLOWED:
        return [
            *findings,
            f"_target_ {named(target)} is not on the list of those that are known",
        ]
    for name, value in values.items():
        if name in ("_target_", "_desc_"):
            continue
        if name not in ALLOWED[target]:
            findings.append(f"{target} with {named(name)}")
        elif ALLOWED[target][name] is not ANY and value != ALLOWED[target][name]:
            findings.append(f"{target} with {name} {shown(value)} in place of {ALLOWED[target][name]!r}")
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
