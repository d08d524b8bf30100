"""The small weights of bundles/, made by one command: simulate, pretrain, fine-tune, evaluate, export into the recipes.

    python examples/study/weights.py --hemorrhage study --metastasis study-mr --bundles bundles

`study` and `study-mr` are folders of the two studies, or new ones; either may be left out. What is done there, cohorts
and the pretraining, is not done again. The encoder is pretrained by SwAV and restoration together, the classifiers
start from it and learn from all labels. Everything is simulated: the weights show how a bundle runs, and say nothing
about patients.
"""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path

import hemorrhage
import metastasis

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.export import export_run
from volssl.bundle.score_encoder import score_encoder
from volssl.bundle.workflow import finetune
from volssl.encoders import load_encoder
from volssl.simulate.cohort import simulate_brain_mr_cohort, simulate_cohort
from volssl.tasks import Hemorrhage

ARM = "combined"


def main(words: list[str] | None = None) -> None:
    """Make the weights of the bundles whose study is named."""
    chosen = options().parse_args(words)
    if chosen.hemorrhage:
        from_head_ct(chosen)
    if chosen.metastasis:
        from_brain_mr(chosen)


def from_head_ct(chosen: argparse.Namespace) -> None:
    """`volume_pretraining`, and the classifier of hemorrhage."""
    given = hemorrhage.options().parse_args(["--out", str(chosen.hemorrhage), *shlex.split(chosen.hemorrhage_options)])
    store, labels = hemorrhage.cohorts(given.out, given, simulate_cohort)
    arm, run = hemorrhage.ARMS[ARM], given.out / "pretraining" / ARM
    encoder = hemorrhage.pretrained(arm, store, run, hemorrhage.look(given))
    score_encoder(
        encoder / "encoder.pt",
        encoder=load_encoder(encoder)[0],
        task=Hemorrhage(grid=given.grid, window_hu=given.window),
        store=store,
        labels=labels,
        split="test",
        out=encoder / "test",
    )
    export_run(encoder, chosen.bundles / "volume_pretraining")
    run = finetuned("hemorrhage", store, labels, given.out / "weights", encoder, hemorrhage.task_words(given))
    export_run(run, chosen.bundles / "head_ct_hemorrhage_classification")


def from_brain_mr(chosen: argparse.Namespace) -> None:
    """The classifier of metastasis."""
    given = metastasis.options().parse_args(["--out", str(chosen.metastasis), *shlex.split(chosen.metastasis_options)])
    store, labels = hemorrhage.cohorts(given.out, given, partial(simulate_brain_mr_cohort, stripped=True))
    arm, run = metastasis.ARMS[ARM], given.out / "pretraining" / ARM
    encoder = hemorrhage.pretrained(arm, store, run, metastasis.look(given))
    stage = f"suspects_path={metastasis.first_stage(given, store, labels).resolve()}"
    words = (*metastasis.task_words(given), f"suspect_epochs={given.suspect_epochs}", stage)
    run = finetuned("metastasis", store, labels, given.out / "weights", encoder, words)
    export_run(run, chosen.bundles / "brain_mr_metastasis_classification")


def finetuned(task: str, store: Path, labels: Path, run: Path, encoder: Path, words: tuple[str, ...]) -> Path:
    """Fine-tune all weights on all labels, unless it is done, and evaluate on the test patients; returns the run."""
    if not (run / "model.pt").is_file():
        finetune(task, store=store, labels=labels, out=run, encoder=encoder, resume=run.is_dir(), words=words)
    evaluate_run(run, store=store, labels=labels, split="test", out=run / "test")
    return run


def options() -> argparse.ArgumentParser:
    """Where things are."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--hemorrhage", type=Path, help="folder of that study")
    given.add_argument("--metastasis", type=Path, help="folder of that study")
    given.add_argument("--bundles", type=Path, default=Path("bundles"), help="the recipes that are filled")
    given.add_argument("--hemorrhage-options", default="", metavar="WORDS", help="of that study, as one string")
    given.add_argument("--metastasis-options", default="", metavar="WORDS")
    return given


if __name__ == "__main__":
    main()
