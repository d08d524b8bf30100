"""What a user reads of a pretraining that cannot be: one line, before any step, and no half-made run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from volssl.bundle.workflow import finetune, monai_line, pretrain
from volssl.errors import UserError
from volssl.methods import Progress, SwAV

WORDS = ["max_epochs=1", "batch_size=4", "spacing_mm=[7.0, 7.0, 14.0]", "workers=0"]
CROPS = ["crop_size=[24, 24, 8]"]


def refusal(method: str, store: Path, run: Path, words: list[str], labels: Path | None = None) -> str:
    """The line, after a look at what was left: nothing."""
    with pytest.raises(UserError) as caught:
        pretrain(method, store=store, out=run, labels=labels, words=[*WORDS, *words])
    assert not run.exists()
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


def test_a_refused_fine_tuning_leaves_nothing_and_takes_nothing_away(store: Path, cohort: Path, tmp_path: Path) -> None:
    table = pd.read_csv(cohort / "labels.csv", dtype=str)
    table.assign(study=[f"nobody{i}" for i in range(len(table))]).to_csv(tmp_path / "labels.csv", index=False)
    mine = tmp_path / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("keep me")
    for run in (tmp_path / "runs" / "first", mine.parent, mine.parent / "second"):
        with pytest.raises(UserError, match="none of its 16 studies"):
            finetune("hemorrhage", store=store, labels=tmp_path / "labels.csv", out=run)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["labels.csv", "mine", "notes.txt"]
    assert mine.read_text() == "keep me"


SMALL = [*CROPS, "small_crop_size=[16, 16, 4]"]


def test_what_fails_in_its_first_step_leaves_nothing(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing was saved yet"):
        pretrain("swav", store=store, out=tmp_path / "run", words=[*WORDS, *SMALL, "method::temperature=.nan"])
    assert not (tmp_path / "run").exists()


def test_what_fails_later_leaves_the_log_of_its_steps(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SwAV, progress: Progress) -> None:
        if progress.step == 2:
            raise RuntimeError("the second step")

    monkeypatch.setattr(SwAV, "on_step_end", fail)
    with pytest.raises(RuntimeError):
        pretrain("swav", store=store, out=tmp_path / "run", words=[*WORDS, *SMALL])
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("places", "start"),
    [
        ({}, "python -m monai.bundle run"),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "python -m monai.bundle run"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "torchrun --nproc_per_node=2 -m monai.bundle run"),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, "torchrun --nnodes=2 --nproc_per_node=8 -m monai.bundle run"),
    ],
)
def test_the_line_with_monai_alone_starts_as_many_processes(
    places: dict[str, str], start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    assert monai_line([Path("a.yaml")], {"max_epochs": 2}) == f"{start} --config_file=a.yaml --max_epochs=2"
