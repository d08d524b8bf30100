"""Does pretraining help on your labels? Fine-tune from scratch and from an encoder, and score both on test patients.

    python examples/finetune_on_your_labels.py work/store labels.csv work/swav --out work
    python examples/finetune_on_your_labels.py work/store labels.csv work/swav --out work task::grid='[48, 56, 20]'

Words after the options are overrides of bundles/head_ct_hemorrhage_classification/configs/train.yaml, for both runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.workflow import finetune
from volssl.evaluation.bootstrap import bootstrap_interval, paired_difference
from volssl.evaluation.metrics import roc_auc


def main(
    store: Path,
    labels: Path,
    encoder: Path,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="For the two runs.")] = Path("work"),
) -> None:
    """Train twice with the same settings and seed, and compare on the same patients."""
    tables: dict[str, pd.DataFrame] = {}
    for name, start in (("scratch", None), ("pretrained", encoder)):
        run = out / name
        finetune("hemorrhage", store=store, labels=labels, out=run, encoder=start, words=overrides or [])
        evaluate_run(run, store=store, labels=labels, split="test", out=run / "test")
        tables[name] = pd.read_parquet(run / "test" / "predictions.parquet")
    truth, patients = tables["scratch"]["y_hemorrhage"], tables["scratch"]["patient"]
    scores = {name: table["p_hemorrhage"] for name, table in tables.items()}
    for name, column in scores.items():
        print(f"{name}: AUC {bootstrap_interval(roc_auc, truth, column, patients)}")
    gain = paired_difference(roc_auc, truth, scores["pretrained"], scores["scratch"], patients)
    print(f"pretrained minus scratch: {gain}")


if __name__ == "__main__":
    typer.run(main)
