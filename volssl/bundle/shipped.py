"""Which bundles, train configs and presets volssl ships: read off their folders, without loading what they build."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

BASE, PRESETS = "base.yaml", "presets"  # what configs of a folder share; files of other values for one of them
PRETRAINING = "volume_pretraining"  # whose configs are the methods
TASK_BUNDLES = {
    "hemorrhage": "head_ct_hemorrhage_classification",
    "metastasis": "brain_mr_metastasis_classification",
    "classification": "volume_classification",
}
EMBEDDING = "embedding"  # what stands for the task of a bundle that embeds
SINGLE = "single"  # the preset that every config is by itself: for one GPU or CPU
TRAIN = "train.yaml"
TRAINS_NOTHING = (BASE, "inference.yaml", "evaluate.yaml")


def bundle_folder(bundle: str) -> Path:
    """Where a bundle that volssl ships lies."""
    return Path(str(importlib.resources.files("volssl.bundles"))) / bundle


def train_configs(bundle: str) -> list[str]:
    """Names of the configs of a bundle that train; of `volume_pretraining` the methods."""
    return [path.stem for path in training_files(bundle_folder(bundle))]


def training_files(folder: Path) -> list[Path]:
    """The configs in a bundle's folder that train.

    Where there is one a method, `train.yaml` is none of them: `volssl export` wrote there what trained the weights.
    """
    found = sorted(path for path in (folder / "configs").glob("*.yaml") if path.name not in TRAINS_NOTHING)
    return [path for path in found if path.name != TRAIN] or found


def presets(bundle: str, config: str) -> dict[str, list[Path]]:
    """The files that each preset of a config lays over it: none of `single`, the config as it stands."""
    files = sorted((bundle_folder(bundle) / "configs" / PRESETS).glob(f"{config}_*.yaml"))
    return {SINGLE: []} | {path.stem.removeprefix(f"{config}_"): [path] for path in files}
