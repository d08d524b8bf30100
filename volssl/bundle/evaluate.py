"""`volssl evaluate`: a fine-tuned run on patients it has not seen, with figures, intervals and a page to read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from monai.bundle import ConfigParser
from rich import box
from rich.table import Table
from torch import nn

from volssl.bundle.config import read_config
from volssl.bundle.simulated import simulated_notice
from volssl.bundle.workflow import CONFIG
from volssl.data import Store, join_labels, refuse_seen
from volssl.data.training import sides
from volssl.encoders.weights import load_weights
from volssl.errors import UserError
from volssl.evaluation.predictions import evaluate_predictions, write_metrics_json
from volssl.evaluation.report import write_report
from volssl.evaluation.validation import MODEL
from volssl.files import write_atomically
from volssl.tasks import BoxCache, Task, TaskViews
from volssl.tasks.inference import predict_table
from volssl.tensors import load_tensors

SUBGROUPS = ("sex", "age_band", "scanner", "site")


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned run: its task, its network with the best epoch's weights, and what model.pt says of them.

    Attributes:
        fold: of the store, on which it was validated; None for the store's split.
    """

    task: Task
    network: nn.Module
    facts: dict[str, Any]
    fold: int | None = None


def load_run(run: Path) -> FineTuned:
    """The classifier of a run of `volssl finetune`.

    Raises:
        UserError: where the folder holds no finished run.
    """
    if not (run / MODEL).is_file() or not (run / CONFIG).is_file():
        raise UserError(
            f"{run}: no fine-tuned run there ({MODEL} and {CONFIG} are needed); give one of `volssl finetune`"
        )
    parser = ConfigParser(read_config(run / CONFIG))
    network: nn.Module = parser.get_parsed_content("network_def")
    facts = load_tensors(run / MODEL)
    load_weights(network, facts.pop("network"), source=str(run / MODEL), least=1.0)
    task = parser.get_parsed_content("task")
    return FineTuned(task=task, network=network.eval(), facts=facts, fold=parser.get("fold"))


def evaluate_run(run: Path, *, store: Path, labels: Path, split: str, out: Path) -> dict[str, Any]:
    """Predict the labelled studies of a split, and write predictions.parquet, metrics.json, figures and report.html.

    Thresholds are chosen on the validation patients where the split is another.

    Returns:
        The figures of `evaluate_predictions`.

    Raises:
        UserError: for a folder without a run, labels that do not fit, an empty split, or patients that training saw.
    """
    model = load_run(run)
    opened = Store.open(store)
    table = join_labels(opened, labels, model.task.label_columns)
    if split not in ("train", "validation", "test"):
        raise UserError(f"split {split}: unknown; choose test, validation or train")
    if split != "train":
        refuse_seen(store, table.index, model.facts["patients"], fold=model.fold)
    views = TaskViews(model.task, table, cache=BoxCache())
    predictions = predict_split(model, opened, table, views, split)
    if predictions.empty:
        raise UserError(f"{store}: no labelled volume of a {split} patient; there is nothing to evaluate")
    validation = predict_split(model, opened, table, views, "validation") if split == "test" else None
    outputs = list(model.task.output_names)
    if validation is not None and validation.empty:
        validation = None
    metrics = evaluate_predictions(predictions, outputs=outputs, validation=validation)
    metrics["model_sha256"] = hashlib.sha256((run / MODEL).read_bytes()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    write_parquet(predictions, out / "predictions.parquet")
    write_metrics_json(metrics, out / "metrics.json")
    write_report(
        out,
        predictions,
        metrics,
        title=f"{model.task.name.capitalize()}: {split} patients",
        facts={
            "Chosen epoch": str(model.facts["epoch"]),
            "Validation AUC of that epoch": f"{model.facts['validation_auc']:.3f}",
            "Patients seen in training": str(len(model.facts["patients"])),
        },
        simulated=simulated_notice(opened),
        image_of=lambda volume_id: views.preprocessed(opened.scan(volume_id))[0][0].numpy(),
    )
    return metrics


def predict_split(model: FineTuned, store: Store, table: pd.DataFrame, views: TaskViews, split: str) -> pd.DataFrame:
    """The table of predictions of a split's labelled volumes, with their patients and subgroups."""
    known = set(table.index)
    kept = ["id", "patient", *(name for name in SUBGROUPS if name in store.rows.column_names)]
    rows = store.rows.select(kept).to_pandas()
    rows["split"] = sides(store, model.fold).to_pandas()
    rows = rows[(rows["split"] == split) & rows["id"].isin(known)].sort_values("id")
    if rows.empty:
        return rows
    answers = predict_table(model.network, [store.scan(volume_id) for volume_id in rows["id"]], views)
    return rows.merge(answers, on="id", validate="one_to_one")


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically; its rows hold keyed hashes, no raw id."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    write_atomically(path, lambda file: pq.write_table(arrow, file))


def summary(metrics: dict[str, Any]) -> Table:
    """The figures for the terminal: a row an output, each with its interval."""
    counts = f"{metrics['n_studies']} studies of {metrics['n_patients']} patients"
    shown = Table(title=f"{metrics['split']}: {counts}; 95 % intervals", title_justify="left", box=box.SIMPLE)
    columns = {"auc": "AUC", "average_precision": "average precision"}
    shown.add_column("output", no_wrap=True)
    for name in ("positive", *columns.values()):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, figures in metrics["outputs"].items():
        cells = [with_interval(figures["metrics"].get(column)) for column in columns]
        shown.add_row(name, f"{figures['positives']}/{figures['n']}", *cells)
    return shown


def with_interval(figure: dict[str, Any] | None) -> str:
    """`.91 (.88–.94)`, or a dash where the figure cannot be worked out."""
    if not figure or figure["value"] is None:
        return "–"
    text = f"{figure['value']:.2f}"
    return f"{text} ({figure['low']:.2f}–{figure['high']:.2f})" if figure["low"] is not None else text
