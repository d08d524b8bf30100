"""One job of a comparison, in a process of its own with one thread: so its figures do not depend on its neighbours.

    python -m volssl.bundle.compare_worker

What to do comes as one line of JSON on standard input, which then stays open: its end is the end of the parent, and of
this process with it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from volssl.bundle.evaluate import labels_for, predict_split
from volssl.bundle.runs import keep_validation, load_run, write_parquet
from volssl.bundle.workflow import finetune
from volssl.data import Store, refuse_seen
from volssl.errors import file_error, unforeseen, user_error_in
from volssl.evaluation.predictions import evaluate_predictions, write_metrics_json
from volssl.evaluation.robustness import balanced_cases, perturbed_answers
from volssl.files import write_text
from volssl.progress import say
from volssl.tasks import BoxCache, TaskViews

DONE, LOG = "done.json", "job.log"
VALIDATION = "validation.parquet"


def train(told: Mapping[str, Any]) -> None:
    """Fine-tune, or go on with it, and predict the validation patients; `done.json` is written last.

    `seconds` are of the training; None where it was stopped and gone on with, for nobody knows them.
    """
    run, begun = Path(told["run"]), (Path(told["run"]) / "checkpoints").is_dir()
    start = time.monotonic()
    finetune(
        told["task"],
        store=Path(told["store"]),
        labels=Path(told["labels"]),
        out=run,
        encoder=Path(told["encoder"]) if told["encoder"] else None,
        mode=told["mode"],
        fraction=told["fraction"],
        resume=run.is_dir(),
        words=told["words"],
        ranges=False,  # few of so many runs are ever exported
    )
    seconds = None if begun else round(time.monotonic() - start, 1)
    table, facts = predicted(told, "validation")
    keep_validation(run, table)
    best = {"best_epoch": facts.get("epoch"), "validation_auc": facts.get("validation_auc"), "seconds": seconds}
    write_text(run / DONE, json.dumps(best) + "\n")


def evaluate(told: Mapping[str, Any]) -> None:
    """Predict the patients of the split, work out the figures, and change some of the images to see what becomes."""
    run, split = Path(told["run"]), told["split"]
    validation = pd.read_parquet(run / VALIDATION)
    table = validation if split == "validation" else predicted(told, split)[0]
    outputs = [name.removeprefix("p_") for name in table if name.startswith("p_")]
    metrics = evaluate_predictions(table, outputs=outputs, validation=None if split == "validation" else validation)
    if told["draws"]:
        write_parquet(perturbed(told, table), robustness_file(run, split, told["cases"], told["draws"]))
    write_metrics_json(metrics, run / f"{split}_metrics.json")
    write_parquet(table, run / f"{split}.parquet")


def predicted(told: Mapping[str, Any], split: str) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """The table of predictions of a split, and what the run says of itself."""
    model, store = load_run(Path(told["run"])), Store.open(told["store"])
    table = labels_for(model.task, store, told["labels"])
    refuse_seen(told["store"], table.index, model.facts["patients"], fold=model.fold)
    views = TaskViews(model.task, table, cache=BoxCache(told["boxes"]), scan_of=store.scan)
    return predict_split(model, store, table, views, split, model.fold), model.facts


def perturbed(told: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """The network's answers for some cases under every perturbation, with the case's `id` and label `y`."""
    model, store, output = load_run(Path(told["run"])), Store.open(told["store"]), told["output"]
    views = TaskViews(model.task, cache=BoxCache(told["boxes"]))
    cases = table.loc[balanced_cases(table[f"y_{output}"], told["cases"])]
    images = [views.preprocessed(store.scan(volume_id))[0] for volume_id in cases["id"]]
    answers = perturbed_answers(model.network, model.task, images, output=output, draws=told["draws"])
    known = cases.reset_index(drop=True).rename(columns={f"y_{output}": "y"})[["id", "y"]]
    return answers.join(known, on="case")


def robustness_file(run: Path, split: str, cases: int, draws: int) -> Path:
    """Where the answers under perturbations of so many cases and draws are kept."""
    return run / f"{split}_robustness_{cases}x{draws}.parquet"


def go_with_parent() -> None:
    """Wait for the end of standard input, unbuffered: a thread that holds a buffer's lock cannot be ended in peace."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Do one part of one job; on an error the last line of the log says what it was."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=go_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        {"train": train, "evaluate": evaluate}[told["part"]](told)
    except Exception as error:
        say(f"error: {file_error(error) or user_error_in(error) or unforeseen(error)}")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
