"""Reads what the jobs of a comparison left behind, adds the intensity rule, and writes the tables."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from volssl.bundle.compare_jobs import Basis, Job, by_group
from volssl.bundle.compare_worker import DONE, VALIDATION, robustness_file
from volssl.bundle.runs import write_parquet
from volssl.evaluation.comparison import (
    RULE,
    Group,
    convergence_table,
    course_rows,
    robustness_table,
    summarise,
)
from volssl.evaluation.comparison_page import Found
from volssl.evaluation.convergence import Course
from volssl.evaluation.history import read_history, series_of
from volssl.evaluation.intensity_rule import intensity_counts, rule_predictions
from volssl.evaluation.predictions import evaluate_predictions
from volssl.files import write_text
from volssl.progress import track
from volssl.tasks import BoxCache, TaskViews
from volssl.tasks.inference import labels_of

FIGURES = ("auc", "average_precision", "sensitivity", "specificity")


def read_results(
    basis: Basis, jobs: Sequence[Job], *, split: str, reference: str, boxes: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a job and output, with those of the intensity rule; and `summarise` of them all."""
    groups: list[Group] = []
    rows: list[dict[str, Any]] = []
    for (encoder, mode, fraction), repeats in by_group(jobs):
        done = [json.loads((job.folder / DONE).read_text()) for job in repeats]
        tables = [pd.read_parquet(job.folder / f"{split}.parquet") for job in repeats]
        mean = float(np.mean([_or_nan(one["validation_auc"]) for one in done]))
        groups.append(Group(encoder, mode, fraction, repeats[0].patients, tables, mean))
        for job, one in zip(repeats, done, strict=True):
            metrics = json.loads((job.folder / f"{split}_metrics.json").read_text())
            rows += figure_rows(job, encoder, mode, metrics, {"epochs": job.epochs, **one})
    asked = max(jobs, key=lambda job: len(pd.read_parquet(job.folder / f"{split}.parquet").columns))
    template = pd.read_parquet(asked.folder / f"{split}.parquet")  # of a mode that answers for all outputs
    validation = pd.read_parquet(asked.folder / VALIDATION)
    outputs = [name for name in basis.task.output_names if f"p_{name}" in template]
    counts, known = histograms(basis, [*template["id"], *validation["id"]], boxes)
    for fraction in dict.fromkeys(job.fraction for job in jobs):
        of_fraction = {job.repeat: job for job in jobs if job.fraction == fraction}
        tables = []
        for repeat, job in sorted(of_fraction.items()):
            training = known[known["id"].isin(training_ids(basis, fraction, repeat))]
            scored, rules = rule_predictions(training, template, counts, outputs)
            held_out = None if split == "validation" else rule_predictions(training, validation, counts, outputs)[0]
            metrics = evaluate_predictions(scored, outputs=outputs, validation=held_out)
            told = {"rule": {output: str(rule) for output, rule in rules.items()}}
            rows += figure_rows(job, RULE, RULE, metrics, told)
            tables.append(scored)
        patients = next(iter(of_fraction.values())).patients
        groups.append(Group(RULE, RULE, fraction, patients, tables))
    return pd.DataFrame(rows), summarise(groups, outputs, reference=reference)


