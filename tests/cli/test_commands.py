"""The commands as they are typed: the whole line, what each ends with, and what machines read."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer.main

import volssl
from tests.data.sources import write_nifti
from tests.tiny import CROPS, TINY
from volssl import cli
from volssl.bundle.embed import Embedding
from volssl.bundle.next_step import export_line
from volssl.bundle.shipped import PRETRAINING, presets, train_configs
from volssl.data import Store
from volssl.encoders import load_encoder

Command = Callable[..., Any]
COMMANDS = [
    "simulate head-ct", "simulate brain-mr", "prepare", "inspect", "check", "split", "labels", "pretrain", "estimate",
    "finetune", "evaluate", "compare", "embed", "export", "predict", "demo",
]  # fmt: skip


def strict_json(text: str) -> object:
    """JSON as other languages read it: without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def wrote(answer: Any) -> list[str]:
    return [line.removeprefix("wrote ") for line in answer.lines if line.startswith("wrote ")]


def ends_with(answer: Any, command: str) -> bool:
    """Whether the last line names the command to run next."""
    return answer.lines[-1].startswith(f"next: {command}")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_shows_an_example_of_it(volssl_command: Command, command: str) -> None:
    answer = volssl_command(*command.split(), "--help")
    assert answer.code == 0
    assert f"Example: volssl {command} " in " ".join(answer.out.split())


@pytest.mark.parametrize("command", ["pretrain", "estimate"])
def test_the_help_names_every_method_and_preset_that_is_shipped(volssl_command: Command, command: str) -> None:
    told = set(re.findall(r"\w+", volssl_command(command, "--help").out))
    methods = train_configs(PRETRAINING)
    assert {"swav", "swin_unetr"} < set(methods) < told
    assert {"single", "paper"} < set().union(*(presets(PRETRAINING, name) for name in methods)) < told


def test_every_command_has_a_help_that_is_tested() -> None:
    group = typer.main.get_command(cli.app)
    names = {*group.commands} - {"simulate"} | {f"simulate {name}" for name in group.commands["simulate"].commands}
    assert names == set(COMMANDS)


def test_the_version_is_the_packages(volssl_command: Command) -> None:
    answer = volssl_command("--version")
    assert (answer.code, answer.out.strip()) == (0, volssl.__version__)


def test_simulate_then_prepare(volssl_command: Command, tmp_path: Path) -> None:
    cohort, store = tmp_path / "cohort", tmp_path / "store"
    made = volssl_command(
        "simulate", "head-ct", "--n", 2, "--out", cohort, "--spacing-mm", 6, "--slice-mm", 9, "--workers", 1
    )
    assert (made.code, made.out) == (0, "")  # what is meant for people goes to stderr
    assert not any("\x1b[" in line for line in made.lines)  # no colours where there is no terminal
    assert wrote(made) == [str(cohort), str(cohort / "labels.csv")]
    assert ends_with(made, f"volssl prepare {cohort}")
    assert len(pd.read_csv(cohort / "labels.csv")) == 2
    stored = volssl_command("prepare", cohort, "--store", store, "--workers", 1, "--json")
    assert stored.code == 0
    assert ends_with(stored, f"volssl pretrain swav --store {store}")
    facts = strict_json(stored.out)
    assert isinstance(facts, dict)
    assert (facts["stored"], facts["volumes"], sum(facts["splits"].values())) == (2, 2, 2)


def test_inspect_lists_each_source_and_writes_a_page(
    volssl_command: Command, cohort: Path, store: Path, tmp_path: Path
) -> None:
    listed = volssl_command("inspect", store, "--paths")
    lines = [line.split("\t") for line in listed.out.splitlines()]
    assert {Path(line[-1]) for line in lines} == set((cohort / "volumes").iterdir())
    assert {line[1] for line in lines} == {"stored"}
    page = volssl_command("inspect", store, "--out", tmp_path / "page.html")
    assert wrote(page) == [str(tmp_path / "page.html")]
    assert volssl_command("inspect", store).code == 2


