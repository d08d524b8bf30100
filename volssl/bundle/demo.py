"""`volssl demo`: the whole line on a simulated cohort, small enough for two CPU cores, with a table at the end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from volssl.bundle.compare_jobs import read_arms, read_basis
from volssl.bundle.compare_results import histograms
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.simulated import NOTICE
from volssl.bundle.workflow import finetune, pretrain
from volssl.data import prepare
from volssl.errors import UserError
from volssl.evaluation.bootstrap import Interval, bootstrap_interval, paired_difference
from volssl.evaluation.comparison import RULE
from volssl.evaluation.intensity_rule import rule_predictions
from volssl.evaluation.metrics import average_precision, roc_auc
from volssl.evaluation.report import ComparisonRow, write_comparison
from volssl.evaluation.terminal import with_interval
from volssl.progress import console, say
from volssl.simulate.cohort import simulate_cohort

GRID = "[48, 56, 20]"  # of the head box, 3.5 × 3.5 × 7 mm: the paper's box, four times coarser in plane
SPACING = "[3.5, 3.5, 7.0]"
WINDOW = "[40, 80]"  # of a reading room: on such coarse voxels blood is lost in the paper's (docs/methods.md)
PRETRAINING = (
    f"spacing_mm={SPACING}",
    f"crop_size={GRID}",
    "small_crop_size=[32, 38, 14]",
    f"window_hu={WINDOW}",
    "method::views::zoom=[[0.8, 1.1], [0.9, 1.2]]",  # small crops as wide as most bleeds need (benchmarks/views.py)
    "batch_size=16",
    "workers=1",
)
TASK = (f"task::grid={GRID}", f"task::window_hu={WINDOW}")
PRETRAINING_EPOCHS, FINETUNING_EPOCHS = 15, 40
SCRATCH, PRETRAINED, OUTPUT = "from scratch", "pretrained with SwAV", "hemorrhage"


def run_demo(out: Path, *, n: int = 400, seed: int = 0) -> Path:
    """Simulate, prepare, pretrain, fine-tune with and without, evaluate, compare, export and predict.

    Args:
        out: a folder that does not exist yet, or is empty.
        n: simulated studies.
        seed: of the cohort and of both trainings.

    Returns:
        The page that compares the two classifiers.

    Raises:
        UserError: where the folder is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; name another folder with --out, or remove this one")
    cohort, store, labels = out / "cohort", out / "store", out / "cohort" / "labels.csv"
    with timed("1 simulate a cohort of head CTs"):
        simulate_cohort(cohort, n, seed=seed, spacing_mm=3.0, slice_mm=6.0)
    with timed("2 prepare the store"):
        say(str(prepare([cohort], store)))
    swav = out / "runs" / "swav"
    with timed("3 pretrain the paper's DenseNet with 3D SwAV on the training patients"):
        pretrain(
            "swav", store=store, out=swav, words=[*PRETRAINING, f"max_epochs={PRETRAINING_EPOCHS}", f"seed={seed}"]
        )
    runs = {SCRATCH: out / "runs" / "scratch", PRETRAINED: out / "runs" / "pretrained"}
    words = [*TASK, f"max_epochs={FINETUNING_EPOCHS}", f"seed={seed}"]
    for name, run in runs.items():
        encoder = None if name == SCRATCH else swav
        with timed(f"4 fine-tune a hemorrhage classifier, {name}"):
            finetune(OUTPUT, store=store, labels=labels, out=run, encoder=encoder, words=words)
        with timed("5 evaluate it on test patients"):
            evaluate_run(run, store=store, labels=labels, split="test", out=run / "test")
    with timed("6 export the second as a MONAI bundle, and 7 ask it about one study"):
        bundle = out / "head_ct_hemorrhage_classification"
        export_run(runs[PRETRAINED], bundle)
        predict_studies(bundle, [sorted((cohort / "volumes").iterdir())[0]], out / "answer")
    tables = {name: pd.read_parquet(run / "test" / "predictions.parquet") for name, run in runs.items()}
    return compare(tables | {RULE: by_rule(store, labels, tables[SCRATCH])}, out)


def by_rule(store: Path, labels: Path, asked: pd.DataFrame) -> pd.DataFrame:
    """The predictions of the best intensity rule, chosen on the training patients, for the cases of a table."""
    basis = read_basis(OUTPUT, store=store, labels=labels, arms=read_arms(["scratch"]), words=TASK)
    with tempfile.TemporaryDirectory() as boxes:
        counts, training = histograms(basis, [*asked["id"]], Path(boxes))
    return rule_predictions(training, asked, counts, [OUTPUT])[0]


def compare(tables: dict[str, pd.DataFrame], out: Path) -> Path:
    """The final table, on the terminal and as a page: each model on the same test patients, and the difference."""
    reference = tables[SCRATCH]
    truth, patients = reference[f"y_{OUTPUT}"].to_numpy(), reference["patient"].to_numpy()
    rows = []
    for name, table in tables.items():
        scores = table[f"p_{OUTPUT}"].to_numpy()
        results = {
            "AUC": bootstrap_interval(roc_auc, truth, scores, patients),
            "Average precision": bootstrap_interval(average_precision, truth, scores, patients),
        }
        other = reference[f"p_{OUTPUT}"].to_numpy()
        difference = None if name == SCRATCH else paired_difference(roc_auc, truth, scores, other, patients)
        rows.append(ComparisonRow(name, results, difference))
    title = f"Hemorrhage on {len(truth)} simulated head CTs of {len(set(patients))} test patients; 95 % intervals"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("", "AUC", "difference to scratch"):
        shown.add_column(column, no_wrap=True)
    for row in rows:
        shown.add_row(row.name, cell(row.results["AUC"]), cell(row.difference) if row.difference else "")
    console.print(shown)
    return write_comparison(
        rows,
        out,
        title="Did pretraining help?",
        reference=SCRATCH,
        facts={"Test studies": str(len(truth)), "Test patients": str(len(set(patients))), "Output": OUTPUT},
        equal=[
            "architecture and head",
            "labels, epochs, learning rate and seed",
            "validation patients choose the epoch",
        ],
        simulated=NOTICE,
    )


def cell(interval: Interval) -> str:
    """An interval for the terminal."""
    return with_interval(interval.as_json())


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Announce a part of the demo, and say how long it took."""
    console.rule(title, align="left")
    start = time.monotonic()
    yield
    say(f"{time.monotonic() - start:.0f} s")
