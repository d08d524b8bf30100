"""Weights put into the folder of a recipe, `bundles/NAME`: what describes them changes, the recipe stays.

The folders that volssl ships are its recipes, and templates of every bundle. With weights in one, it is a bundle that
runs: inference config, metadata and card are of these weights, still with all that a template needs, so that the next
run can take their place. The train configs keep their defaults; what the run did otherwise is a preset, `shipped`. A
recipe with a config a method has a `train.yaml` too, as every bundle: both in one, what trained the weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from volssl.bundle.agreement import INFERENCE
from volssl.bundle.artefacts import FORMATS
from volssl.bundle.card import MARK
from volssl.bundle.config import SEPARATOR, read_config
from volssl.bundle.metadata import METADATA, read_metadata
from volssl.bundle.shipped import BASE, PRESETS, TRAIN, bundle_folder, training_files
from volssl.bundle.weights import FEATURES, WEIGHTS
from volssl.bundle.workflow import method_of
from volssl.errors import UserError
from volssl.files import write_text

CARD, LICENCE = Path("docs") / "README.md", Path("docs") / "data_license.txt"
FILLED = (WEIGHTS, FEATURES, METADATA, INFERENCE, CARD, LICENCE, *(file for file, _, _ in FORMATS.values()))
PLACES = (
    "bundle_root",
    "dataset_dir",
    "labels",
    "output_dir",
    "encoder_path",
    "suspects_path",
)  # keys that name places
CIRCUMSTANCES = (*PLACES, "resume", "device", "workers", "checkpoint_steps")  # what leaves no trace in the weights
SHIPPED = "shipped"
HEADER = """# What the weights in models/ were trained with, where it is not the default. `volssl export` wrote it.

"""


def is_recipe(folder: Path) -> bool:
    """Whether a folder is one of those that bundles are made from: its card has parts to fill in."""
    return (folder / CARD).is_file() and MARK.search((folder / CARD).read_text()) is not None


def refuse_other_recipe(folder: Path, name: str) -> None:
    """Raise a UserError where a recipe is not the one of a run."""
    wanted, found = (read_metadata(each)["name"] for each in (bundle_folder(name), folder))
    if wanted != found:
        raise UserError(f"{folder}: is the recipe of {found}, the run is of {wanted}; name another folder")


def fill_recipe(folder: Path, made: Path, config: Mapping[str, Any]) -> None:
    """Put what a finished bundle says of its weights, and the weights, into the recipe that it was made from.

    Args:
        made: the bundle; its files are moved.
        config: of the run, as its train.yaml has it.
    """
    preset = preset_of(folder, config)
    written = Path("configs") / TRAIN
    whole = [] if folder / written in training_files(folder) else [written]  # of a recipe with a config a method
    for name in (*FILLED, *whole):
        if (made / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(made / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    for old in (folder / "configs" / PRESETS).glob(f"*_{SHIPPED}.yaml"):
        old.unlink()
    for config_name, values in preset.items():
        path = folder / "configs" / PRESETS / f"{config_name}_{SHIPPED}.yaml"
        path.parent.mkdir(exist_ok=True)
        write_text(path, HEADER + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))


def training_configs(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The files of a filled recipe's `configs` that train its weights again, each laid over those before it."""
    preset = preset_of(folder, config)
    if folder / "configs" / TRAIN not in training_files(folder):  # a recipe with a config a method has all in one
        return [TRAIN]
    base = [BASE] if (folder / "configs" / BASE).is_file() else []
    return [*base, TRAIN, *(f"{PRESETS}/{name}_{SHIPPED}.yaml" for name in preset)]


def preset_of(folder: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a run did otherwise than the recipe's train config of the same method, under that config's name."""
    found = {}
    for path in training_files(folder):
        base = [path.parent / BASE] if (path.parent / BASE).is_file() else []
        shipped = read_config([*base, path])
        if "run" in shipped and "method" in shipped and method_of(shipped) == method_of(config):
            values = {key: value for key, value in config.items() if key not in CIRCUMSTANCES}
            found[path.stem] = deviations(values, shipped)
    if not found:
        raise UserError(f"{folder}: has no config that trains as the run did; name another folder")
    name = min(found, key=lambda each: len(found[each]))
    return {name: found[name]} if found[name] else {}


def deviations(config: Mapping[str, Any], shipped: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """The entries of a nested config that another does not have, or has otherwise, keyed as MONAI keys them."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{place}{SEPARATOR}{key}" if place else str(key)
        if key not in shipped:
            found[name] = value
        elif isinstance(value, Mapping) and isinstance(shipped[key], Mapping):
            found |= deviations(value, shipped[key], name)
        elif value != shipped[key]:
            found[name] = value
    return found
