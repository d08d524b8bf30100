"""Whether a bundle's config, metadata and weights agree with each other, and with the config that volssl ships.

Nothing of it could run other code. But an answer names the weights and the labels of the metadata: what is built must
be what those mean, and of a size that fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volssl.bundle.config import read_config
from volssl.bundle.metadata import BundleFacts
from volssl.bundle.shipped import PRETRAINING, TASK_BUNDLES, bundle_folder
from volssl.contract import as_list
from volssl.tasks.hemorrhage import TYPES, Hemorrhage
from volssl.tasks.metastasis import Metastasis

INFERENCE = Path("configs") / "inference.yaml"
NETWORK, ENCODER = "network_def", "encoder"
KINDS = ("binary", "multi-class", "ordinal")
OWN_LABELS = {Hemorrhage.name: ("hemorrhage", *TYPES), Metastasis.name: Metastasis.volume_outputs}
LARGEST_INPUT = 2**24  # values: voxels of all channels
MOST_CHANNELS = 16  # of the scan itself, before it is brought to the grid; of all series that are joined
VOXEL_MM = (0.05, 50.0)  # of the input: no network is fed smaller or larger ones
LARGEST_OUTPUT = 2**30  # values that one layer makes


def recipe_findings(config: Mapping[str, Any], task: str) -> list[str]:
    """Where a config is another than the shipped one of its task: but for plain values at its top, and the encoder."""
    recipe = read_config(bundle_folder(TASK_BUNDLES.get(task, PRETRAINING)) / INFERENCE)
    findings = [f"{name} is missing" for name in recipe if name not in config]
    findings += [f"{name} is no entry of volssl's own config" for name in config if name not in recipe]
    for name in (name for name in recipe if name in config):
        ours, found = recipe[name], config[name]
        if is_plain(ours):
            if type(found) is not type(ours) or not is_plain(found):
                findings.append(f"{name} is no plain {type(ours).__name__}")
        elif name == NETWORK and isinstance(found, Mapping):
            if without_encoder(found) != without_encoder(ours):
                findings.append(f"{name} is another than volssl's own, not in its encoder alone")
            findings += encoder_findings(found.get(ENCODER))
        elif found != ours:
            findings.append(f"{name} is another than volssl's own")
    return findings


def encoder_findings(encoder: Any) -> list[str]:
    """Something other than an encoder with plain settings; which there are, the list of targets says."""
    if not isinstance(encoder, Mapping) or not str(encoder.get("_target_")).startswith("volssl.encoders."):
        return [f"{NETWORK} has no encoder of volssl"]
    return [f"its encoder's {name} is no plain value" for name, value in encoder.items() if not is_plain(value)]


def without_encoder(values: Mapping[str, Any]) -> dict[str, Any]:
    """A network's entries but for its encoder, which a run chooses."""
    return {name: value for name, value in values.items() if name != ENCODER}


def is_plain(value: Any) -> bool:
    """Whether nothing is built or looked up for a value."""
    if isinstance(value, list):
        return all(is_plain(part) for part in value)
    return not isinstance(value, Mapping) and not (isinstance(value, str) and value.startswith(("@", "$", "%")))


