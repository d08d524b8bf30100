"""`volssl export`: a fine-tuned run as a MONAI bundle, checked before it is put in its place."""

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
from volssl.bundle.artefacts import FORMATS, add_artefacts, refuse_missing_packages
from volssl.bundle.card import LICENCES, model_card, shortened
from volssl.bundle.config import bundle_folder, read_config
from volssl.bundle.evaluate import FineTuned, load_run
from volssl.bundle.metadata import METADATA, SECTION, BundleFacts, read_metadata
from volssl.bundle.training_data import TrainingData, training_data
from volssl.bundle.verify import INFERENCE, CheckedBundle, build, check_bundle
from volssl.bundle.weights import FEATURES, WEIGHTS, fill, read_weights
from volssl.bundle.workflow import CONFIG, TASK_BUNDLES
from volssl.contract import as_list
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL
from volssl.files import write_text
from volssl.heads import NeighbourNetwork, TaskNetwork
from volssl.slabs import SlabNetwork
from volssl.tensors import save_tensors

PACKAGES = ("pytorch-ignite", "pydicom", "SimpleITK", "nibabel", "scikit-image")
PLACES = ("dataset_dir", "labels", "output_dir", "encoder_path")  # keys of a run's config that name places
UNITS = {"CT": "hounsfield", "MR": "magnitude"}  # as MONAI's schema calls them
SLICES = "slices"  # the output that has an entry for each slice of the grid
COPIED = ("LICENSE", "configs/logging.conf", "configs/evaluate.yaml")
SAME = 1e-6  # largest difference between the network of the run and the bundle's


def export_run(run: Path, bundle: Path, *, formats: Sequence[str] = ()) -> list[Path]:
    """Write a run's bundle, and put it in its place when it answers as the run's network does.

    Args:
        run: of `volssl finetune`.
        bundle: a folder to make; a bundle that volssl wrote there before is replaced.
        formats: of `artefacts.FORMATS`, in which the bundle holds the network too.

    Returns:
        The files a reader begins with.

    Raises:
        UserError: where there is no run, something else stands in the bundle's place, or, after the bundle is written
            without it, for a format that does not answer as the network does.
    """
    run, bundle = Path(run), Path(bundle)
    refuse_missing_packages(formats)
    refuse_other_content(bundle)
    model = load_run(run)
    if isinstance(model.network, NeighbourNetwork):
        raise UserError(
            f"{run}: nearest neighbours are not exported, for a bundle would hold features of the training patients; "
            "export a run of --mode probe"
        )
    bundle.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
    try:
        write_bundle(aside, run, model)
        compare(check_bundle(aside), model)
        refused = add_artefacts(aside, model.network, model.task.contract, formats) if formats else []
        aside.chmod(0o755)  # mkdtemp's own is closed to others
        put_in_place(aside, bundle)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if refused:
        raise UserError(f"{bundle}: written, but for {'; '.join(refused)}")
    written = (METADATA, INFERENCE, WEIGHTS, *(FORMATS[name][0] for name in formats), Path("docs/README.md"))
    return [bundle / part for part in written]


def write_bundle(folder: Path, run: Path, model: FineTuned) -> None:
    """All files of the bundle, into an empty folder."""
    recipe = bundle_folder(TASK_BUNDLES[model.task.name])
    config = read_config(run / CONFIG)
    save_tensors(folder / WEIGHTS, {key: value.contiguous() for key, value in model.network.state_dict().items()})
    known = training_data(run, model)
    if known and known.space:
        save_tensors(folder / FEATURES, {"mean": known.space.mean, "precision": known.space.precision})
    facts = facts_of(model, folder, recipe, known)
    figures = evaluation_of(run)
    metadata = metadata_of(recipe, facts, figures)
    card = model_card((recipe / "docs" / "README.md").read_text(), facts, figures, len(model.facts["patients"]))
    write_text(folder / METADATA, json.dumps(metadata, indent=2) + "\n")
    write_text(folder / INFERENCE, inference_config((recipe / INFERENCE).read_text(), model))
    write_text(folder / "configs" / "train.yaml", yaml.safe_dump(without_places(config, recipe), sort_keys=False))
    write_text(folder / "docs" / "README.md", card)
    write_text(folder / "docs" / "data_license.txt", LICENCES[facts.simulated])
    for name in (name for name in COPIED if (recipe / name).is_file()):
        write_text(folder / name, (recipe / name).read_text())


