"""Runs the jobs of a comparison, several at once, each in a process of its own; what is done is not done again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from volssl.bundle.compare_jobs import Basis, Job
from volssl.bundle.compare_worker import DONE, LOG, robustness_file
from volssl.errors import UserError
from volssl.progress import bar, counted, say

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def train_all(jobs: Sequence[Job], common: Mapping[str, Any], *, workers: int) -> None:
    """Train every job that is not done; one that fails keeps none of the others.

    Raises:
        UserError: where any failed, after all others are done; or a folder was made with other settings.
    """
    for job in jobs:
        job.begin()
    waiting = [job for job in jobs if not (job.folder / DONE).is_file()]
    if len(waiting) < len(jobs):
        say(f"{len(jobs) - len(waiting)} of {counted(len(jobs), 'job')} are done already")

    def told(job: Job) -> str:
        done = json.loads((job.folder / DONE).read_text())
        seconds = "" if done["seconds"] is None else f", {done['seconds']:.0f} s"
        return f"validation AUC {done['validation_auc']:.3f} at epoch {done['best_epoch']}{seconds}"

    run_all([(job, words_for(job, common, "train")) for job in waiting], "training", workers=workers, told=told)


def evaluate_all(jobs: Sequence[Job], common: Mapping[str, Any], *, robust: float, workers: int) -> None:
    """Predict the split with every job, and perturb the images for those of fraction `robust`.

    Raises:
        UserError: where any failed, after all others are done.
    """
    waiting = []
    for job in jobs:
        told = words_for(job, common, "evaluate")
        told["draws"] = common["draws"] if job.fraction == robust else 0
        files = [job.folder / f"{common['split']}{end}" for end in (".parquet", "_metrics.json")]
        if told["draws"]:
            files.append(robustness_file(job.folder, common["split"], common["cases"], common["draws"]))
        if not all(file.is_file() for file in files):
            waiting.append((job, told))
    run_all(waiting, f"evaluating on {common['split']} patients", workers=workers)


def words_for(job: Job, common: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What a worker is told of a job."""
    own = {
        "part": part,
        "run": str(job.folder),
        "encoder": str(job.arm.encoder or ""),
        "mode": job.mode,
        "fraction": job.fraction,
        "words": [*job.settings["words"], f"cache::folder={common['boxes']}"],
    }
    return {**common, **own}


def common_words(
    basis: Basis, *, store: Path, labels: Path, out: Path, split: str, output: str, cases: int, draws: int
) -> dict[str, Any]:
    """What every worker is told alike; `boxes` is where preprocessed volumes are shared."""
    told: dict[str, Any] = {"task": basis.task.name, "split": split, "output": output, "cases": cases, "draws": draws}
    places = {"store": store, "labels": labels, "boxes": out / "boxes"}
    return told | {name: str(path.resolve()) for name, path in places.items()}


def run_all(
    parts: Sequence[tuple[Job, Mapping[str, Any]]],
    title: str,
    *,
    workers: int,
    told: Callable[[Job], str] | None = None,
) -> None:
    """Run parts of jobs, `workers` at once, and say of each when it is done."""
    failures: dict[str, str] = {}
    started: list[subprocess.Popen[str]] = []
    pool = ThreadPoolExecutor(workers)
    try:
        with bar() as progress:
            shown = progress.add_task(title, total=len(parts))
            pending = {pool.submit(run_part, job, part, started): job for job, part in parts}
            for count, future in enumerate(as_completed(pending), start=1):
                job, error = pending[future], future.result()
                progress.advance(shown)
                if error is not None:
                    failures[job.name] = error
                    say(f"[{count}/{len(parts)}] {job.name}: failed: {error}")
                elif told is not None:
                    say(f"[{count}/{len(parts)}] {job.name}: {told(job)}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in started:
            cut_loose(process)
        pool.shutdown()
    if failures:
        name, error = next(iter(failures.items()))
        raise UserError(
            f"{title}: {len(failures)} of {counted(len(parts), 'job')} failed, the others are kept; the first is "
            f"{name}: {error}; repair it and run the same command again"
        )


def run_part(job: Job, part: Mapping[str, Any], started: list[subprocess.Popen[str]]) -> str | None:
    """Run one part in a process, which is put on the list; None, or in one line why it failed."""
    log = job.folder / LOG
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "volssl.bundle.compare_worker"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ONE_THREAD},
            text=True,
        )
        started.append(process)
        with contextlib.suppress(BrokenPipeError):  # it died before it read: its exit code tells
            print(json.dumps(part), file=process.stdin, flush=True)
        code = process.wait()
        cut_loose(process)
    if code == 0:
        return None
    said = log.read_text(errors="replace").strip().splitlines()
    if code > 0 and said and said[-1].startswith("error: "):
        return said[-1].removeprefix("error: ")
    return f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'} (see {log})"


def cut_loose(process: subprocess.Popen[str]) -> None:
    """Close the input of a process: one that still works takes it for our end, and stops."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
