"""The log of a run, read back: numbers by step or epoch, sentences apart."""

from __future__ import annotations

import json
from pathlib import Path

from volssl.evaluation.history import read_history, scalars_in, sentences_in, series_of

ROWS = [
    {"step": 0, "epoch": 0, "probe_knn_auc": 0.5},
    {"step": 2, "epoch": 1, "loss": 3.0},
    {"step": 2, "epoch": 1, "warning": "step 2: the first"},
    {"step": 2, "epoch": 1, "probe_knn_auc": 0.75},
    {"step": 4, "epoch": 2, "loss": 2.0},
    {"step": 4, "epoch": 2, "warning": "step 4: the second"},
]


def written(run: Path) -> list[dict[str, object]]:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return read_history(run / "metrics.jsonl")


def test_rows_of_one_step_with_other_names_stand_beside_each_other(tmp_path: Path) -> None:
    assert written(tmp_path) == ROWS


def test_a_scalar_is_given_over_steps_or_epochs_and_sentences_are_no_scalars(tmp_path: Path) -> None:
    rows = written(tmp_path)
    assert [list(part) for part in series_of(rows, "loss")] == [[2, 4], [3, 2]]
    assert [list(part) for part in series_of(rows, "probe_knn_auc", over="epoch")] == [[0, 1], [0.5, 0.75]]
    assert [len(part) for part in series_of(rows, "warning")] == [0, 0]
    assert scalars_in(rows) == ["probe_knn_auc", "loss"]
    assert sentences_in(rows, "warning") == ["step 2: the first", "step 4: the second"]
