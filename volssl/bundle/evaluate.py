"""`volssl evaluate`: a fine-tuned run on patients it has not seen, with figures, intervals and a page to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from volssl.bundle.config import read_config
from volssl.bundle.internal import internal_auc
from volssl.bundle.runs import FineTuned, keep_validation, kept_validation, load_run, weights_hash, write_parquet
from volssl.bundle.saliency import saliency
from volssl.bundle.simulated import simulated_notice
from volssl.bundle.workflow import CONFIG
from volssl.data import Store, join_labels, refuse_seen, tell_other_key
from volssl.data.training import sides
from volssl.encoders.weights import load_weights
from volssl.engine.distributed import rank
from volssl.errors import UserError
from volssl.evaluation.evaluation_page import write_report
from volssl.evaluation.examples import Looked
from volssl.evaluation.page import number
from volssl.evaluation.predictions import evaluate_predictions, write_metrics_json
from volssl.evaluation.validation import MODEL
from volssl.progress import say
from volssl.seen import Seen
from volssl.tasks import BoxCache, Task, TaskViews
from volssl.tasks.inference import predict_table
from volssl.tensors import load_tensors
from volssl.views.base import Scan

SUBGROUPS = ("sex", "age_band", "scanner", "site")
SPLITS = ("test", "validation", "train", "all")


def evaluate_run(
    run: Path, *, store: Path, labels: Path, split: str, out: Path, by: Sequence[str] = ()
) -> dict[str, Any]:
    """Predict the labelled studies of a split, and write predictions.parquet, metrics.json, figures and report.html.

    Thresholds and temperatures are chosen on the run's validation patients, where the split is another: on those of
    `store` where it is the run's own, else as `validation_of_run` finds them.

    Args:
        split: `test`, `validation` or `train`; or `all`, every labelled patient of a store of another site.
        by: columns of `SUBGROUPS` whose groups are told apart.

    Returns:
        The figures of `evaluate_predictions`; `external` says that training is not known to have seen anybody of the
        store, and `internal` is then what `internal_auc` knows. `patients_compared` says whether that can be relied on:
        False where the hashes of both are of different keys, or not all are named.

    Raises:
        UserError: for a folder without a run, labels that do not fit, an empty split, or patients that training saw.
    """
    check_words(split, by)
    return evaluate_model(load_run(run), run, store=store, labels=labels, split=split, out=out, by=by)


def evaluate_weights(
    weights: str | Path,
    *,
    network: nn.Module,
    task: Task,
    store: str | Path,
    labels: str | Path,
    split: str,
    out: str | Path,
    by: Sequence[str] = (),
    fold: int | None = None,
) -> dict[str, Any]:
    """What `evaluate.yaml` runs: `evaluate_run` for a task and a network that a bundle's train config builds.

    A bundle does not say which patients it was trained on: the split of the store is trusted. Those whom the `model.pt`
    of a run names are refused. Of several processes the first alone evaluates; the others return nothing.

    Args:
        weights: `models/model.pt` of a bundle, or the `model.pt` of a run.
    """
    if rank() > 0:
        return {}
    weights = Path(weights)
    check_words(split, by)
    if weights.name != MODEL or not weights.is_file():
        raise UserError(f"{weights}: no {MODEL} there; give that of a bundle's models, or of a run, as weights")
    facts = load_tensors(weights)
    if "network" not in facts:
        facts = {"network": facts, "patients": [], "epoch": "not said", "validation_auc": math.nan}
    load_weights(network, facts.pop("network"), source=str(weights), least=1.0)
    model = FineTuned(task=task, network=network.eval(), facts=facts, fold=fold)
    return evaluate_model(
        model, weights.parent, store=Path(store), labels=Path(labels), split=split, out=Path(out), by=by
    )


def evaluate_model(
    model: FineTuned, run: Path, *, store: Path, labels: Path, split: str, out: Path, by: Sequence[str]
) -> dict[str, Any]:
    """`evaluate_run`, for a model whose weights are the `model.pt` in `run`."""
    opened = Store.open(store)
    table = labels_for(model.task, opened, labels)
    seen = Seen.from_facts(model.facts)
    trained_on, known = seen.patients, bool(seen.patients)
    compared = tell_other_key(opened, seen, what=str(run / MODEL))
    own = not trained_on.isdisjoint(opened.columns("patient")["patient"].to_pylist()) if known else split != "all"
    fold = model.fold if own else None
    if split != "train":
        refuse_patients(model, store, table, split, fold)
    views = TaskViews(model.task, table, cache=BoxCache(), scan_of=opened.scan)
    predictions = predict_split(model, opened, table, views, split, fold)
    if predictions.empty:
        whose = "any" if split == "all" else f"a {split}"
        raise UserError(f"{store}: no labelled volume of {whose} patient; there is nothing to evaluate")
    if known and not own and split != "all":
        say(
            f"{store}: none of its patients {'was' if compared else 'is known to have been'} trained on, and its "
            f"{split} patients alone are scored, "
            f"{predictions['patient'].nunique()} of {table['patient'].nunique()} labelled: --split all takes all"
        )
    validation = None
    if own and split in ("test", "all"):
        validation = predict_split(model, opened, table, views, "validation", fold)
        if known:
            keep_validation(run, validation)
    elif not own and known:
        validation = validation_of_run(run, model)
    metrics = evaluate_predictions(
        predictions,
        outputs=list(model.task.output_names),
        validation=without(predictions, validation, store=store),
        by=by,
    )
    metrics |= {
        "model_sha256": weights_hash(run),
        "external": not own,
        "patients_compared": compared,
        "internal": None if own else internal_auc(run),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(predictions, out / "predictions.parquet")
    write_metrics_json(metrics, out / "metrics.json")
    auc = model.facts["validation_auc"]
    write_report(
        out,
        predictions,
        metrics,
        title=f"{model.task.name.capitalize()}: {split} patients{'' if own else ' of another store'}",
        facts={
            "Chosen epoch": str(model.facts["epoch"]),
            "Validation AUC of that epoch": number(auc if math.isfinite(auc) else None),
            "Patients seen in training": f"{len(trained_on):,}" if known else "not said",
            **overlap(compared, own),
        },
        simulated=simulated_notice(opened),
        image_of=lambda volume_id: views.preprocessed(opened.scan(volume_id))[0][0].numpy(),
        looked_of=lambda volume_id: looked_at(model.network, views, opened.scan(volume_id)),
    )
    return metrics


def overlap(compared: bool, own: bool) -> dict[str, str]:
    """The line of the page on whether training saw patients of the store, where that is a question."""
    if compared and own:
        return {}
    told = "none" if compared else "cannot be told: the hashes are of different keys, or not all are named"
    return {"Of them in this store": told}


def looked_at(network: nn.Module, views: TaskViews, scan: Scan) -> Looked:
    """What in a scan spoke for the first output; `saliency` works on a copy of the network."""
    image = views(scan, np.random.RandomState(0))["image"][None]
    found = saliency(network, image.to(next(network.parameters()).device), 0)
    return Looked(found.grid.numpy(), found.method)


def check_words(split: str, by: Sequence[str]) -> None:
    """Raise a UserError for a split or a subgroup that does not exist."""
    if split not in SPLITS:
        raise UserError(f"split {split}: unknown; choose {', '.join(SPLITS)}")
    for name in by:
        if name not in SUBGROUPS:
            raise UserError(f"--by {name}: unknown; choose from {', '.join(SUBGROUPS)}")


def labels_for(task: Task, store: Store, labels: str | Path) -> pd.DataFrame:
    """The label table of a task, joined to a store.

    Raises:
        UserError: it does not fit, or holds other than 0 and 1 where the task asks yes or no.
    """
    table = join_labels(
        store,
        labels,
        task.label_columns,
        classes=task.label_classes,
        slices="slices" in task.output_names,
        join=task.join,
    )
    for column in task.label_columns:
        strange = table[column].dropna().loc[lambda known: ~known.isin((0, 1))]
        if len(strange) and column not in task.label_classes:
            raise UserError(f"{labels}: {column} holds {strange.iloc[0]:g}; write 0, 1, or leave it blank")
    return table


def refuse_patients(model: FineTuned, store: Path, table: pd.DataFrame, split: str, fold: int | None) -> None:
    """Raise a UserError where a patient who is to be evaluated was seen in training."""
    if split != "all":
        refuse_seen(store, table.index, model.facts["patients"], fold=fold)
        return
    seen = sorted(set(table["patient"]) & set(model.facts["patients"]))
    if seen:
        raise UserError(
            f"{store}: {len(seen)} labelled patients were seen in training (first: {seen[0]}); --split all is for a "
            "store of other patients. Evaluate the run's own store with --split test"
        )


def predict_split(
    model: FineTuned, store: Store, table: pd.DataFrame, views: TaskViews, split: str, fold: int | None
) -> pd.DataFrame:
    """The table of predictions of a split's labelled volumes, with their patients and subgroups."""
    known = set(table.index)
    kept = ["id", "patient", *(name for name in SUBGROUPS if name in store.rows.column_names)]
    rows = store.rows.select(kept).to_pandas()
    rows["split"] = "all" if split == "all" else sides(store, fold).to_pandas()
    rows = rows[(rows["split"] == split) & rows["id"].isin(known)].sort_values("id")
    if rows.empty:
        return rows
    answers = predict_table(model.network, [store.scan(volume_id) for volume_id in rows["id"]], views)
    return rows.merge(answers, on="id", validate="one_to_one")


