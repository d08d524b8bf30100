"""`volssl export`: a run as a MONAI bundle, checked before it is put in its place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import volssl
from volssl.bundle.agreement import INFERENCE
from volssl.bundle.artefacts import FORMATS, add_artefacts, refuse_missing_packages
from volssl.bundle.card import LICENCES, looked_at, model_card, shortened, stripped
from volssl.bundle.config import read_config
from volssl.bundle.metadata import METADATA, SECTION, BundleFacts, read_metadata
from volssl.bundle.packing import Packed, packed_run
from volssl.bundle.recipe import CARD, LICENCE, PLACES, fill_recipe, is_recipe, refuse_other_recipe, training_configs
from volssl.bundle.shipped import BASE, bundle_folder
from volssl.bundle.verify import CheckedBundle, build, check_bundle
from volssl.bundle.weights import FEATURES, WEIGHTS, fill, read_weights
from volssl.bundle.workflow import CONFIG
from volssl.errors import UserError
from volssl.files import write_text
from volssl.tensors import save_tensors

TRAIN = Path("configs") / "train.yaml"
PACKAGES = ("pytorch-ignite", "pydicom", "SimpleITK", "nibabel", "scikit-image")
UNITS = {"CT": "hounsfield", "MR": "magnitude", "CT+MR": "hounsfield or magnitude"}  # as MONAI's schema calls them
COPIED = ("LICENSE", "configs/logging.conf", "configs/evaluate.yaml")
SAME = 1e-6  # largest difference between the network of the run and the bundle's


def export_run(run: Path, bundle: Path, *, formats: Sequence[str] = ()) -> list[Path]:
    """Write a run's bundle, and put it in its place when it answers as the run's network does.

    Args:
        run: of `volssl finetune`, or of `volssl pretrain`: a bundle that embeds.
        bundle: a folder to make; a bundle that volssl wrote there before is replaced. A recipe, `bundles/NAME`, gets
            the weights and what describes them, and stays a recipe.
        formats: of `artefacts.FORMATS`, in which the bundle holds the network too.

    Returns:
        The files a reader begins with.

    Raises:
        UserError: where there is no run, something else stands in the bundle's place, or, after the bundle is written
            without it, for a format that does not answer as the network does.
    """
    run, bundle = Path(run), Path(bundle)
    refuse_missing_packages(formats)
    in_place = is_recipe(bundle)
    if not in_place:
        refuse_other_content(bundle)
    packed = packed_run(run)
    if in_place:
        refuse_other_recipe(bundle, packed.recipe)
    recipe = bundle if in_place else bundle_folder(packed.recipe)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    try:
        config = without_places(read_config(run / CONFIG), recipe)
        write_bundle(aside, packed, config, recipe, marked=in_place)
        compare(check_bundle(aside), packed)
        refused = add_artefacts(aside, packed.network, packed.contract, formats) if formats else []
        if in_place:
            fill_recipe(bundle, aside, config)
        else:
            aside.chmod(0o755)  # mkdtemp's own is closed to others
            put_in_place(aside, bundle)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if refused:
        raise UserError(f"{bundle}: written, but for {'; '.join(refused)}")
    return [bundle / part for part in (METADATA, INFERENCE, WEIGHTS, *(FORMATS[name][0] for name in formats), CARD)]


def write_bundle(folder: Path, packed: Packed, config: Mapping[str, Any], recipe: Path, *, marked: bool) -> None:
    """All files of the bundle, into an empty folder.

    Args:
        config: the run's, without its places.
        recipe: what its texts are made from.
        marked: leave the marks of the card's parts, for another run to fill in.
    """
    save_tensors(folder / WEIGHTS, {key: value.contiguous() for key, value in packed.network.state_dict().items()})
    if packed.known and packed.known.space:
        space = packed.known.space
        save_tensors(folder / FEATURES, {"mean": space.mean, "precision": space.precision})
    facts = facts_of(packed, folder, recipe)
    configs = training_configs(recipe, config) if marked else [TRAIN.name]
    card = model_card((recipe / CARD).read_text(), packed, facts, configs=configs, marked=marked)
    write_text(folder / METADATA, json.dumps(metadata_of(recipe, facts, packed.figures), indent=2) + "\n")
    write_text(folder / INFERENCE, inference_config((recipe / INFERENCE).read_text(), packed.values))
    write_text(folder / TRAIN, yaml.safe_dump(dict(config), sort_keys=False, default_flow_style=None, width=110))
    write_text(folder / CARD, card)
    write_text(folder / LICENCE, LICENCES[facts.simulated])
    for name in (name for name in COPIED if (recipe / name).is_file()):
        write_text(folder / name, (recipe / name).read_text())


def facts_of(packed: Packed, folder: Path, recipe: Path) -> BundleFacts:
    """What answers need to know: of the tensors in the folder, and of what is known of the training data."""
    shipped, known = read_metadata(recipe), packed.known
    hashes = {
        part: hashlib.sha256((folder / part).read_bytes()).hexdigest()
        for part in (WEIGHTS, FEATURES)
        if (folder / part).is_file()
    }
    return BundleFacts(
        name=shipped["name"],
        version=shipped["version"],
        task=packed.task,
        labels=packed.labels,
        volume=packed.volume,
        slices=packed.slices,
        dim=packed.dim,
        contract=packed.contract,
        box=packed.box,
        join=packed.join,
        flips=packed.flips,
        weights_sha256=hashes[WEIGHTS],
        simulated=known.simulated if known else None,
        ranges=replace(known.ranges, features_sha256=hashes.get(FEATURES, "")) if known else None,
    )


def metadata_of(recipe: Path, facts: BundleFacts, figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe's metadata with what this bundle's weights were made with and measured at."""
    values = read_metadata(recipe)
    columns = [*facts.labels, *(f"slice {index} of the grid" for index in range(facts.slices))]
    image, pred = (
        values["network_data_format"][side][name] for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    image["num_channels"] = facts.channels
    image["modality"], image["format"] = facts.contract.modality, UNITS[facts.contract.modality]
    series = ["image"] * facts.contract.channels + ["coronal series of the study"] * facts.contract.channels
    image["channel_def"] = {str(index): series[index] for index in range(facts.channels)}
    image["spatial_shape"] = list(facts.contract.grid)
    processed = values["network_data_format"].get("post_processed_outputs", {})  # none of features
    for told in (pred, *processed.values()):
        told["num_channels"] = facts.dim or len(columns)
        told["channel_def"] = {str(index): name for index, name in enumerate(columns)}
    if facts.dim:
        values["pred_classes"] = f"a feature of {facts.dim} numbers that describes the volume"
    values["image_classes"] = looked_at(facts) + "; strip a study of its skull first" * stripped(facts)
    return values | {
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"volssl": volssl.__version__} | {name: version(name) for name in PACKAGES},
        "data_source": LICENCES[facts.simulated].strip(),
        "eval_metrics": shortened(figures),
        SECTION: facts.section(),
    }


