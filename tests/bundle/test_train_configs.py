"""The train configs of the task bundles hold together: what two of them have in common means the same in both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from volssl.bundle.config import bundle_config, read_config
from volssl.bundle.shipped import TASK_BUNDLES

# Where a task's config says other, more or less than that of hemorrhage; an entry names all that lies in it too.
ONLY_HEMORRHAGE = {  # may learn from masks beside its labels, and join two series of a study
    "label_table::join",
    "network_def",
    "train::views::masks",
    "train::views::scan_of",
    "train::handlers::3",
    "validate::views",
}
DIFFERENCES = {
    "metastasis": {
        *ONLY_HEMORRHAGE,
        "output_dir",
        "task",
        "max_epochs",  # each volume shows the network many slabs: half the epochs, of smaller batches
        "batch_size",
        "scored",
        # network_def is of slabs, with its first stage and the patients of that
        "suspects",
        "suspects_path",
        "suspect_epochs",
        "suspect_crop",
        "suspect_folds",
        "first_stage",
        "earlier_patients",
        "imports",
        "initialize",
        "train::dataset::modality",  # CT is what is taken where none is named
        "validate::dataset::modality",
    },
    "classification": {
        *ONLY_HEMORRHAGE,
        "output_dir",
        "task",
        "label_table::classes",  # of columns that the user names, where others are required
        "label_table::required_columns",
        "train::dataset::modality",
        "validate::dataset::modality",
    },
}


def train_config(task: str) -> dict[str, Any]:
    """Its leaves by place."""
    return dict(leaves(read_config(bundle_config(TASK_BUNDLES[task], "train"))))


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """`train::handlers::1::patience` and what stands there; a list of words or numbers is one leaf."""
    parts: dict[Any, Any] = value if isinstance(value, dict) else {}
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        parts = dict(enumerate(value))
    if not parts:
        yield place, value
    for key, part in parts.items():
        yield from leaves(part, f"{place}::{key}".removeprefix("::"))


@pytest.mark.parametrize("task", DIFFERENCES)
def test_train_configs_differ_only_where_their_tasks_do(task: str) -> None:
    usual, other = train_config("hemorrhage"), train_config(task)
    differing = {key for key in {**usual, **other} if key not in usual or key not in other or usual[key] != other[key]}
    named = {next((name for name in DIFFERENCES[task] if f"{key}::".startswith(f"{name}::")), key) for key in differing}
    assert named == DIFFERENCES[task]
    assert set(usual["initialize"]) <= set(other["initialize"])


def test_every_task_that_is_fine_tuned_is_held() -> None:
    assert {"hemorrhage", *DIFFERENCES} == set(TASK_BUNDLES)


def test_a_setting_is_explained_alike_wherever_it_stands() -> None:
    explained: dict[str, set[str]] = {}
    for bundle in TASK_BUNDLES.values():
        for line in bundle_config(bundle, "train")[-1].read_text().splitlines():
            setting, _, comment = line.partition("#")
            key = setting.partition(":")[0]
            if key.isidentifier() and comment:
                explained.setdefault(key, set()).add(comment.strip())
    assert len(explained) > 15
    assert {key for key, comments in explained.items() if len(comments) > 1} == {"labels"}  # which columns it has
