"""A run that was killed and resumed ends with the bits of one never stopped; a loss that is no number stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import CROPS
from volssl.bundle.workflow import pretrain
from volssl.engine.checkpoint import LAST
from volssl.errors import UserError
from volssl.tensors import load_tensors

WORDS = [
    "max_epochs=3",
    "batch_size=4",
    "workers=0",
    *CROPS,
    "method::queue_length=12",
    "method::queue_start_epoch=1",
    "method::freeze_steps=4",
    "train::trainer::checkpoint_steps=1",
]


def same(a: object, b: object) -> bool:
    """Whether two checkpoints are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    pretrain("swav", store=store, out=run, words=WORDS)
    return run


def start(store: Path, run: Path, method: str = "swav", words: Sequence[str] = WORDS) -> subprocess.Popen[bytes]:
    """The command, in a process of its own that can be killed."""
    code = "import torch; torch.set_num_threads(1); from volssl.cli import main; main()"
    command = ["pretrain", method, "--store", str(store), "--out", str(run), *words]
    command += ["--resume"] if run.is_dir() else []
    return subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.DEVNULL)


def kill_after(process: subprocess.Popen[bytes], run: Path, *, steps: int, delay_s: float) -> None:
    """SIGKILL a little after so many steps stand in the log."""
    log, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.is_file() and log.read_bytes().count(b"\n") >= steps:
            time.sleep(delay_s)
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_resumes_to_the_same_bits(store: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_after(start(store, run), run, steps=2, delay_s=0.01)
    stopped_at = load_tensors(run / LAST)["step"] if (run / LAST).is_file() else 0
    assert start(store, run).wait() == 0
    assert stopped_at < load_tensors(whole / LAST)["step"]
    assert same(load_tensors(whole / LAST), load_tensors(run / LAST))
    assert same(load_tensors(whole / "encoder.pt"), load_tensors(run / "encoder.pt"))
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_many_times_at_random_moments_resumes_to_the_same_bits(
    store: Path, whole: Path, tmp_path: Path, seed: int
) -> None:
    rng, run = np.random.default_rng(seed), tmp_path / "run"
    for _ in range(3):
        kill_after(start(store, run), run, steps=int(rng.integers(0, 6)), delay_s=float(rng.uniform(0, 0.3)))
        if (run / LAST).is_file():
            load_tensors(run / LAST)  # never half-written
    assert start(store, run).wait() == 0
    assert same(load_tensors(whole / LAST), load_tensors(run / LAST))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["combined", "hybrid"])
def test_methods_of_several_parts_killed_half_way_resume_to_the_same_bits(
    store: Path, cohort: Path, tmp_path: Path, method: str
) -> None:
    words = [word.replace("method::", "method::parts::swav::") for word in WORDS] + ["probe_epochs=1"]
    words += ["--labels", str(cohort / "labels.csv")]  # a probe chooses the encoder: its best figure is state too
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(store, whole, method, words).wait() == 0
    total = load_tensors(whole / LAST)["step"]
    kill_after(start(store, run, method, words), run, steps=total // 2 + 2, delay_s=0.01)  # two rows tell of the probe
    assert 0 < load_tensors(run / LAST)["step"] < total
    assert start(store, run, method, words).wait() == 0
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    kept = sorted(path.relative_to(whole) for path in whole.rglob("*.pt"))
    assert kept == sorted(path.relative_to(run) for path in run.rglob("*.pt"))
    for file in kept:
        assert same(load_tensors(whole / file), load_tensors(run / file)), file


def test_two_runs_of_one_command_give_the_same_numbers(store: Path, whole: Path, tmp_path: Path) -> None:
    pretrain("swav", store=store, out=tmp_path / "run", words=[w if w != "workers=0" else "workers=1" for w in WORDS])
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_every_step_is_logged_once_and_the_run_is_complete(whole: Path) -> None:
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    state = load_tensors(whole / LAST)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, state["step"] + 1))
    assert rows[-1]["epoch"] == 3
    for name in ("config.yaml", "encoder.pt", "report.html", "figures/views.png", "figures/curve.png", "tensorboard"):
        assert (whole / name).exists(), name


def test_only_training_patients_were_seen(store: Path, whole: Path) -> None:
    from volssl.data import Store
    from volssl.encoders.file import read_encoder_file

    rows = Store.open(store).rows.to_pandas()
    assert read_encoder_file(whole).patients == set(rows[rows["split"] == "train"]["patient"])


def test_another_seed_is_refused_on_resume_and_the_run_stays_as_it_was(store: Path, whole: Path) -> None:
    before = (whole / "config.yaml").read_text()
    with pytest.raises(UserError, match="begun with seed 0, not 1"):
        pretrain("swav", store=store, out=whole, resume=True, words=["seed=1"])
    assert (whole / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("method", "preset", "word", "told"),
    [
        ("swav", "single", "learning_rate=0.01", "begun with learning_rate .*, not 0.01"),
        ("swav", "single", "method::prototypes=7", "begun with method::prototypes .*, not 7"),
        ("swav", "single", "train::trainer::clip_norm=1.5", "begun with train::trainer::clip_norm 0.0, not 1.5"),
        ("swav", "generic_views", "seed=0", "begun with method::views::_target_ .*MultiCrop, not .*generic"),
        ("restoration", "single", "seed=0", "a run of another method"),
    ],
)
def test_what_a_resumed_run_cannot_take_up_is_refused(
    store: Path, whole: Path, method: str, preset: str, word: str, told: str
) -> None:
    """It would else go on as before, and nobody would know."""
    with pytest.raises(UserError, match=told):
        pretrain(method, store=store, out=whole, preset=preset, resume=True, words=[word])


def test_where_things_are_may_change_on_resume(store: Path, whole: Path) -> None:
    pretrain("swav", store=store, out=whole, resume=True, words=[*WORDS, "train::trainer::checkpoint_steps=1"])


def test_a_folder_with_a_run_is_not_overwritten(store: Path, whole: Path) -> None:
    with pytest.raises(UserError, match="--resume"):
        pretrain("swav", store=store, out=whole, words=WORDS)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from volssl.methods import SwAV

    right, calls = SwAV.losses, []

    def broken(self: SwAV, embedded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        calls.append(0)
        losses = right(self, embedded)
        return {"loss": losses["loss"] * float("nan")} if len(calls) == 4 else losses

    monkeypatch.setattr(SwAV, "losses", broken)
    with pytest.raises(UserError, match=r"the loss is nan at step 4 of 6.*learning_rate"):
        pretrain("swav", store=store, out=tmp_path / "run", words=WORDS)
    state = load_tensors(tmp_path / "run" / LAST)
    assert state["step"] == 3
    assert all(torch.isfinite(v).all() for v in state["method"].values())
