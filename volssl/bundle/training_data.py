"""What a run learnt from: its ranges and features, kept beside the weights, then in the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from volssl.bundle.config import read_config
from volssl.bundle.embed import middle_crop
from volssl.bundle.embedding import EmbeddingNetwork, crop_info
from volssl.bundle.evaluate import labels_for
from volssl.bundle.ranges import FeatureSpace, Measured, PooledFeature, TrainingRanges, learn, measure, span
from volssl.bundle.runs import FineTuned, load_run
from volssl.bundle.simulated import is_simulated
from volssl.bundle.workflow import CONFIG
from volssl.contract import InputContract
from volssl.data import Store
from volssl.data.training import known_rows, sides
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL
from volssl.progress import say, track
from volssl.tasks import TaskViews
from volssl.tensors import load_tensors, save_tensors
from volssl.transforms.head_box import BoxInfo
from volssl.views.base import Scan

TRAINING = "training.pt"  # of a run, beside model.pt
ENCODER = "encoder.pt"  # of a run of pretraining
MOST_SCANS = 2000  # whose values and features are measured; a range of more is hardly wider

Preprocess = Callable[[Scan], tuple[Tensor, BoxInfo]]


@dataclass(frozen=True)
class TrainingData:
    """What is known of the scans that a run learnt from.

    Attributes:
        simulated: whether any was.
        ranges: of them.
        space: of their features.
    """

    simulated: bool
    ranges: TrainingRanges
    space: FeatureSpace | None


def training_data(run: Path, model: FineTuned) -> TrainingData | None:
    """What a fine-tuned run kept, or what is measured now from its own store and labels; None where these are gone."""

    def look() -> TrainingData:
        config = read_config(run / CONFIG)
        store = Store.open(Path(config["dataset_dir"]))
        labels = known_rows(labels_for(model.task, store, Path(config["labels"])))
        views = TaskViews(model.task, labels, scan_of=store.scan)
        return measured(
            model.network,
            views.unchanged,
            store,
            set(labels.index),
            patients=model.facts["patients"],
            fold=model.fold,
        )

    return kept_or(run, MODEL, look)


def encoder_data(
    run: Path, network: EmbeddingNetwork, contract: InputContract, patients: Collection[str]
) -> TrainingData | None:
    """The same for a run of pretraining: all volumes of the encoder's modality of the patients whom it saw."""
    crop = middle_crop(contract)

    def preprocess(scan: Scan) -> tuple[Tensor, BoxInfo]:
        image, facts = crop.make(scan)
        return image, crop_info(scan, facts, contract)

    def look() -> TrainingData:
        config = read_config(run / CONFIG)
        store = Store.open(Path(config["dataset_dir"]))
        rows = store.columns("id", "modality").to_pylist()
        looked_at = {row["id"] for row in rows if row["modality"] in contract.modality.split("+")}
        return measured(network, preprocess, store, looked_at, patients=patients, fold=config.get("fold"))

    return kept_or(run, ENCODER, look)


def keep_training_data(run: Path) -> None:
    """Measure what a finished run learnt from, and keep it in the run."""
    training_data(run, load_run(run))


def kept_or(run: Path, weights: str, look: Callable[[], TrainingData]) -> TrainingData | None:
    """What the run kept of these weights, or what is found now, and kept from now on; None where nothing is found."""
    sha256 = hashlib.sha256((run / weights).read_bytes()).hexdigest()
    if (run / TRAINING).is_file():
        values = load_tensors(run / TRAINING)
        if values["model_sha256"] == sha256:
            space = FeatureSpace(values["mean"], values["precision"]) if "mean" in values else None
            return TrainingData(values["simulated"], TrainingRanges.from_dict(values["ranges"]), space)
    try:
        found = look()
    except UserError as error:
        say(f"no ranges of the training data, so that nothing is told of scans unlike them: {error}")
        return None
    keep(run, found, sha256)
    return found


def keep(run: Path, found: TrainingData, sha256: str) -> None:
    """Leave it in the run; one in a folder that may not be written is said."""
    values: dict[str, Any] = {
        "simulated": found.simulated,
        "ranges": found.ranges.as_dict(),
        "model_sha256": sha256,
    }
    if found.space is not None:
        values |= {"mean": found.space.mean, "precision": found.space.precision}
    try:
        save_tensors(run / TRAINING, values)
    except PermissionError:
        say(f"{run / TRAINING}: may not be written; it is measured again when it is needed")


def measured(
    network: nn.Module,
    preprocess: Preprocess,
    store: Store,
    chosen: Collection[str],
    *,
    patients: Collection[str],
    fold: int | None,
) -> TrainingData:
    """Measure the scans of the patients that a run saw, and of its validation patients.

    Args:
        chosen: ids of the volumes that count: those with a label, or of the encoder's modality.

    Raises:
        UserError: the store is not the one of the run.
    """
    rows = store.rows.select(["id", "patient", "modality", "scanner", "shape", "spacing_mm"]).to_pylist()
    which = sides(store, fold).to_pylist()
    rows = [row | {"side": side} for row, side in zip(rows, which, strict=True) if row["id"] in chosen]
    seen = [row for row in rows if row["patient"] in patients]
    held = [row for row in rows if row["side"] == "validation" and row["patient"] not in patients]
    if not seen:
        raise UserError(f"{store.path}: holds no scan that the run saw, or no label of one")
    scans = [measured_scans(network, preprocess, store, [row["id"] for row in part]) for part in (seen, held)]
    ranges, space = learn(*scans, values=len({row["modality"] for row in seen}) == 1)
    spacing = np.array([row["spacing_mm"] for row in seen])
    whole = replace(
        ranges,
        spacing_mm=span(spacing.tolist()),
        extent_mm=span((spacing * np.array([row["shape"] for row in seen])).tolist()),
        volumes=len(seen),
    )
    return TrainingData(any(is_simulated(row["scanner"]) for row in seen), whole, space)


@torch.no_grad()
def measured_scans(network: nn.Module, preprocess: Preprocess, store: Store, ids: Sequence[str]) -> list[Measured]:
    """Each scan as prediction measures it: the network answers for one volume after the other."""
    chosen = [ids[place] for place in np.linspace(0, len(ids) - 1, min(len(ids), MOST_SCANS)).astype(int)]
    device = next(network.parameters()).device
    pooled, found = PooledFeature(network), []
    try:
        for volume_id in track(chosen, "measuring the training data", len(chosen)):
            scan = store.scan(volume_id)
            image, info = preprocess(scan)
            network(image[None].to(device))
            feature = pooled.take()
            found.append(measure(scan.read, info=info, image=image, modality=scan.modality, feature=feature))
    finally:
        pooled.handle.remove()
    return found