def facts_of(model: FineTuned, folder: Path, recipe: Path, known: TrainingData | None) -> BundleFacts:
    """What answers need to know: of the tensors in the folder, and of what is known of the training data."""
    task = model.task
    shipped = read_metadata(recipe)
    hashes = {
        part: hashlib.sha256((folder / part).read_bytes()).hexdigest()
        for part in (WEIGHTS, FEATURES)
        if (folder / part).is_file()
    }
    return BundleFacts(
        name=shipped["name"],
        version=shipped["version"],
        task=task.name,
        labels=tuple(name for name in task.output_names if name != SLICES),
        volume=len(task.volume_outputs),
        slices=task.head_sizes["slices"],
        contract=task.contract,
        box=task.box,
        weights_sha256=hashes[WEIGHTS],
        simulated=known.simulated if known else None,
        ranges=replace(known.ranges, features_sha256=hashes.get(FEATURES, "")) if known else None,
    )


def evaluation_of(run: Path) -> dict[str, Any] | None:
    """The evaluation of the run's weights on test patients, or on others where there is none; None without any."""
    weights = hashlib.sha256((run / MODEL).read_bytes()).hexdigest()
    found = [json.loads(path.read_text()) for path in sorted([*run.glob("metrics.json"), *run.glob("*/metrics.json")])]
    found = [figures for figures in found if figures.get("model_sha256") == weights]
    # The run's own store goes before another site's, and its test patients before others.
    return min(found, key=lambda each: (bool(each.get("external")), each["split"] != "test"), default=None)


def metadata_of(recipe: Path, facts: BundleFacts, figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """The recipe's metadata with what this bundle's weights were made with and measured at."""
    values = read_metadata(recipe)
    columns = [*facts.labels, *(f"slice {index} of the grid" for index in range(facts.slices))]
    image, pred = (
        values["network_data_format"][side][name] for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    image["num_channels"] = facts.contract.channels
    image["modality"], image["format"] = facts.contract.modality, UNITS[facts.contract.modality]
    image["channel_def"] = {str(index): "image" for index in range(facts.contract.channels)}
    image["spatial_shape"] = list(facts.contract.grid)
    pred["num_channels"] = len(columns)
    pred["channel_def"] = {str(index): name for index, name in enumerate(columns)}
    return values | {
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"volssl": volssl.__version__} | {name: version(name) for name in PACKAGES},
        "data_source": LICENCES[facts.simulated].strip(),
        "eval_metrics": shortened(figures),
        SECTION: facts.section(),
    }


def inference_config(text: str, model: FineTuned) -> str:
    """The recipe's inference config with the values of the run's task and encoder; its comments stay."""
    task, network = model.task, model.network
    if not isinstance(network, TaskNetwork | SlabNetwork):
        raise UserError(f"a {type(network).__name__} cannot be exported; a bundle holds a TaskNetwork or a SlabNetwork")
    encoder = network.encoder
    values = {
        "grid": list(task.contract.grid),
        "extent_mm": [mm * n for mm, n in zip(task.contract.spacing_mm, task.contract.grid, strict=True)],
        "window_hu": as_list(task.contract.window_hu or ()),
        "slices": task.head_sizes["slices"],
        "flips": network.flips,
        **task.inference_values,
        "  encoder": {"_target_": f"volssl.encoders.{type(encoder).__name__}", **encoder.settings},
    }
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
    shipped = read_config(recipe / "configs" / "train.yaml")
    kept = {key: shipped[key] if key in PLACES else without_paths(value) for key, value in config.items()}
    return kept | {"resume": False}


def without_paths(value: Any) -> Any:
    """A nested config with null in place of every path."""
    if isinstance(value, Mapping):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    is_path = isinstance(value, str) and not value.startswith("$") and ("/" in value or "\\" in value)
    return None if is_path else value


def compare(checked: CheckedBundle, model: FineTuned) -> None:
    """Raise where the bundle's network, as its config builds it, differs from the run's."""
    network = build(checked.config, "network_def")
    fill(network, read_weights(checked.root), source=checked.root / WEIGHTS)
    contract = checked.facts.contract
    image = torch.rand(1, contract.channels, *contract.grid, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((network.eval()(image) - model.network(image)).abs().max())
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
