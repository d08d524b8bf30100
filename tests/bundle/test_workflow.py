"""Pretraining and fine-tuning as the bundles wire them: whom they see, what is refused, and the same by MONAI alone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tests.tiny import CROPS, TINY
from volssl.bundle import training_data, workflow
from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.workflow import finetune, pretrain
from volssl.data import Store, StoredScan
from volssl.encoders import load_encoder
from volssl.encoders.file import read_encoder_file
from volssl.engine import MethodTrainer
from volssl.errors import UserError
from volssl.tensors import load_tensors, save_tensors

PRETRAINING = (*TINY, *CROPS, "method::queue_length=0")
FINETUNING = ("max_epochs=1", "batch_size=4", "task::grid=[24, 28, 10]")


@pytest.fixture(scope="module")
def swav(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "swav"
    pretrain("swav", store=store, out=run, words=PRETRAINING)
    return run


@pytest.fixture(scope="module")
def hemorrhage(store: Path, cohort: Path, swav: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "hemorrhage"
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=run, encoder=swav, words=FINETUNING)
    return run


@pytest.fixture
def read_ids(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The volumes of which anything is read from here on."""
    ids: set[str] = set()
    read = StoredScan.read

    def told(self: StoredScan, box: Any = None) -> Any:
        ids.add(self.id)
        return read(self, box)

    monkeypatch.setattr(StoredScan, "read", told)
    return ids


def splits_of(store: Path, ids: set[str]) -> set[str]:
    rows = Store.open(store).rows.select(["id", "split"]).to_pylist()
    return {row["split"] for row in rows if row["id"] in ids}


def patient_of(store: Path, split: str) -> str:
    rows = Store.open(store).rows.select(["patient", "split"]).to_pylist()
    return next(row["patient"] for row in rows if row["split"] == split)


def tampered(run: Path, copy: Path, name: str, **changes: Any) -> Path:
    """A copy of a run in which one of its files says something else."""
    shutil.copytree(run, copy)
    save_tensors(copy / name, load_tensors(run / name) | changes)
    return copy


def test_pretraining_reads_no_volume_of_a_validation_or_test_patient(
    store: Path, tmp_path: Path, read_ids: set[str]
) -> None:
    pretrain("swav", store=store, out=tmp_path / "run", words=PRETRAINING)
    assert splits_of(store, read_ids) == {"train"}


def test_fine_tuning_reads_no_volume_of_a_test_patient(
    store: Path, cohort: Path, tmp_path: Path, read_ids: set[str]
) -> None:
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", words=FINETUNING)
    assert splits_of(store, read_ids) == {"train", "validation"}
    seen = set(load_tensors(tmp_path / "run" / "model.pt")["patients"])
    assert patient_of(store, "train") in seen
    assert not seen & {patient_of(store, "validation"), patient_of(store, "test")}


def test_the_patients_of_pretraining_stay_on_the_fine_tuned_runs_list(
    store: Path, cohort: Path, swav: Path, tmp_path: Path
) -> None:
    stranger = tampered(swav, tmp_path / "encoder", "encoder.pt", patients=["f" * 24])
    finetune(
        "hemorrhage",
        store=store,
        labels=cohort / "labels.csv",
        out=tmp_path / "run",
        encoder=stranger,
        words=FINETUNING,
    )
    assert "f" * 24 in load_tensors(tmp_path / "run" / "model.pt")["patients"]
    assert "f" * 24 in read_encoder_file(tmp_path / "run").patients


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_encoder_that_saw_a_patient_to_be_tested_is_refused(
    store: Path, cohort: Path, swav: Path, tmp_path: Path, split: str
) -> None:
    seen = tampered(swav, tmp_path / "encoder", "encoder.pt", patients=[patient_of(store, split)])
    with pytest.raises(UserError, match=r"1 patients of validation and test were seen in training") as caught:
        finetune(
            "hemorrhage",
            store=store,
            labels=cohort / "labels.csv",
            out=tmp_path / "run",
            encoder=seen,
            words=FINETUNING,
        )
    assert "\n" not in str(caught.value)