def test_check_names_a_damaged_volume_and_fails(volssl_command: Command, store: Path, tmp_path: Path) -> None:
    assert volssl_command("check", store).code == 0
    copy = shutil.copytree(store, tmp_path / "copy")
    file = sorted((copy / "volumes").iterdir())[3]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    found = volssl_command("check", copy, "--json")
    assert found.code == 1
    assert [damage["id"] for damage in json.loads(found.out)] == [file.stem]
    assert any(str(file) in line for line in found.lines)


def test_an_estimate_names_time_memory_and_the_run_it_is_of(volssl_command: Command, store: Path) -> None:
    answer = volssl_command("estimate", "swav", "--store", store, "--steps", 2, "--json", *TINY, *CROPS)
    assert answer.code == 0
    facts = strict_json(answer.out)
    assert isinstance(facts, dict)
    assert facts["volumes"] == Store.open(store).rows["split"].to_pylist().count("train")
    assert 0 < facts["step_s"] < 60
    assert answer.lines[-1].startswith(f"next: volssl pretrain swav --store {store} --out runs/swav max_epochs=1 ")
    assert shlex.split(answer.lines[-1])[-len(CROPS) :] == CROPS


def test_what_is_suggested_of_a_store_of_mr_starts(volssl_command: Command, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for i in range(3):
        noise = np.random.RandomState(i).gamma(2.0, 100.0, (28, 32, 12)).astype(np.float32)
        write_nifti(tmp_path / "mr" / f"{i}.nii.gz", noise, np.diag([6.0, 6.0, 12.0, 1.0]))
    write_nifti(tmp_path / "mr" / "copy.nii.gz", noise + 1, np.diag([6.0, 6.0, 12.0, 1.0]))
    table = "study,patient,split\n" + "".join(f"{name},{name},train\n" for name in ("0", "1", "2", "copy"))
    (tmp_path / "patients.csv").write_text(table)
    given = ["--store", store, "--modality", "MR", "--patients", tmp_path / "patients.csv", "--workers", 1]
    prepared = volssl_command("prepare", tmp_path / "mr", *given)
    line = f"next: volssl pretrain swav --store {store} --out runs/swav modality=MR batch_size=3"
    assert prepared.lines[-1] == line
    assert volssl_command("split", store).lines[-1] == line
    page = volssl_command("inspect", store, "--out", tmp_path / "page.html")
    assert page.lines[-1].endswith(line.removeprefix("next: "))
    words = shlex.split(line.removeprefix("next: volssl ").replace("runs/swav", str(tmp_path / "run")))
    answer = volssl_command(*words, "max_epochs=1", "workers=0", *CROPS, "method::queue_length=0")
    assert answer.code == 0
    assert load_encoder(tmp_path / "run")[1].modality == "MR"
    assert ends_with(answer, f"volssl finetune metastasis --store {store}")


@pytest.mark.parametrize(
    ("task", "bundle"),
    [
        ("_target_: volssl.tasks.Hemorrhage", "head_ct_hemorrhage_classification"),
        ("_target_: volssl.tasks.Metastasis", "brain_mr_metastasis_classification"),
        ("_target_: volssl.tasks.Classification, columns: [a], classes: {a: ['0', '1']}", "volume_classification"),
    ],
)
def test_the_export_that_is_suggested_goes_into_the_bundle_of_the_runs_task(
    tmp_path: Path, task: str, bundle: str
) -> None:
    (tmp_path / "config.yaml").write_text(f"task: {{{task}}}")
    assert export_line(tmp_path) == f"volssl export {tmp_path} --bundle out/{bundle}"


def test_split_prints_the_table_and_draws_folds(
    volssl_command: Command, cohort: Path, store: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    drawn = volssl_command(
        "split", copy, "--labels", cohort / "labels.csv", "--stratify", "hemorrhage", "--folds", 3, "--json"
    )
    assert drawn.code == 0
    rows = Store.open(copy).rows.to_pylist()
    assert {row["fold"] for row in rows if row["split"] != "test"} == {0, 1, 2}
    assert {row["fold"] for row in rows if row["split"] == "test"} == {None}
    assert isinstance(strict_json(drawn.out), dict)
    table = volssl_command("split", copy)
    assert {"train", "validation", "test"} <= set(" ".join(table.lines).split())


def test_pretrain_finetune_evaluate_export_and_predict(
    volssl_command: Command, store: Path, cohort: Path, tmp_path: Path
) -> None:
    labels, swav, run = cohort / "labels.csv", tmp_path / "swav", tmp_path / "hemorrhage"
    answer = volssl_command("pretrain", "swav", "--store", store, "--out", swav, *TINY, *CROPS)
    assert answer.code == 0
    assert wrote(answer) == [str(swav / "encoder.pt"), str(swav / "report.html")]
    assert ends_with(answer, f"volssl finetune hemorrhage --store {store}")

    given = ["--store", store, "--labels", labels]
    words = [*TINY, "task::grid=[24, 28, 10]"]
    answer = volssl_command("finetune", "hemorrhage", *given, "--encoder", swav, "--out", run, *words)
    assert answer.code == 0
    assert "weights: 80 tensors loaded (100%)" in answer.lines
    assert str(run / "model.pt") in wrote(answer)
    assert ends_with(answer, f"volssl evaluate {run}")

    answer = volssl_command("evaluate", run, *given, "--out", tmp_path / "test", "--json")
    assert answer.code == 0
    metrics = strict_json(answer.out)
    assert isinstance(metrics, dict)
    table = pd.read_parquet(tmp_path / "test" / "predictions.parquet")
    test_ids = [row["id"] for row in Store.open(store).rows.to_pylist() if row["split"] == "test"]
    assert sorted(table["id"]) == sorted(test_ids)
    assert metrics["n_studies"] == len(test_ids)
    assert ends_with(answer, f"volssl export {run} --bundle out/head_ct_hemorrhage_classification")

    bundle = tmp_path / "bundle" / "head_ct_hemorrhage_classification"
    answer = volssl_command("export", run, "--bundle", bundle)
    assert answer.code == 0
    assert (bundle / "models" / "model.pt").is_file()
    assert ends_with(answer, f"volssl predict {bundle}")

    row = table.iloc[0]
    volume = source_of(store, str(row["id"]))
    answer = volssl_command("predict", bundle, volume, "--out", tmp_path / "answer", "--json")
    assert answer.code == 0
    (told,) = strict_json(answer.out)  # type: ignore[misc]
    assert told["volume"]["hemorrhage"] == pytest.approx(row["p_hemorrhage"], abs=1e-4)
    first = next(index for index, line in enumerate(answer.lines) if str(volume) in line)
    assert told["notice"] in answer.lines[:first]
    assert ends_with(answer, f"open {tmp_path / 'answer' / 'answers.csv'}")


def source_of(store: Path, volume_id: str) -> Path:
    """The file that a volume was read from."""
    return Path(pd.read_csv(store / "paths.csv").set_index("key")["path"][volume_id])


@pytest.mark.parametrize(("command", "does_its_part"), [("check", False), ("finetune", True)])
def test_beside_the_first_process_only_training_does_anything(
    volssl_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, does_its_part: bool
) -> None:
    """Under torchrun every process gets the same line: what is not done together is done once."""
    words = (
        [tmp_path] if command == "check" else ["hemorrhage", "--store", tmp_path, "--labels", tmp_path, "--out", "o"]
    )
    assert volssl_command(command, *words).code == 1  # no store there
    monkeypatch.setenv("RANK", "1")
    assert volssl_command(command, *words).code == int(does_its_part)


@pytest.mark.parametrize("page", [True, False])
def test_embed_names_the_page_of_prototypes_where_it_wrote_one(
    volssl_command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: bool
) -> None:
    files = (tmp_path / "embeddings.parquet", *[tmp_path / "prototypes.html"] * page)
    found = Embedding(pd.DataFrame({"id": ["a"]}), np.zeros((1, 2), np.float32), None, files)
    monkeypatch.setattr("volssl.bundle.embed.embed_run", lambda *_, **__: found)
    said = volssl_command("embed", tmp_path / "run", "--store", tmp_path, "--out", tmp_path)
    assert said.code == 0
    assert said.lines[-1].endswith(f"STUDY, or open {tmp_path}/prototypes.html" if page else "--neighbours STUDY")
