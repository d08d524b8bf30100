"""A network's answers for many scans, as one table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from volssl.progress import track
from volssl.tasks.base import Task
from volssl.tasks.views import TaskViews
from volssl.views.base import Scan

END = 1e4  # a logit as good as infinite


@torch.no_grad()
def predict_table(network: nn.Module, scans: Sequence[Scan], views: TaskViews, *, batch_size: int = 16) -> pd.DataFrame:
    """Predict scan after scan.

    Args:
        network: returns logits (B, T); it is left in the mode it was in.
        scans: one row each.
        views: without random changes; its task names the outputs; with labels, the table has the labels too.
        batch_size: scans at once; it changes no answer.

    Returns:
        A row a scan: `id`, `p_<output>` and, where labels are given, `y_<output>`; slices are lists.
    """
    task = views.task
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    rows: list[dict[str, object]] = []
    try:
        for start in track(range(0, len(scans), batch_size), "predicting", (len(scans) + batch_size - 1) // batch_size):
            part = scans[start : start + batch_size]
            samples = [views(scan, np.random.RandomState(0)) for scan in part]
            logits = network(torch.stack([sample["image"] for sample in samples]).to(device)).float().cpu()
            answers = columns("p", task.predictions(logits), len(part))
            truths = labels_of(task, samples)
            rows += [{"id": scan.id} | a | t for scan, a, t in zip(part, answers, truths, strict=True)]
    finally:
        network.train(was_training)
    return pd.DataFrame(rows)


def labels_of(task: Task, samples: Sequence[dict[str, Tensor]]) -> list[dict[str, object]]:
    """The targets of a batch by output: a target of 0 or 1 is its own probability, through the logit's two ends.

    The ends are finite, since among classes infinities have no difference; float32 makes 0 and 1 of them all the same.
    """
    if "target" not in samples[0]:
        return [{} for _ in samples]
    targets = torch.stack([sample["target"] for sample in samples])
    ends = torch.where(targets > 0.5, END, -END)
    known = task.predictions(torch.where(torch.isnan(targets), torch.nan, ends))
    return columns("y", known, len(samples))


def columns(prefix: str, values: dict[str, Tensor], count: int) -> list[dict[str, object]]:
    """Tensors over a batch -> one mapping a sample."""
    return [
        {f"{prefix}_{name}": v[i].tolist() if v.ndim > 1 else float(v[i]) for name, v in values.items()}
        for i in range(count)
    ]