def validation_of_run(run: Path, model: FineTuned) -> pd.DataFrame | None:
    """Predictions of the run's validation patients, for thresholds away from its store; None where there is no way.

    They are those that an evaluation left in the run, if it was of the same weights; else they are made from the store
    and the labels that the run's config names.
    """
    kept = kept_validation(run)
    if kept is not None:
        return kept
    config = read_config(run / CONFIG)
    try:
        store = Store.open(config["dataset_dir"])
        table = labels_for(model.task, store, config["labels"])
        views = TaskViews(model.task, table, cache=BoxCache(), scan_of=store.scan)
        return predict_split(model, store, table, views, "validation", model.fold)
    except UserError as error:
        say(f"no thresholds from the run's validation patients: {error}; evaluate the run on its own store first")
        return None


def without(predictions: pd.DataFrame, validation: pd.DataFrame | None, *, store: Path) -> pd.DataFrame | None:
    """The validation patients, None where there are none.

    Raises:
        UserError: one of them is to be evaluated.
    """
    if validation is None or validation.empty:
        return None
    both = sorted(set(predictions["patient"]) & set(validation["patient"]))
    if both:
        raise UserError(
            f"{store}: {len(both)} patients chose the run's epoch and thresholds (first: {both[0]}); what they would "
            "show is no evidence. Leave them out of the labels"
        )
    return validation
