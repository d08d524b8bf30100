"""The study, smaller, for metastases on simulated brain MR: does pretraining help? One command, resumable over hours.

    python examples/study/metastasis.py --out study-mr

1. Four cohorts of brains without their skulls, each of its own seed: unlabelled and labelled training volumes,
   validation, and a test cohort that nothing else looks at.
2. Encoders pretrained on all training volumes: SwAV, restoration, and both.
3. One first stage, which marks suspects, learnt from the masks of all labelled training patients: the same for every
   model, so that what differs is what scores the slices.
4. `compare`: each of them and scratch, a quarter and all of the labels, two repeats, the test opened at the end.

What is done in the folder is not done again. Everything here is simulated and says nothing about patients.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from hemorrhage import ARMS as HEMORRHAGE_ARMS
from hemorrhage import Arm, cohorts, pretrained, shared_options

from volssl.bundle.compare import compare
from volssl.bundle.workflow import finetune
from volssl.simulate.cohort import simulate_brain_mr_cohort

ARMS: dict[str, Arm] = {name: HEMORRHAGE_ARMS[name] for name in ("SwAV", "restoration", "combined")}


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
        f"suspect_crop={json.dumps(chosen.suspect_crop)}",
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
    """Sizes of the study."""
    given = shared_options(__doc__.splitlines()[0], list(ARMS))
    given.add_argument("--crop", type=int, nargs=3, default=[64, 80, 20], help="of pretraining's large views, voxels")
    given.add_argument("--small-crop", type=int, nargs=3, default=[48, 60, 12], help="of its small ones")
    given.add_argument("--scored", type=int, default=6, help="slices of a volume that a step of training scores")
    given.add_argument("--suspect-epochs", type=int, default=20, help="of the first stage")
    given.add_argument("--suspect-crop", type=int, nargs=3, default=[32, 32, 16], help="that it learns from, voxels")
    given.set_defaults(unlabelled=300, labelled=240, validation=100, test=200)
    given.set_defaults(grid=[64, 80, 42], simulated=[1.5, 3.0], spacing=[2.4, 2.4, 4.0])
    given.set_defaults(fractions=[0.25, 1.0], seeds=2, epochs=3, cases=20, draws=0)
    return given


if __name__ == "__main__":
    main()
