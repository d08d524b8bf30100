"""What a fine-tuned run learnt from: its ranges and features, kept beside the weights, then in the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volssl.bundle.config import read_config
from volssl.bundle.evaluate import FineTuned, labels_for, load_run, weights_hash
from volssl.bundle.ranges import FeatureSpace, Measured, PooledFeature, TrainingRanges, learn, measure, span
from volssl.bundle.simulated import is_simulated
from volssl.bundle.workflow import CONFIG
from volssl.data import Store
from volssl.data.training import sides
from volssl.errors import UserError
from volssl.progress import say, track
from volssl.tensors import load_tensors, save_tensors

TRAINING = "training.pt"  # of a run, beside model.pt
MOST_SCANS = 2000  # whose values and features are measured; a range of more is hardly wider


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
    """What the run kept, or what is measured now from its own store and labels; None where these are gone."""
    kept = run / TRAINING
    if kept.is_file():
        values = load_tensors(kept)
        if values["model_sha256"] == weights_hash(run):
            space = FeatureSpace(values["mean"], values["precision"]) if "mean" in values else None
            return TrainingData(values["simulated"], TrainingRanges.from_dict(values["ranges"]), space)
    config = read_config(run / CONFIG)
    try:
        found = measured(model, Path(config["dataset_dir"]), Path(config["labels"]))
    except UserError as error:
        say(f"no ranges of the training data, so that nothing is told of scans unlike them: {error}")
        return None
    keep(run, found)
    return found


def keep_training_data(run: Path) -> None:
    """Measure what a finished run learnt from, and keep it in the run."""
    training_data(run, load_run(run))


def keep(run: Path, found: TrainingData) -> None:
    """Leave it in the run; one in a folder that may not be written is said."""
    values: dict[str, Any] = {
        "simulated": found.simulated,
        "ranges": found.ranges.as_dict(),
        "model_sha256": weights_hash(run),
    }
    if found.space is not None:
        values |= {"mean": found.space.mean, "precision": found.space.precision}
    try:
        save_tensors(run / TRAINING, values)
    except PermissionError:
        say(f"{run / TRAINING}: may not be written; it is measured again when it is needed")


def measured(model: FineTuned, path: Path, labels: Path) -> TrainingData:
    """Measure the labelled scans of the patients that a run saw, and of its validation patients.

    Raises:
        UserError: where store or labels are not at hand, or are not those of the run.
    """
    store = Store.open(path)
    labelled = set(labels_for(model.task, store, labels).index)
    rows = store.rows.select(["id", "patient", "scanner", "shape", "spacing_mm"]).to_pylist()
    which = sides(store, model.fold).to_pylist()
    rows = [row | {"side": side} for row, side in zip(rows, which, strict=True) if row["id"] in labelled]
    seen = [row for row in rows if row["patient"] in model.facts["patients"]]
    held = [row for row in rows if row["side"] == "validation" and row["patient"] not in model.facts["patients"]]
    if not seen:
        raise UserError(f"{path}: holds no labelled scan that the run saw")
    scans = [measured_scans(model, store, [row["id"] for row in part]) for part in (seen, held)]
    ranges, space = learn(*scans)
    spacing = np.array([row["spacing_mm"] for row in seen])
    whole = replace(
        ranges,
        spacing_mm=span(spacing.tolist()),
        extent_mm=span((spacing * np.array([row["shape"] for row in seen])).tolist()),
        volumes=len(seen),
    )
    return TrainingData(any(is_simulated(row["scanner"]) for row in seen), whole, space)


@torch.no_grad()
def measured_scans(model: FineTuned, store: Store, ids: Sequence[str]) -> list[Measured]:
    """Each scan as prediction measures it: the network answers for one volume after the other."""
    chosen = [ids[place] for place in np.linspace(0, len(ids) - 1, min(len(ids), MOST_SCANS)).astype(int)]
    device = next(model.network.parameters()).device
    pooled, found = PooledFeature(model.network), []
    try:
        for volume_id in track(chosen, "measuring the training data", len(chosen)):
            scan = store.scan(volume_id)
            image, info = model.task.preprocess(scan)
            model.network(image[None].to(device))
            feature = pooled.take()
            found.append(measure(scan.read, info=info, image=image, modality=scan.modality, feature=feature))
    finally:
        pooled.handle.remove()
    return found
