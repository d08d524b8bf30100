"""`volssl compare`: did pretraining help? Encoders × label fractions × repeats × modes, fairly, in one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from volssl.bundle.compare_examples import examples_of
from volssl.bundle.compare_jobs import SCRATCH, Basis, Job, percent, plan_jobs, read_arms, read_basis
from volssl.bundle.compare_results import found_of, read_results, write_tables
from volssl.bundle.compare_runner import common_words, evaluate_all, train_all
from volssl.bundle.simulated import simulated_notice
from volssl.errors import UserError
from volssl.evaluation.comparison import RULE, interval_of
from volssl.evaluation.comparison_page import Found, write_comparison_page
from volssl.evaluation.page import readable
from volssl.files import write_text
from volssl.progress import console, counted, say

OPENED = "opened.json"  # in the folder: the jobs, each time that the test split was opened
FRACTIONS = (0.1, 0.25, 0.5, 1.0)  # of the paper's Table 2


def compare(
    task: str,
    *,
    store: Path,
    labels: Path,
    encoders: Sequence[str],
    out: Path,
    fractions: Sequence[float] = FRACTIONS,
    seeds: int = 5,
    modes: Sequence[str] = ("full",),
    split: str = "test",
    target: str = "",
    cases: int = 50,
    draws: int = 50,
    workers: int = 2,
    words: Sequence[str] = (),
) -> list[Path]:
    """Fine-tune all, open the test split once when all are done, and write the tables and the page.

    What is done already in `out` is not done again; a job that was stopped goes on where it was.

    Args:
        task: of `volssl finetune`.
        store, labels: what is learnt from, and evaluated on.
        encoders: `scratch`, runs of `volssl pretrain`, or NAME=RUN.
        out: folder of the runs, the tables and the page.
        fractions: of the labelled training patients.
        seeds: repeats, each with its own seed and draw of labelled patients; the same ones for all encoders.
        modes: of `volssl finetune`.
        split: `test`, or `validation`: the test then stays closed.
        target: label columns of `classification`, parted by commas.
        cases, draws: of the robustness figures; 0 draws leave them out.
        workers: jobs at once, each with one thread; the figures do not depend on it.
        words: `KEY=VALUE` overrides of the task's train config, the same for all; max_epochs is that of all labels.

    Returns:
        The files that were written, the page first.

    Raises:
        UserError: for what does not fit together, or where a job failed; the others are kept.
    """
    if split not in ("test", "validation"):
        raise UserError(f"split {split}: unknown; choose test, or validation to leave the test closed")
    if min(seeds, workers, cases) < 1 or draws < 0:
        raise UserError("--seeds, --workers and --cases are 1 or more, --draws 0 or more")
    arms = read_arms(encoders)
    basis = read_basis(task, store=store, labels=labels, arms=arms, words=words, target=target)
    jobs = plan_jobs(basis, arms, modes=modes, fractions=fractions, repeats=seeds, out=out)
    output = basis.task.selection[0]
    reference = SCRATCH if any(arm.name == SCRATCH for arm in arms) else arms[0].name
    common = common_words(
        basis, store=store, labels=labels, out=out, split=split, output=output, cases=cases, draws=draws
    )
    say(f"{counted(len(jobs), 'job')} of {budget(basis, jobs)}; {counted(workers, 'worker')} with one thread each")
    train_all(jobs, common, workers=workers)
    if split == "test":
        note_opening(out, jobs)
    evaluate_all(jobs, common, robust=max(fractions), workers=workers)
    results, summary = read_results(basis, jobs, split=split, reference=reference, boxes=Path(common["boxes"]))
    found = found_of(summary, jobs, output=output, reference=reference, split=split, cases=cases, draws=draws)
    page = write_comparison_page(
        out,
        found,
        title=f"Did pretraining help? {readable(basis.task.name)}, {split} patients",
        facts=facts(found, jobs, split=split),
        equal=equal_lines(basis, jobs, split=split, words=words, cases=cases, draws=draws),
        notes=notes(jobs, out, split=split),
        simulated=simulated_notice(basis.store),
        examples=examples_of(basis, jobs, split=split, boxes=Path(common["boxes"])),
    )
    console.print(summary_table(found, split))
    return [page, *write_tables(out, results, found)]


def budget(basis: Basis, jobs: Sequence[Job]) -> str:
    """How long each job trains, in steps."""
    batch = int(basis.values["batch_size"])
    steps = sorted({job.epochs * (job.studies // batch) for job in jobs})
    told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return f"{told} steps of {batch} studies"


def note_opening(out: Path, jobs: Sequence[Job]) -> None:
    """Keep a record of every time that the test split is opened for jobs that were not among those before.

    A job is its folder's name and a hash of its settings: one that was deleted and made anew otherwise is another.
    """
    path = out / OPENED
    opened: list[list[str]] = json.loads(path.read_text()) if path.is_file() else []
    known = {name for before in opened for name in before}  # without a hash, of a folder of before they were kept
    names = sorted(f"{job.folder.name} {job.settings_sha256}" for job in jobs)
    if any(name not in known and name.partition(" ")[0] not in known for name in names):
        if opened:
            say(f"the test split was opened {times(len(opened))} before, for other jobs; the page says so")
        write_text(path, json.dumps([*opened, names]) + "\n")


def facts(found: Found, jobs: Sequence[Job], *, split: str) -> dict[str, str]:
    """What was compared, for the head of the page."""
    row = found.summary[found.summary["output"] == found.output].iloc[0]
    fewest, most = min(job.patients for job in jobs), max(job.patients for job in jobs)
    return {
        "Output": readable(found.output),
        "Split": split,
        "Evaluated": f"{row['n']:,} studies of {row['n_patients']:,} patients",
        "Labelled training patients": f"{fewest:,} to {most:,}" if fewest < most else f"{most:,}",
        "Repeats": str(max(job.repeat for job in jobs) + 1),
        "Modes": ", ".join(found.modes),
        "Jobs": f"{len(jobs):,}",
    }


def equal_lines(
    basis: Basis, jobs: Sequence[Job], *, split: str, words: Sequence[str], cases: int, draws: int
) -> list[str]:
    """What was the same for all models, a line each."""
    contract = basis.task.contract
    grid = "×".join(map(str, contract.grid))
    shares = sorted({job.fraction for job in jobs})
    nested = f", and those of {percent(shares[0])} lie among those of every larger share" if len(shares) > 1 else ""
    drawn = " Patients are drawn anew for each repeat." if shares[0] < 1 else ""
    lines = [
        f"Architecture {basis.values['network']} with one head, fed {grid} voxels.",
        f"Budget: {budget(basis, jobs)}, to a rounded epoch: the same number of optimizer steps for every encoder and "
        "every share of labels (equal epochs would have starved the small shares), one schedule, and validations after "
        "the same number of steps.",
        f"Labels: in each repeat all encoders learn from the same patients{nested}.{drawn}",
        f"Search: none of any model’s own. Settings for all alike: {' '.join(words) or 'the defaults'}.",
        "Choice: each run keeps the epoch of the highest AUC on the same validation patients.",
        f"Evaluation: the same {split} patients, bootstrap draws and seeds.",
    ]
    if draws:
        lines.append(
            f"Robustness: the same {cases} cases, half of them positive where there are enough; {draws} draws each."
        )
    return lines


def notes(jobs: Sequence[Job], out: Path, *, split: str) -> list[str]:
    """What a reader must know of choice and chance, a line each."""
    if split == "test":
        opened = len(json.loads((out / OPENED).read_text()))
        done = "the job was done" if len(jobs) == 1 else f"all {len(jobs)} jobs were done"
        first = (
            f"The test split was opened once in this folder, when {done}."
            if opened == 1
            else f"The test split was opened {times(opened)} in this folder: jobs were added or changed after it had "
            "been seen. What was added may have been chosen by it."
        )
        first += " Evaluations elsewhere are not counted."
    else:
        first = (
            "The test split is closed. The figures are of the validation patients, by whom epochs and thresholds were "
            "chosen as well: they flatter all models."
        )
    return [
        first,
        "An interval says how far a figure would move with other patients. Repeats are averaged, not drawn: seeds and "
        "labelled patients are those of this comparison.",
        "Each interval holds for itself; of twenty differences that are none, one is expected clear of zero.",
        "Epochs saved are those of fine-tuning; what pretraining took is not counted against them.",
    ]


def times(count: int) -> str:
    """`once`, `twice`, `3 times`."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def summary_table(found: Found, split: str) -> Table:
    """The main output for the terminal: a row a model and share of labels."""
    shown = Table(title=f"{split}: AUC of {found.output}; 95 % intervals", title_justify="left", box=box.SIMPLE)
    for column in ("", "labels", "AUC", f"difference to {found.reference}"):
        shown.add_column(column, no_wrap=True)
    rows = found.summary[found.summary["output"] == found.output].sort_values("fraction", kind="stable")
    for row in rows.to_dict("records"):
        name = row["encoder"] if row["mode"] in ("full", RULE) else f"{row['encoder']}, {row['mode']}"
        shown.add_row(name, percent(row["fraction"]), said(row, "auc"), said(row, "to_reference"))
    return shown


def said(row: pd.Series, name: str) -> str:
    """A figure with its interval, or nothing."""
    interval = interval_of(row, name)
    return "" if interval is None else str(interval)
