"""What a user reads of a pretraining that cannot be: one line, before any step, and no half-made run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from volssl.bundle.workflow import pretrain
from volssl.errors import UserError

WORDS = ["max_epochs=1", "batch_size=4", "spacing_mm=[7.0, 7.0, 14.0]", "workers=0"]
CROPS = ["crop_size=[24, 24, 8]"]


def refusal(method: str, store: Path, run: Path, words: list[str], labels: Path | None = None) -> str:
    """The line, after a look at what was left."""
    with pytest.raises(UserError) as caught:
        pretrain(method, store=store, out=run, labels=labels, words=[*WORDS, *words])
    assert not (run / "checkpoints").exists(), "or the folder could not be used again"
    assert not (run / "encoder.pt").exists()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_hybrid_wants_labels(store: Path, tmp_path: Path) -> None:
    assert "give --labels a CSV" in refusal("hybrid", store, tmp_path / "run", CROPS)


@pytest.mark.parametrize("method", ["restoration", "hybrid"])
def test_labels_that_fit_no_study_are_refused(store: Path, cohort: Path, tmp_path: Path, method: str) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    table.assign(study=[f"nobody{i}" for i in range(len(table))]).to_csv(tmp_path / "labels.csv", index=False)
    told = refusal(method, store, tmp_path / "run", CROPS, tmp_path / "labels.csv")
    assert "none of its 16 studies is in the store" in told


@pytest.mark.parametrize(("method", "what"), [("restoration", "give labels of both"), ("hybrid", "both are needed")])
def test_labels_of_one_class_are_refused(store: Path, cohort: Path, tmp_path: Path, method: str, what: str) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    types = [column for column in table if set(table[column].dropna()) <= {"0", "1"}]
    table.assign(**dict.fromkeys(types, "0"), slices="").to_csv(tmp_path / "labels.csv", index=False)
    assert what in refusal(method, store, tmp_path / "run", CROPS, tmp_path / "labels.csv")


@pytest.mark.parametrize("fraction", [0, 2])
def test_a_fraction_is_a_share(store: Path, cohort: Path, tmp_path: Path, fraction: int) -> None:
    words = [*CROPS, f"fraction={fraction}"]
    told = refusal("restoration", store, tmp_path / "run", words, cohort / "labels.csv")
    assert told.startswith(f"fraction={fraction}: give a share")


@pytest.mark.parametrize(
    ("method", "pairs", "what"),
    [("simclr", "nonsense", "choose one of volume, series"), ("swav", "patient", "looks at one volume at a time")],
)
def test_pairs_are_known_and_of_use(store: Path, tmp_path: Path, method: str, pairs: str, what: str) -> None:
    assert what in refusal(method, store, tmp_path / "run", [*CROPS, f"pairs={pairs}"])
