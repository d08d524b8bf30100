"""The study: does pretraining help to find hemorrhage on simulated head CT? One command, resumable over hours.

    python examples/study/hemorrhage.py --out study

1. Four cohorts, each of its own seed and so of its own patients: unlabelled and labelled training volumes, validation,
   and a test cohort that nothing else looks at.
2. Encoders pretrained on all training volumes: SimCLR, SwAV with generic views ("SwAV-med") and with the paper's,
   restoration, and SwAV and restoration combined. `--arms` takes SwAV as it is shipped too.
3. `compare`: each of them and scratch, 10, 25, 50 and 100 % of the labels, three repeats, the test opened at the end.
4. The four rows of the paper's Table 5: the volume's label alone, with types, with slices, with self-supervision;
   below them the best intensity rule.

What is done in the folder is not done again. Everything here is simulated and says nothing about patients.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.bundle.compare import compare
from volssl.bundle.shipped import SINGLE
from volssl.bundle.workflow import pretrain
from volssl.data import prepare
from volssl.evaluation.bootstrap import Interval, bootstrap_interval, paired_difference
from volssl.evaluation.comparison import RULE, pooled
from volssl.evaluation.metrics import at_threshold, roc_auc, sensitivity, specificity
from volssl.evaluation.output import FIRST_POINT
from volssl.simulate.cohort import simulate_cohort

SCRATCH, OUTPUT = "scratch", "hemorrhage"
ZOOM = "zoom=[[0.8, 1.1], [0.9, 1.2]]"  # on this grid: benchmarks/views.py says what share of pairs keeps a bleed
STUDIED = ("SimCLR", "SwAV-med", "SwAV-paper", "restoration", "combined")
BOXES = ("non_linear=0.0", "outer=0.2")  # HU stay what they are; mostly boxes are hidden
Arm = tuple[str, str, tuple[str, ...]]  # method, preset, and what its config states otherwise
ARMS: dict[str, Arm] = {
    "SimCLR": ("simclr", SINGLE, ()),
    "SwAV-med": ("swav", "generic_views", (f"method::views::{ZOOM}",)),
    "SwAV-paper": ("swav", "paper_views", ("method::views::fraction=[0.5, 1.1]",)),
    "SwAV": ("swav", SINGLE, (f"method::views::{ZOOM}",)),
    "restoration": ("restoration", SINGLE, tuple(f"method::views::{word}" for word in BOXES)),
    "combined": (
        "combined",
        SINGLE,
        (
            f"method::parts::swav::views::{ZOOM}",
            "method::parts::swav::queue_length=128",  # as it was run; without one as good (docs/methods.md)
            *(f"method::parts::restoration::views::{word}" for word in BOXES),
        ),
    ),
}
ROWS = {  # of Table 5: what the task states otherwise
    "1  3D": ("task::types=false", "task::slices=false"),
    "2  + types": ("task::slices=false",),
    "3  + slices": (),
}


def main(words: list[str] | None = None) -> None:
    """Run all four parts."""
    chosen = options().parse_args(words)
    out: Path = chosen.out
    store, labels = cohorts(out, chosen, simulate_cohort)
    runs = {name: pretrained(ARMS[name], store, out / "pretraining" / name, look(chosen)) for name in chosen.arms}
    task = task_words(chosen)
    encoders = [SCRATCH, *(f"{name}={run}" for name, run in runs.items())]
    common = {"store": store, "labels": labels, "seeds": chosen.seeds, "split": chosen.split, "workers": chosen.workers}
    robust = {"cases": chosen.cases, "draws": chosen.draws}
    compare(
        "hemorrhage",
        encoders=encoders,
        fractions=chosen.fractions,
        out=out / "comparison",
        words=task,
        **common,
        **robust,
    )
    folders = {"3  + slices": out / "comparison"}
    for row, stated in ROWS.items():
        if stated:
            folders[row] = out / f"table5-{row[0]}"
            more = (*task, *stated)
            compare("hemorrhage", encoders=[SCRATCH], fractions=[1.0], out=folders[row], words=more, draws=0, **common)
    table = table5(folders, chosen.split)
    table.to_csv(out / "table5.csv", index=False)
    print(table.to_string(index=False))


def look(chosen: argparse.Namespace) -> tuple[str, ...]:
    """What every pretraining is told."""
    return (
        f"spacing_mm={json.dumps(chosen.spacing)}",
        f"crop_size={json.dumps(chosen.grid)}",
        f"small_crop_size={json.dumps(chosen.small_grid)}",
        f"window_hu={json.dumps(chosen.window)}",
        f"max_epochs={chosen.pretraining_epochs}",
        *chosen.pretraining,
    )


def task_words(chosen: argparse.Namespace) -> tuple[str, ...]:
    """What every fine-tuning is told."""
    return (
        f"task::grid={json.dumps(chosen.grid)}",
        f"task::window_hu={json.dumps(chosen.window)}",
        f"max_epochs={chosen.epochs}",
        f"train::handlers::1::every={chosen.every}",
        *chosen.finetuning,
    )


def options() -> argparse.ArgumentParser:
    """Sizes of the study."""
    given = shared_options(__doc__.splitlines()[0], list(ARMS))
    given.add_argument("--small-grid", type=int, nargs=3, default=[32, 38, 14], help="of pretraining's small views")
    given.add_argument("--window", type=float, nargs=2, default=[40, 80], help="center and width in HU")
    given.add_argument("--every", type=int, default=2, help="epochs between two validations")
    given.set_defaults(arms=list(STUDIED))
    given.set_defaults(unlabelled=1000, labelled=400, validation=1000, test=2000)
    given.set_defaults(grid=[48, 56, 20], simulated=[3.0, 6.0], spacing=[3.5, 3.5, 7.0])
    given.set_defaults(fractions=[0.1, 0.25, 0.5, 1.0], seeds=3, epochs=16, cases=50, draws=50)
    return given


def shared_options(title: str, arms: list[str]) -> argparse.ArgumentParser:
    """What both studies take; each states its own sizes."""
    given = argparse.ArgumentParser(description=title)
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--unlabelled", type=int, help="training volumes without a label")
    given.add_argument("--labelled", type=int, help="training volumes with one")
    given.add_argument("--validation", type=int, help="volumes")
    given.add_argument("--test", type=int, help="volumes")
    given.add_argument("--grid", type=int, nargs=3, help="voxels along R, A, S")
    given.add_argument("--simulated", type=float, nargs=2, help="mm in plane and of a slice")
    given.add_argument("--spacing", type=float, nargs=3, help="mm, of pretraining")
    given.add_argument("--arms", nargs="+", default=arms, choices=arms)
    given.add_argument("--fractions", type=float, nargs="+", help="of the labelled patients")
    given.add_argument("--seeds", type=int, help="repeats")
    given.add_argument("--pretraining-epochs", type=int, default=15)
    given.add_argument("--epochs", type=int, help="of fine-tuning with all labels")
    given.add_argument("--pretraining", nargs="*", default=[], metavar="KEY=VALUE", help="for every pretraining")
    given.add_argument("--finetuning", nargs="*", default=[], metavar="KEY=VALUE", help="for every fine-tuning")
    given.add_argument("--split", default="test", help="validation leaves the test closed")
    given.add_argument("--cases", type=int, help="of the robustness figures")
    given.add_argument("--draws", type=int, help="of each of them; 0 leaves the figures out")
    given.add_argument("--workers", type=int, default=2)
    return given


def cohorts(out: Path, chosen: argparse.Namespace, simulate: Callable[..., Path]) -> tuple[Path, Path]:
    """Simulate and prepare, each cohort on its side of the split; returns the store and the label table.

    Args:
        simulate: writes a cohort of so many studies into a folder.
    """
    sides = {
        "unlabelled": ("train", chosen.unlabelled, 1000),
        "labelled": ("train", chosen.labelled, 2000),
        "validation": ("validation", chosen.validation, 3000),
        "test": ("test", chosen.test, 4000),
    }
    tables, (spacing_mm, slice_mm) = [], chosen.simulated
    for name, (split, n, seed) in sides.items():
        folder = simulate(out / name, n, seed=seed, spacing_mm=spacing_mm, slice_mm=slice_mm)
        patients = pd.read_csv(folder / "patients.csv", dtype=str).assign(split=split)
        patients.to_csv(folder / "patients.csv", index=False)
        if name != "unlabelled":
            table = pd.read_csv(folder / "labels.csv", dtype=str)
            if "mask" in table:
                table["mask"] = f"{name}/" + table["mask"]  # from the folder of the joined table
            tables.append(table)
    store, labels = out / "store", out / "labels.csv"
    if not (store / "manifest.parquet").is_file():
        prepare([out / name for name in sides], store)
    pd.concat(tables).to_csv(labels, index=False)
    return store, labels


def pretrained(arm: Arm, store: Path, run: Path, words: tuple[str, ...]) -> Path:
    """Pretrain an arm, unless it is done; returns its run."""
    method, preset, stated = arm
    if not (run / "seconds.json").is_file():
        start = time.monotonic()
        pretrain(method, store=store, out=run, preset=preset, resume=run.is_dir(), words=[*words, *stated])
        (run / "seconds.json").write_text(json.dumps(round(time.monotonic() - start)))
    return run


def table5(folders: dict[str, Path], split: str) -> pd.DataFrame:
    """The rows of Table 5 with all labels; the encoder of row 4 is the one that validation patients favour.

    The figures are means over the repeats; sensitivity and specificity are those at each repeat's own threshold, where
    they are equal on the validation patients. Below stands the intensity rule, which is the same in every repeat.
    """
    summary = pd.read_csv(folders["3  + slices"] / "summary.csv")
    whole = summary[(summary["output"] == OUTPUT) & (summary["fraction"] == 1.0) & (summary["mode"] == "full")]
    begun = whole[whole["encoder"] != SCRATCH]
    best = str(begun.loc[begun["validation_auc"].idxmax(), "encoder"])
    models = {row: (folder, SCRATCH) for row, folder in sorted(folders.items())}
    models[f"4  + {best}"] = (folders["3  + slices"], best)
    rows: list[dict[str, Any]] = []
    before = None
    for row, (folder, encoder) in models.items():
        files = sorted((folder / "runs").glob(f"{encoder.lower()}-full-1-*/{split}.parquet"))
        y, scores, patients = pooled([pd.read_parquet(file) for file in files], OUTPUT)
        calls = (scores >= [threshold_of(file.parent, split) for file in files]).astype(float)
        auc = bootstrap_interval(roc_auc, y, scores, patients)
        found, cleared = (
            bootstrap_interval(at_threshold(figure, 1.0), y, calls, patients) for figure in (sensitivity, specificity)
        )
        gain = None if before is None else paired_difference(roc_auc, y, scores, before, patients)
        rows.append(
            {"row": row}
            | columns("auc", auc)
            | columns("sensitivity", found)
            | columns("specificity", cleared)
            | columns("to_row_before", gain)
        )
        before = scores
    results = pd.read_csv(folders["3  + slices"] / "results.csv")
    of_rule = results[(results["encoder"] == RULE) & (results["output"] == OUTPUT) & (results["fraction"] == 1.0)]
    rows.append({name: value for name, value in of_rule.iloc[0].items() if name in rows[0]} | {"row": RULE})
    return pd.DataFrame(rows)


def threshold_of(run: Path, split: str) -> float:
    """At which sensitivity and specificity of a run are equal on the validation patients."""
    figures = json.loads((run / f"{split}_metrics.json").read_text())["outputs"][OUTPUT]
    return float(figures["operating_points"][FIRST_POINT]["threshold"])


def columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """A figure and its bounds, as columns of a table."""
    values = (None,) * 3 if interval is None else (interval.value, interval.low, interval.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


if __name__ == "__main__":
    main()
