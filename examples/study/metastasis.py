"""The study, smaller, for metastases on simulated brain MR: does pretraining help? One command, resumable over hours.

    python examples/study/metastasis.py --out study-mr

1. Four cohorts of brains without their skulls, each of its own seed: unlabelled and labelled training volumes,
   validation, and a test cohort that nothing else looks at.
2. Encoders pretrained on all training volumes: SwAV, restoration, and both.
3. One first stage, which marks suspects, learnt from the masks of all labelled training patients: the same for every
   model, so that what differs is what scores the slices.
4. `compare`: each of them and scratch, a quarter and all of the labels, three repeats, the test opened at the end.

What is done in the folder is not done again. Everything here is simulated and says nothing about patients.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from hemorrhage import BOXES, Arm, cohorts, pretrained

from volssl.bundle.compare import compare
from volssl.bundle.workflow import finetune
from volssl.simulate.cohort import simulate_brain_mr_cohort

ZOOM = "zoom=[[0.8, 1.1], [0.9, 1.2]]"
ARMS: dict[str, Arm] = {
    "SwAV": ("swav", "", (f"method::views::{ZOOM}",)),
    "restoration": ("restoration", "", tuple(f"method::views::{word}" for word in BOXES)),
    "combined": (
        "combined",
        "",
        (f"method::parts::swav::views::{ZOOM}", *(f"method::parts::restoration::views::{word}" for word in BOXES)),
    ),
}


def main(words: list[str] | None = None) -> None:
    """Run all four parts."""
    chosen = options().parse_args(words)
    out: Path = chosen.out
    store, labels = cohorts(out, chosen, partial(simulate_brain_mr_cohort, stripped=True))
    runs = {name: pretrained(ARMS[name], store, out / "pretraining" / name, look(chosen)) for name in chosen.arms}
    task = task_words(chosen)
    first = first_stage(chosen, store, labels)
    compare(
        "metastasis",
        store=store,
        labels=labels,
        encoders=["scratch", *(f"{name}={run}" for name, run in runs.items())],
        fractions=chosen.fractions,
        seeds=chosen.seeds,
        split=chosen.split,
        cases=chosen.cases,
        draws=chosen.draws,
        workers=chosen.workers,
        out=out / "comparison",
        words=(*task, f"suspects_path={first.resolve()}"),
    )


def look(chosen: argparse.Namespace) -> tuple[str, ...]:
    """What every pretraining is told."""
    return (
        "modality=MR",
        f"spacing_mm={json.dumps(chosen.spacing)}",
        f"crop_size={json.dumps(chosen.crop)}",
        f"small_crop_size={json.dumps(chosen.small_crop)}",
        f"max_epochs={chosen.pretraining_epochs}",
        *chosen.pretraining,
    )


def task_words(chosen: argparse.Namespace) -> tuple[str, ...]:
    """What every fine-tuning is told."""
    return (
        f"task::grid={json.dumps(chosen.grid)}",
        f"task::spacing_mm={json.dumps(chosen.spacing)}",
        f"scored={chosen.scored}",
        f"max_epochs={chosen.epochs}",
        *chosen.finetuning,
    )


def first_stage(chosen: argparse.Namespace, store: Path, labels: Path) -> Path:
    """Learn to mark suspects from all masks, unless it is done; returns a run whose first stage it is."""
    run = Path(chosen.out) / "suspects"
    if not (run / "model.pt").is_file():
        words = (*task_words(chosen), f"suspect_epochs={chosen.suspect_epochs}", "max_epochs=1")
        finetune("metastasis", store=store, labels=labels, out=run, resume=run.is_dir(), words=words, ranges=False)
    return run


def options() -> argparse.ArgumentParser:
    """Sizes of the study; the defaults are those of docs/results.md."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--unlabelled", type=int, default=300, help="training volumes without a label")
    given.add_argument("--labelled", type=int, default=80, help="training volumes with one")
    given.add_argument("--validation", type=int, default=100, help="volumes")
    given.add_argument("--test", type=int, default=200, help="volumes")
    given.add_argument("--grid", type=int, nargs=3, default=[64, 80, 42], help="voxels along R, A, S")
    given.add_argument("--crop", type=int, nargs=3, default=[64, 80, 20], help="of pretraining's large views, voxels")
    given.add_argument("--small-crop", type=int, nargs=3, default=[48, 60, 12], help="of its small ones")
    given.add_argument("--simulated", type=float, nargs=2, default=[1.5, 4.0], help="mm in plane and of a slice")
    given.add_argument("--spacing", type=float, nargs=3, default=[2.4, 2.4, 4.0], help="mm")
    given.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given.add_argument("--fractions", type=float, nargs="+", default=[0.25, 1.0])
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--scored", type=int, default=10, help="slices of a volume that a step of training scores")
    given.add_argument("--pretraining-epochs", type=int, default=15)
    given.add_argument("--suspect-epochs", type=int, default=15, help="of the first stage")
    given.add_argument("--epochs", type=int, default=8, help="of the second stage with all labels")
    given.add_argument("--pretraining", nargs="*", default=[], metavar="KEY=VALUE", help="for every pretraining")
    given.add_argument("--finetuning", nargs="*", default=[], metavar="KEY=VALUE", help="for every fine-tuning")
    given.add_argument("--split", default="test", help="validation leaves the test closed")
    given.add_argument("--cases", type=int, default=20)
    given.add_argument("--draws", type=int, default=0, help="of the robustness figures")
    given.add_argument("--workers", type=int, default=2)
    return given


if __name__ == "__main__":
    main()
