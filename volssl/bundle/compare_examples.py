"""Studies to look at on the page of a comparison: of the run that validation patients favour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from volssl.bundle.compare_jobs import Basis, Job, percent
from volssl.bundle.compare_worker import DONE
from volssl.bundle.evaluate import looked_at
from volssl.bundle.runs import load_run
from volssl.evaluation.examples import Example, worked_examples
from volssl.evaluation.output import FIRST_POINT
from volssl.evaluation.page import readable
from volssl.tasks import BoxCache, TaskViews


def examples_of(basis: Basis, jobs: Sequence[Job], *, split: str, boxes: Path) -> tuple[str, list[Example]]:
    """Whose they are, and one study of each kind of `worked_examples`."""
    job = favoured(jobs)
    predictions = pd.read_parquet(job.folder / f"{split}.parquet")
    outputs = [name for name in basis.task.output_names if f"p_{name}" in predictions]
    points = json.loads((job.folder / f"{split}_metrics.json").read_text())["outputs"][outputs[0]]["operating_points"]
    network, store = load_run(job.folder).network, basis.store
    views = TaskViews(basis.task, basis.table, cache=BoxCache(boxes, memory_mb=1), scan_of=store.scan)
    examples = worked_examples(
        predictions,
        outputs,
        names={output: readable(output) for output in outputs},
        threshold=points[FIRST_POINT]["threshold"] if points else None,
        image_of=lambda volume_id: views.preprocessed(store.scan(volume_id))[0][0].numpy(),
        looked_of=lambda volume_id: looked_at(network, views, store.scan(volume_id)),
        of_each=1,
    )
    return f"{job.arm.name}, {percent(job.fraction)} of labels, repeat {job.repeat + 1}", examples


def favoured(jobs: Sequence[Job]) -> Job:
    """Of the jobs with the most labels, and of the first mode, the one of highest validation AUC."""
    most = max(job.fraction for job in jobs)
    rivals = [job for job in jobs if job.fraction == most and job.mode == jobs[0].mode]
    return max(rivals, key=lambda job: json.loads((job.folder / DONE).read_text())["validation_auc"] or 0.0)
