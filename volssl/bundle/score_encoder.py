"""What `evaluate.yaml` of `volume_pretraining` runs: how much an encoder's features tell of labels, as they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from volssl.bundle.embedding import EmbeddingNetwork
from volssl.bundle.evaluate import labels_for
from volssl.bundle.metadata import METADATA, read_facts
from volssl.bundle.simulated import simulated_notice
from volssl.bundle.training_data import ENCODER
from volssl.data import Store, TrainingScans, refuse_seen, tell_other_key
from volssl.encoders import start_from
from volssl.encoders.base import Encoder
from volssl.encoders.weights import load_weights
from volssl.engine.distributed import rank
from volssl.errors import UserError
from volssl.evaluation.bootstrap import bootstrap_interval
from volssl.evaluation.features import LabelledFeatures, pooled_features
from volssl.evaluation.knn import knn_scores
from volssl.evaluation.metrics import average_precision, roc_auc, why_undefined
from volssl.evaluation.predictions import write_metrics_json
from volssl.evaluation.probe import linear_probe
from volssl.progress import say
from volssl.seen import UNKNOWN, Seen
from volssl.tasks import BoxCache, Task, TaskViews
from volssl.tensors import load_tensors

FIGURES = {"auc": roc_auc, "average_precision": average_precision}
SCORED = ("test", "validation")  # splits of patients whom no probe learns from


def score_encoder(
    weights: str | Path,
    *,
    encoder: Encoder,
    task: Task,
    store: str | Path,
    labels: str | Path,
    split: str,
    out: str | Path,
    fraction: float = 1.0,
    fold: int | None = None,
) -> dict[str, Any]:
    """AUC and average precision of a linear probe and of nearest neighbours on the frozen features.

    Both learn from labelled training patients; validation patients choose the probe's C, and flatter it where they are
    those who are scored. Intervals are 95 % bootstraps by patient. Of several processes the first alone scores; the
    others return nothing.

    Args:
        weights: `models/model.pt` of a bundle that embeds, or the `encoder.pt` of a run, which says whom it saw.
        encoder: filled in place, and brought to evaluation mode.
        task: preprocesses scans and reads labels; each of its outputs that is one number is scored.
        split: `test`, or `validation`.
        out: folder of `metrics.json`.
        fraction: of the labelled training patients.
        fold: of the store, whose patients are then those of validation.

    Returns:
        What `metrics.json` holds: under `outputs` the figures of each output by each way.

    Raises:
        UserError: for weights of another network, or that were fed something else, or saw a patient of validation or
            test; for labels that do not fit; where no output has both classes.
    """
    if rank() > 0:
        return {}
    if split not in SCORED:
        raise UserError(f"split {split}: features are scored on patients whom no probe learns from: test, validation")
    weights = Path(weights)
    seen = filled(encoder, weights, task)
    opened = Store.open(store)
    table = labels_for(task, opened, labels)
    tell_other_key(opened, seen, what=str(weights))
    refuse_seen(store, table.index, seen.patients, fold=fold)
    views = TaskViews(task, table, cache=BoxCache())
    sides = {
        name: TrainingScans(
            store,
            views=views,
            modality=task.contract.modality,
            labels=table,
            split=name,
            fold=fold,
            fraction=fraction if name == "train" else 1.0,
        )
        for name in ("train", "validation", split)
    }
    known = {name: pooled_features(encoder.eval(), scans.scans, views) for name, scans in sides.items()}
    patients = np.array(list(sides[split].patients))
    outputs: dict[str, Any] = {}
    for name, y in known["train"].labels.items():
        if why_undefined(y) is None and why_undefined(known[split].labels[name]) is None:
            outputs |= scored(name, known["train"], known["validation"], known[split], patients)
    if not outputs:
        raise UserError(f"{labels}: no label has both classes among training and {split} patients; nothing to score")
    found = {
        "split": split,
        "n_studies": len(patients),
        "n_patients": len(set(patients)),
        "training_patients": len(set(sides["train"].patients)),
        "model_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "simulated": simulated_notice(opened),
        "outputs": outputs,
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    write_metrics_json(found, Path(out) / "metrics.json")
    return found


def filled(encoder: Encoder, weights: Path, task: Task) -> Seen:
    """Load weights that know what the task would feed them; returns whom they saw."""
    if not weights.is_file():
        raise UserError(f"{weights}: no weights there; give models/model.pt of a bundle, or the {ENCODER} of a run")
    if weights.name == ENCODER:
        return start_from(encoder, weights, task.contract)
    bundle = weights.parent.parent
    if (bundle / METADATA).is_file():
        read_facts(bundle).contract.refuse_unlike(task.contract, what=f"encoder {weights}", one_for_several=True)
    load_weights(EmbeddingNetwork(encoder), load_tensors(weights), source=str(weights), least=1.0)
    return UNKNOWN


def scored(
    name: str, train: LabelledFeatures, validation: LabelledFeatures, judged: LabelledFeatures, patients: np.ndarray
) -> dict[str, Any]:
    """One output by both ways; says the AUCs."""
    y, truth = train.labels[name], judged.labels[name]
    probe = linear_probe(train.features, y, validation.features, validation.labels[name])
    ways = {
        "linear probe": probe.scores(judged.features),
        "nearest neighbours": knn_scores(train.features, y, judged.features),
    }
    found = {}
    for way, scores in ways.items():
        figures = {metric: bootstrap_interval(measure, truth, scores, patients) for metric, measure in FIGURES.items()}
        say(f"{name}, {way}: AUC {figures['auc']}")
        found[f"{name}, {way}"] = {
            "n": figures["auc"].n,
            "positives": int(np.nansum(truth)),
            "metrics": {metric: figure.as_json() for metric, figure in figures.items()},
        }
    return found