def inference_config(text: str, values: Mapping[str, Any]) -> str:
    """The recipe's inference config with the values of a run; its comments stay."""
    for key, value in values.items():
        shown = (
            yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).removesuffix("...\n").strip()
        )
        line = re.compile(rf"^{key}: .*$", re.MULTILINE)
        count = len(line.findall(text))
        if count != 1:
            raise ValueError(f"the recipe's inference config has {count} lines {key.strip()}; one is needed")
        start, stop = next(line.finditer(text)).span()
        text = f"{text[:start]}{key}: {shown}{text[stop:]}"
    return text


def without_places(config: Mapping[str, Any], recipe: Path) -> dict[str, Any]:
    """The run's config with the recipe's own paths: those of the run may name people."""
    files = [path for name in (BASE, TRAIN.name) if (path := recipe / "configs" / name).is_file()]
    shipped = read_config(files)
    kept = {key: shipped.get(key, "") if key in PLACES else without_paths(value) for key, value in config.items()}
    return kept | {"resume": False}


def without_paths(value: Any) -> Any:
    """A nested config with null in place of every path."""
    if isinstance(value, Mapping):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    is_path = isinstance(value, str) and not value.startswith("$") and ("/" in value or "\\" in value)
    return None if is_path else value


def compare(checked: CheckedBundle, packed: Packed) -> None:
    """Raise where the bundle's network, as its config builds it, differs from the run's."""
    network = build(checked.config, "network_def")
    fill(network, read_weights(checked.root), source=checked.root / WEIGHTS)
    facts = checked.facts
    image = torch.rand(1, facts.channels, *facts.contract.grid, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((network.eval()(image) - packed.network(image)).abs().max())
    if not difference <= SAME:
        raise UserError(f"the bundle's network differs from the run's by {difference:.1e}; nothing was written")


def refuse_other_content(bundle: Path) -> None:
    """Raise a UserError where a folder holds something that volssl did not write."""
    if not bundle.exists() or (bundle.is_dir() and not any(bundle.iterdir())):
        return
    if bundle.is_dir() and (bundle / METADATA).is_file() and SECTION in read_metadata(bundle):
        return
    raise UserError(f"{bundle}: holds something that is no bundle of volssl; name another folder")


def put_in_place(aside: Path, bundle: Path) -> None:
    """Rename a finished bundle to its place; an older one goes when the new one stands."""
    old = Path(f"{aside}.old")
    if bundle.exists():
        os.rename(bundle, old)
    os.rename(aside, bundle)
    shutil.rmtree(old, ignore_errors=True)
