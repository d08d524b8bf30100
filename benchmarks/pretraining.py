"""Does pretraining help? Simulated head CTs, few and many labels, from scratch and after each way of pretraining.

    python benchmarks/pretraining.py --out measurement

On simulated volumes at 48×56×20 (3.5×3.5×7 mm): every arm pretrains on the same unlabelled training volumes, then all
of it is fine-tuned with the same labels, steps and seeds; the last epoch is taken, nothing is chosen by a score. A
linear probe of the frozen encoder with the most labels says what the features themselves hold; its one setting, C, is
chosen on the validation patients. The AUC is that of validation patients, with a paired bootstrap by patient of the
difference to scratch (for a probe: to random weights). Test patients do not occur. What is done already in the folder
is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.shipped import SINGLE
from volssl.bundle.workflow import finetune, pretrain
from volssl.data import prepare
from volssl.evaluation.bootstrap import bootstrap_interval, paired_difference
from volssl.evaluation.metrics import roc_auc
from volssl.simulate.cohort import simulate_cohort

SPACING, GRID = "[3.5, 3.5, 7.0]", "[48, 56, 20]"
WINDOW = "[40, 80]"  # the brain window of every reading room; docs/methods.md says what the paper's (55, 200) gives
LOOK = (f"spacing_mm={SPACING}", f"crop_size={GRID}", "small_crop_size=[32, 38, 14]", f"window_hu={WINDOW}")
TASK = (f"task::grid={GRID}", f"task::window_hu={WINDOW}")
ZOOM = "zoom=[[0.8, 1.1], [0.9, 1.2]]"  # on this grid: benchmarks/views.py says what share of pairs keeps a bleed
BOXES = ("method::views::non_linear=0.0", "method::views::outer=0.2")  # HU stay what they are; mostly boxes are hidden
SCRATCH = "scratch"
ARMS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # arm: method, preset, and what its config states otherwise
    "SwAV, generic views": ("swav", "generic_views", (f"method::views::{ZOOM}",)),
    "SwAV, paper's views": ("swav", "paper_views", ("method::views::fraction=[0.5, 1.1]",)),
    "SwAV": ("swav", SINGLE, (f"method::views::{ZOOM}",)),
    "restoration": ("restoration", SINGLE, BOXES),
    "combined": (
        "combined",
        SINGLE,
        (f"method::parts::swav::views::{ZOOM}", *(word.replace("::", "::parts::restoration::", 1) for word in BOXES)),
    ),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--unlabelled", type=int, default=1000, help="training volumes")
    options.add_argument("--validation", type=int, default=1000, help="validation patients")
    options.add_argument("--labels", type=int, nargs="+", default=[40, 400], help="training volumes with a label")
    options.add_argument("--seeds", type=int, default=3, help="fine-tunings with the fewest labels; one with more")
    options.add_argument("--epochs", type=int, default=12, help="of pretraining")
    options.add_argument(
        "--steps", type=int, nargs="+", default=[400, 1200], help="of fine-tuning, for each of --labels"
    )
    options.add_argument("--arms", nargs="+", default=[SCRATCH, *ARMS], choices=[SCRATCH, *ARMS])
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    store, labels = cohort(chosen.out, chosen.unlabelled, chosen.validation)
    rows = []
    for arm in chosen.arms:
        encoder = None if arm == SCRATCH else pretrained(arm, store, chosen.out, epochs=chosen.epochs)
        many = max(chosen.labels)
        table = probed(
            chosen.out / "runs" / f"{slug(arm)}-probe", store, some_labels(labels, chosen.out, many, 0), encoder
        )
        rows.append((f"{arm}, linear probe", many, 0, table))
        for count, steps in zip(chosen.labels, chosen.steps, strict=True):
            for seed in range(chosen.seeds if count == min(chosen.labels) else 1):
                run = chosen.out / "runs" / f"{slug(arm)}-{count}-{seed}"
                table = tuned(run, store, some_labels(labels, chosen.out, count, seed), encoder, steps=steps, seed=seed)
                rows.append((arm, count, seed, table))
    report(rows)


def cohort(out: Path, unlabelled: int, validation: int) -> tuple[Path, pd.DataFrame]:
    """Simulate the two sides and prepare them; returns the store and the label table of one study a patient."""
    sides = {"train": (unlabelled, 100), "validation": (int(1.25 * validation), 200)}
    tables = []
    for split, (n, seed) in sides.items():
        folder = simulate_cohort(out / split, n, seed=seed, spacing_mm=3.0, slice_mm=6.0)
        patients = pd.read_csv(folder / "patients.csv").assign(split=split)
        patients.to_csv(folder / "patients.csv", index=False)
        table = pd.read_csv(folder / "labels.csv", dtype=str).assign(split=split)
        tables.append(table if split == "train" else table.drop_duplicates("patient").head(validation))
    store = out / "store"
    if not (store / "manifest.parquet").is_file():
        prepare([out / split for split in sides], store)
    return store, pd.concat(tables)


def some_labels(labels: pd.DataFrame, out: Path, count: int, seed: int) -> Path:
    """A label table of `count` training studies, the same for every arm, and all validation studies."""
    training = labels[labels["split"] == "train"].sample(count, random_state=seed)
    path = out / f"labels-{count}-{seed}.csv"
    pd.concat([training, labels[labels["split"] == "validation"]]).drop(columns="split").to_csv(path, index=False)
    return path


def pretrained(arm: str, store: Path, out: Path, *, epochs: int) -> Path:
    """Pretrain an arm, unless it is done."""
    run = out / "runs" / slug(arm)
    method, preset, words = ARMS[arm]
    if not (run / "seconds.json").is_file():
        start = time.perf_counter()
        words = (*LOOK, f"max_epochs={epochs}", *words)
        pretrain(method, store=store, out=run, preset=preset, resume=run.is_dir(), words=words)
        (run / "seconds.json").write_text(json.dumps(time.perf_counter() - start))
    return run


def tuned(run: Path, store: Path, labels: Path, encoder: Path | None, *, steps: int, seed: int) -> pd.DataFrame:
    """Fine-tune all of the network, take the last epoch, and predict the validation patients."""
    predictions = run / "validation" / "predictions.parquet"
    if not predictions.is_file():
        count = sum(1 for line in labels.open()) - 1
        training = count - len(pd.read_csv(labels).pipe(lambda t: t[t["study"].str.startswith("A200")]))
        epochs = max(1, round(steps / max(1, training // 16)))
        words = [*TASK, f"max_epochs={epochs}", f"seed={seed}", f"train::handlers::1::every={epochs}"]
        given: dict[str, Any] = {"store": store, "labels": labels, "out": run, "encoder": encoder, "ranges": False}
        finetune("hemorrhage", words=words, resume=run.is_dir(), **given)
        evaluate_run(run, store=store, labels=labels, split="validation", out=run / "validation")
    return pd.read_parquet(predictions)


def probed(run: Path, store: Path, labels: Path, encoder: Path | None) -> pd.DataFrame:
    """A linear probe of the encoder, or of one with random weights, and its predictions for the validation patients."""
    predictions = run / "validation" / "predictions.parquet"
    if not predictions.is_file():
        given: dict[str, Any] = {"store": store, "labels": labels, "out": run, "encoder": encoder, "ranges": False}
        finetune("hemorrhage", mode="probe", words=TASK, **given)
        evaluate_run(run, store=store, labels=labels, split="validation", out=run / "validation")
    return pd.read_parquet(predictions)


def report(rows: list[tuple[str, int, int, pd.DataFrame]]) -> None:
    """Print each arm's AUC with its interval, and the paired difference to scratch on the same patients and labels."""
    print(f"{'labels':>6} {'arm':34} {'AUC':>24} {'difference to scratch':>26}   (simulated)")
    for count in sorted({row[1] for row in rows}):
        for arm in dict.fromkeys(row[0] for row in rows if row[1] == count):
            tables = {seed: table for a, n, seed, table in rows if a == arm and n == count}
            truth, patients, scores = pooled(tables)
            interval = bootstrap_interval(roc_auc, truth, scores, patients)
            text = f"{count:6d} {arm:34} {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
            other = f"{SCRATCH}, linear probe" if arm.endswith("probe") else SCRATCH
            of_scratch = {seed: table for a, n, seed, table in rows if a == other and n == count}
            if arm != other and of_scratch:
                _, _, others = pooled(of_scratch)
                d = paired_difference(roc_auc, truth, scores, others, patients)
                text += f"     {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
            print(text)


def pooled(tables: dict[int, pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and patient of each study, and the scores of every seed's network: (N,), (N,), (N, seeds)."""
    first = next(iter(tables.values())).sort_values("id")
    scores = [table.sort_values("id")["p_hemorrhage"].to_numpy() for table in tables.values()]
    return first["y_hemorrhage"].to_numpy(), first["patient"].to_numpy(), np.stack(scores, axis=1)


def slug(arm: str) -> str:
    """An arm's name for a folder."""
    return arm.replace(",", "").replace("'", "").replace(" ", "-").lower()


if __name__ == "__main__":
    main()