def refuse_other_input(config: Mapping[str, Any], facts: BundleFacts) -> None:
    """Raise a ValueError where the config feeds or names something else than the metadata, or too much."""
    contract = facts.contract
    if min(contract.grid) < 1 or math.prod(contract.grid) * facts.channels > LARGEST_INPUT:
        size = "×".join(str(n)[:9] for n in contract.grid)
        raise ValueError(f"an input of {size} voxels is none, or more than volssl makes")
    if facts.channels > MOST_CHANNELS:
        raise ValueError(f"an input of {facts.channels} channels is more than volssl makes, which are {MOST_CHANNELS}")
    if not all(VOXEL_MM[0] <= mm <= VOXEL_MM[1] for mm in contract.spacing_mm):
        sides = "×".join(f"{mm:g}" for mm in contract.spacing_mm)
        raise ValueError(f"an input with voxels of {sides} mm; plausible are {VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm")
    kinds, sizes = config.get("kinds", []), config.get("sizes", [])
    countable = all(type(n) is int and n > 0 for n in sizes)
    if len(kinds) != len(sizes) or not countable or not all(kind in KINDS for kind in kinds):
        raise ValueError(f"{INFERENCE} has kinds {kinds} for sizes {sizes}; there are {', '.join(KINDS)}")
    extent_mm = [mm * n for mm, n in zip(contract.spacing_mm, contract.grid, strict=True)]
    modality = config["dataset"]["modality"]
    columns, types = len(facts.labels) + facts.slices, len(facts.labels) - facts.volume
    for name, fed, wanted in (
        ("grid", config["grid"], list(contract.grid)),
        ("spacing_mm", config.get("spacing_mm", contract.spacing_mm), contract.spacing_mm),
        ("extent_mm", config.get("extent_mm", extent_mm), extent_mm),
        ("window_hu", config["window_hu"], as_list(contract.window_hu or ())),
        ("modality", config["modality"] if modality == "@modality" else modality, contract.modality),
        ("place", config.get("place", "middle" if facts.dim else "head"), facts.box),
        ("join", config.get("join", ""), facts.join),
        ("flips", config.get("flips", False), facts.flips),
        ("slices", config.get("slices", facts.slices), facts.slices),
        ("volume", config.get("volume", facts.volume), facts.volume),
        ("types", config.get("types", types), types),
        ("sizes", sum(config.get("sizes", [columns])), columns),
    ):
        if not same(fed, as_list(wanted)):
            raise ValueError(f"{INFERENCE} feeds {name} {as_list(fed)}, the weights were trained with {wanted}")
    if facts.slices not in (0, contract.grid[2]):
        raise ValueError(f"metadata name {facts.slices} slices, the input has {contract.grid[2]}")
    refuse_other_labels(facts, kinds)


def refuse_other_labels(facts: BundleFacts, kinds: Sequence[str]) -> None:
    """Raise a ValueError where a task that has labels of its own is given others, in another order or of another kind.

    Hemorrhage is learnt with all of its types or with none.
    """
    own = OWN_LABELS.get(facts.task)
    if own is None:
        return
    if facts.labels not in (own, own[:1]):
        raise ValueError(f"labels {', '.join(facts.labels)}; those of {facts.task} are {', '.join(own)}, in this order")
    if set(kinds) - {"binary"}:
        raise ValueError(f"{INFERENCE} has kinds {', '.join(kinds)}; those of {facts.task} are all binary")


def same(fed: Any, wanted: Any) -> bool:
    """Whether two values are equal, numbers in lists but for rounding."""
    fed = as_list(fed)
    if isinstance(fed, list) and isinstance(wanted, list):
        return len(fed) == len(wanted) and all(same(*pair) for pair in zip(fed, wanted, strict=True))
    if isinstance(fed, int | float) and isinstance(wanted, int | float):
        return math.isclose(fed, wanted, rel_tol=1e-6)
    return bool(fed == wanted)


def refuse_other_answer(network: nn.Module, facts: BundleFacts) -> None:
    """Raise a ValueError where a network, built without memory, answers with other columns or takes too much of it."""
    dim = getattr(network.encoder, "dim", 0)
    if facts.dim and facts.dim != dim:
        raise ValueError(f"a feature of {facts.dim} numbers, the encoder has {dim}")
    largest = 0

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal largest
        del module, inputs
        for value in output if isinstance(output, list | tuple) else [output]:
            largest = max(largest, value.numel() if isinstance(value, Tensor) else 0)
            if largest > LARGEST_OUTPUT:
                raise ValueError(f"{INFERENCE} builds a network with a layer of {largest} values, which is too much")

    for module in network.modules():
        module.register_forward_hook(see)
    with torch.no_grad():
        answer = network.eval()(torch.empty(1, facts.channels, *facts.contract.grid, device="meta"))
    wanted = facts.dim or len(facts.labels) + facts.slices
    if tuple(answer.shape) != (1, wanted):
        raise ValueError(f"the network answers with {answer.shape[-1]} columns, metadata name {wanted}")


def refuse_other_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise a ValueError where a network, built without memory, is another than weights are of."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    strange = [name for name in {**shapes, **state} if name not in state or shapes.get(name) != state[name].shape]
    if strange:
        raise ValueError(f"{INFERENCE} builds a network that the weights do not fit, at {strange[0]}")