def figure_rows(
    job: Job, encoder: str, mode: str, metrics: Mapping[str, Any], told: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The rows of one job: what it was, and its figures for each output."""
    rows = []
    for output, figures in metrics["outputs"].items():
        row: dict[str, Any] = {
            "encoder": encoder,
            "mode": mode,
            "fraction": job.fraction,
            "labelled_patients": job.patients,
            "labelled_studies": job.studies,
            "seed": job.repeat,
            "output": output,
            "n": figures["n"],
            "n_patients": figures["n_patients"],
            "positives": figures["positives"],
        }
        for name in FIGURES:
            figure = figures["metrics"][name]
            row[name] = _or_nan(figure["value"])
            row |= {f"{name}_low": _or_nan(figure["low"]), f"{name}_high": _or_nan(figure["high"])}
        row["rule"] = told.get("rule", {}).get(output, "")
        rows.append(
            row | {name: _or_nan(told.get(name)) for name in ("epochs", "best_epoch", "validation_auc", "seconds")}
        )
    return rows


def histograms(basis: Basis, ids: Sequence[str], boxes: Path) -> tuple[dict[str, npt.NDArray[Any]], pd.DataFrame]:
    """Voxel counts of these volumes and of all labelled training volumes; and the labels of the latter by output."""
    views = TaskViews(basis.task, basis.table, cache=BoxCache(boxes, memory_mb=1))
    training = training_ids(basis, 1.0, 0)
    counts, samples = {}, {}
    for volume_id in track(dict.fromkeys([*training, *ids]), "intensity rule"):
        sample = views(basis.store.scan(volume_id), np.random.RandomState(0))
        counts[volume_id] = intensity_counts(sample["image"])
        samples[volume_id] = {"target": sample["target"]}
    truths = labels_of(basis.task, [samples[key] for key in training])
    return counts, pd.DataFrame([{"id": key} | truth for key, truth in zip(training, truths, strict=True)])


def training_ids(basis: Basis, fraction: float, draw: int) -> list[str]:
    """Keys of the labelled training volumes of a fraction."""
    return [str(key) for key in basis.training_rows(fraction, draw)["id"].to_pylist()]


def read_courses(jobs: Sequence[Job], reference: str) -> dict[str, dict[str, list[Course]]]:
    """By mode and encoder the validation courses of the jobs with the most labels; modes that log none are left out."""
    most = max(job.fraction for job in jobs)
    found: dict[str, dict[str, list[Course]]] = {}
    for (encoder, mode, fraction), repeats in by_group(jobs):
        courses = [course_of(job) for job in repeats]
        if fraction == most and all(course is not None for course in courses):
            found.setdefault(mode, {})[encoder] = [course for course in courses if course is not None]
    return {mode: courses for mode, courses in found.items() if reference in courses}


def course_of(job: Job) -> Course | None:
    """The validation AUC over the epochs of a run; None where there are not two."""
    path = job.folder / "metrics.jsonl"
    epochs, values = series_of(read_history(path), "validation_auc", over="epoch") if path.is_file() else ((), ())
    return Course(np.asarray(epochs), np.asarray(values)) if len(epochs) > 1 else None


def read_answers(
    jobs: Sequence[Job], *, split: str, cases: int, draws: int
) -> dict[str, dict[str, list[pd.DataFrame]]]:
    """By mode and encoder the answers under perturbations of the jobs with the most labels."""
    most = max(job.fraction for job in jobs)
    found: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for (encoder, mode, fraction), repeats in by_group(jobs):
        if draws and fraction == most:
            files = [robustness_file(job.folder, split, cases, draws) for job in repeats]
            found.setdefault(mode, {})[encoder] = [pd.read_parquet(file) for file in files]
    return found


def write_tables(out: Path, results: pd.DataFrame, found: Found) -> list[Path]:
    """Write results.parquet, and every number of the page as CSV; returns the files."""
    write_parquet(results, out / "results.parquet")
    tables = {"results.csv": results, "summary.csv": found.summary}
    if found.convergence:
        tables["convergence.csv"] = _by_mode(found.convergence)
        tables["validation_curves.csv"] = _by_mode({m: course_rows(c) for m, c in found.courses.items()})
    if found.robustness:
        tables["robustness.csv"] = _by_mode(found.robustness)
    for name, table in tables.items():
        text = io.StringIO()
        table.to_csv(text, index=False)
        write_text(out / name, text.getvalue())
    return [out / "results.parquet", *(out / name for name in tables)]


def found_of(
    summary: pd.DataFrame, jobs: Sequence[Job], *, output: str, reference: str, split: str, cases: int, draws: int
) -> Found:
    """What the page shows."""
    courses = read_courses(jobs, reference)
    answers = read_answers(jobs, split=split, cases=cases, draws=draws)
    return Found(
        summary=summary,
        output=output,
        reference=reference,
        courses=courses,
        convergence={mode: convergence_table(of_mode, reference) for mode, of_mode in courses.items()},
        answers=answers,
        robustness={mode: robustness_table(of_mode) for mode, of_mode in answers.items()},
    )


def _by_mode(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table.assign(mode=mode) for mode, table in tables.items()], ignore_index=True)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