def test_evaluation_refuses_a_test_patient_who_was_seen(
    store: Path, cohort: Path, hemorrhage: Path, tmp_path: Path
) -> None:
    labels = cohort / "labels.csv"
    metrics = evaluate_run(hemorrhage, store=store, labels=labels, split="test", out=tmp_path / "test")
    assert metrics["n_studies"] == len([s for s in Store.open(store).rows["split"].to_pylist() if s == "test"])
    patients = [*load_tensors(hemorrhage / "model.pt")["patients"], patient_of(store, "test")]
    seen = tampered(hemorrhage, tmp_path / "run", "model.pt", patients=patients)
    with pytest.raises(UserError, match=r"1 patients of validation and test were seen in training"):
        evaluate_run(seen, store=store, labels=labels, split="test", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_of_another_architecture_is_refused_in_one_line(
    store: Path, cohort: Path, swav: Path, tmp_path: Path
) -> None:
    labels = cohort / "labels.csv"
    with pytest.raises(UserError, match=r"fills \d+% of the network's tensors and 90% are needed") as caught:
        finetune(
            "hemorrhage",
            store=store,
            labels=labels,
            out=tmp_path / "run",
            encoder=swav,
            words=[*FINETUNING, "network_settings={growth: 8}"],
        )
    assert "\n" not in str(caught.value)
    other = tampered(swav, tmp_path / "other", "encoder.pt", encoder="Swin")
    with pytest.raises(UserError, match="Swin: no such encoder, did you mean SwinUNETR"):
        finetune("hemorrhage", store=store, labels=labels, out=tmp_path / "run", encoder=other, words=FINETUNING)
    words = [*FINETUNING, "network=DenseNet121", "task::grid=[32, 32, 32]"]
    with pytest.raises(UserError, match="holds a PaperDenseNet, this run builds a DenseNet121"):
        finetune("hemorrhage", store=store, labels=labels, out=tmp_path / "third", encoder=swav, words=words)
    with pytest.raises(UserError, match=r"Swin: no such encoder.*another version of volssl"):
        load_encoder(other)


def test_an_encoder_that_was_fed_something_else_is_refused(
    store: Path, cohort: Path, swav: Path, tmp_path: Path
) -> None:
    labels = cohort / "labels.csv"
    for word, reason in (
        ("task::grid=[96, 112, 40]", "7.0 mm along R and would be fed 1.75 mm"),
        ("task::window_hu=[40, 80]", r"window_hu \(55, 200\) and would be fed \(40.0, 80.0\)"),
    ):
        words = ["max_epochs=1", "batch_size=4", "task::grid=[24, 28, 10]", word]
        with pytest.raises(UserError, match=reason):
            finetune("hemorrhage", store=store, labels=labels, out=tmp_path / "run", encoder=swav, words=words)


def first_weights(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, torch.Tensor]:
    """The encoder's weights when fine-tuning would take its first step."""
    states: list[dict[str, torch.Tensor]] = []

    def stay(self: MethodTrainer) -> None:
        states.append({key: value.clone() for key, value in self.method.encoder.state_dict().items()})

    monkeypatch.setattr(MethodTrainer, "run", stay)
    monkeypatch.setattr(workflow, "write_pretrain_report", lambda run, **_: None)
    monkeypatch.setattr(training_data, "keep_training_data", lambda run: None)
    finetune("hemorrhage", words=FINETUNING, **options)
    return states[0]


def test_fine_tuning_begins_with_the_encoders_weights_or_with_fresh_ones(
    store: Path, cohort: Path, swav: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"store": store, "labels": cohort / "labels.csv"}
    scratch = first_weights(monkeypatch, out=tmp_path / "a", **given)
    again = first_weights(monkeypatch, out=tmp_path / "b", **given)
    begun = first_weights(monkeypatch, out=tmp_path / "c", encoder=swav, **given)
    pretrained = read_encoder_file(swav).state_dict
    assert all(torch.equal(scratch[key], again[key]) for key in scratch)
    assert begun.keys() == pretrained.keys()
    assert all(torch.equal(begun[key], pretrained[key]) for key in begun)
    assert not torch.equal(begun["compress.weight"], scratch["compress.weight"])


def test_a_frozen_encoder_ends_as_it_began(store: Path, cohort: Path, swav: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": store, "labels": cohort / "labels.csv", "encoder": swav, "words": FINETUNING}
    before = read_encoder_file(swav).state_dict
    for mode, stays in (("frozen", True), ("full", False)):
        finetune("hemorrhage", out=tmp_path / mode, mode=mode, **options)
        after = read_encoder_file(tmp_path / mode).state_dict
        assert all(torch.equal(before[key], after[key]) for key in before) == stays


def test_a_fraction_uses_that_share_of_the_training_patients(store: Path, cohort: Path, tmp_path: Path) -> None:
    words = ["max_epochs=1", "batch_size=2", "task::grid=[24, 28, 10]"]
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", fraction=0.5, words=words)
    rows = Store.open(store).rows.select(["patient", "split"]).to_pylist()
    training = {row["patient"] for row in rows if row["split"] == "train"}
    used = set(load_tensors(tmp_path / "run" / "model.pt")["patients"])
    assert len(used) == -(-len(training) // 2)
    assert used < training


def test_the_line_with_monai_alone_gives_the_same_weights(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ours = tmp_path / "run", tmp_path / "ours"
    pretrain("swav", store=store, out=run, words=PRETRAINING)
    line = next(text for text in capsys.readouterr().err.splitlines() if "monai.bundle run" in text)
    run.rename(ours)
    python, *words = shlex.split(line.split(": ", 1)[1])
    assert python == "python"
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], env=one_thread, cwd=tmp_path, capture_output=True, check=True)
    mine, theirs = read_encoder_file(ours), read_encoder_file(run)
    assert mine.contract == theirs.contract
    assert mine.patients == theirs.patients
    assert all(torch.equal(mine.state_dict[key], theirs.state_dict[key]) for key in mine.state_dict)
    assert (ours / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert read_config(ours / "config.yaml") == read_config(run / "config.yaml")


@pytest.mark.parametrize(
    ("bundle", "name", "words"),
    [
        ("volume_pretraining", "swav", PRETRAINING),
        ("head_ct_hemorrhage_classification", "train", FINETUNING),
    ],
)
def test_monai_finds_all_that_it_wants_in_a_training_bundle(
    store: Path, cohort: Path, tmp_path: Path, bundle: str, name: str, words: tuple[str, ...]
) -> None:
    files = bundle_config(bundle, name)
    values = read_config(files)
    given = {"dataset_dir": str(store), "output_dir": str(tmp_path / "run"), "labels": str(cohort / "labels.csv")}
    override = {key: value for key, value in given.items() if key in values} | parse_overrides(values, words)
    meta = files[0].parent / "metadata.json"
    config = [str(path) for path in files]
    trained = ConfigWorkflow(config, meta_file=str(meta), logging_file=False, workflow_type="train", **override)
    trained.initialize()
    assert trained.check_properties() == []


def test_the_runs_config_is_the_resolved_one_and_builds_the_same_network(hemorrhage: Path) -> None:
    values = read_config(hemorrhage / "config.yaml")
    assert values["max_epochs"] == 1
    assert values["task"]["grid"] == [24, 28, 10]
    network = ConfigParser(values).get_parsed_content("network_def")
    assert network(torch.zeros(2, 1, 24, 28, 10)).shape == (2, 1 + 5 + 10)


def test_a_crop_larger_than_the_volumes_is_padded_with_the_windows_lowest_value(store: Path) -> None:
    wide = {"crop_size": [48, 56, 24], "spacing_mm": [12.0, 12.0, 24.0], "dataset_dir": str(store)}
    dataset = ConfigParser(resolved(read_config(bundle_config("volume_pretraining", "swav")), wide)).get_parsed_content(
        "train::dataset"
    )
    dataset.views.noise, dataset.views.shift = 0.0, (0.0, 0.0)
    crop = dataset[0, 0]["crop0"]
    assert crop.shape == (1, 48, 56, 24)
    assert crop[:, :4].abs().max() == 0
    assert crop[:, -4:].abs().max() == 0
    assert crop.max() > 0.5


@pytest.mark.parametrize(("name", "hint"), [("hemorhage", "did you mean hemorrhage"), ("stroke", "there are")])
def test_a_task_that_does_not_exist_is_refused_with_those_there_are(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        finetune(name, store=tmp_path, labels=tmp_path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_where_nothing_was_begun_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run there to go on with"):
        pretrain("swav", store=store, out=tmp_path / "run", resume=True)


def test_a_refused_start_leaves_no_folder_that_looks_like_a_run(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean max_epochs"):
        pretrain("swav", store=store, out=tmp_path / "run", words=["max_epoch=1"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="fewer than one batch of 1000"):
        pretrain("swav", store=store, out=tmp_path / "run", words=["batch_size=1000"])
    pretrain("swav", store=store, out=tmp_path / "run", words=PRETRAINING)  # the folder may be used again
    assert (tmp_path / "run" / "encoder.pt").is_file()


def test_the_chain_behind_a_refusal_ends(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store") as caught:
        pretrain("swav", store=tmp_path / "none", out=tmp_path / "run")
    chain: list[BaseException] = [caught.value]
    error = caught.value.__cause__
    while error is not None:
        assert all(error is not earlier for earlier in chain)  # readers of tracebacks walk it to the end
        chain.append(error)
        error = error.__cause__ or error.__context__
    assert len(chain) > 1


def test_pretraining_goes_on_from_an_earlier_encoder_and_keeps_its_patients(
    store: Path, swav: Path, tmp_path: Path
) -> None:
    earlier = tampered(swav, tmp_path / "earlier", "encoder.pt", patients=["f" * 24])
    pretrain("swav", store=store, out=tmp_path / "run", encoder=earlier, words=[*PRETRAINING, "learning_rate=0.0"])
    before, after = (load_tensors(run / "encoder.pt") for run in (earlier, tmp_path / "run"))
    # without a learning rate the weights are those of the earlier run
    assert torch.equal(before["state_dict"]["stem.0.weight"], after["state_dict"]["stem.0.weight"])
    assert set(after["patients"]) == {"f" * 24} | set(load_tensors(swav / "encoder.pt")["patients"])
