"""The modes and options of `volssl finetune`: each does what it says, and ends in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from volssl.bundle import frozen
from volssl.bundle.config import bundle_config, read_config, resolved
from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.export import export_run
from volssl.bundle.next_step import export_line
from volssl.bundle.runs import load_run
from volssl.bundle.workflow import finetune
from volssl.data import Store, TrainingScans, join_labels
from volssl.data.balance import BalancedSamples
from volssl.encoders.file import read_encoder_file
from volssl.engine.checkpoint import LAST
from volssl.errors import UserError
from volssl.evaluation import feature_cache
from volssl.evaluation.features import pooled_features
from volssl.evaluation.knn import knn_scores
from volssl.evaluation.probe import linear_probe
from volssl.tasks import TaskViews
from volssl.tasks.inference import predict_table
from volssl.tensors import load_tensors

GRID = "task::grid=[24, 28, 10]"
WORDS = ["batch_size=4", GRID]


@pytest.fixture(scope="module")
def runs(store: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a probe and with neighbours on one encoder of random weights."""
    folder = tmp_path_factory.mktemp("adapting")
    for mode in ("probe", "knn"):
        finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=folder / mode, mode=mode, words=[GRID])
    return folder


def sides(run: Path, store: Path, labels: Path) -> dict[str, Any]:
    """Features and labels of both sides, beside the answers of the run's network."""
    model = load_run(run)
    table = join_labels(Store.open(store), labels, model.task.label_columns)
    views = TaskViews(model.task, table)
    found: dict[str, Any] = {}
    for split in ("train", "validation"):
        scans = TrainingScans(store, views=views, labels=table, split=split).scans
        encoder: Any = model.network.encoder
        found[split] = pooled_features(encoder, scans, views), predict_table(model.network, scans, views)
    return found


@pytest.mark.parametrize("output", ["hemorrhage", "intraparenchymal"])
def test_a_probe_as_a_network_answers_as_scikit_learn_does(runs: Path, store: Path, cohort: Path, output: str) -> None:
    (train, _), (validation, answers) = sides(runs / "probe", store, cohort / "labels.csv").values()
    probe = linear_probe(train.features, train.labels[output], validation.features, validation.labels[output])
    np.testing.assert_allclose(answers[f"p_{output}"], probe.scores(validation.features), atol=1e-5)
    assert answers[f"p_{output}"].std() > 1e-4


def test_neighbours_as_a_network_answer_as_scikit_learn_does(runs: Path, store: Path, cohort: Path) -> None:
    (train, _), (validation, answers) = sides(runs / "knn", store, cohort / "labels.csv").values()
    scores = knn_scores(train.features, train.labels["hemorrhage"], validation.features)
    np.testing.assert_allclose(answers["p_hemorrhage"], scores, atol=1e-4)


@pytest.mark.parametrize("mode", ["probe", "knn"])
def test_a_run_on_frozen_features_has_the_files_of_any_run_and_is_evaluated(
    runs: Path, store: Path, cohort: Path, tmp_path: Path, mode: str
) -> None:
    for name in ("config.yaml", "model.pt", "encoder.pt", "metrics.jsonl", "report.html"):
        assert (runs / mode / name).is_file(), name
    training = {r["patient"] for r in Store.open(store).rows.to_pylist() if r["split"] == "train"}
    assert set(load_tensors(runs / mode / "model.pt")["patients"]) == training
    metrics = evaluate_run(
        runs / mode, store=store, labels=cohort / "labels.csv", split="validation", out=tmp_path / "out"
    )
    assert metrics["n_studies"] == Store.open(store).rows["split"].to_pylist().count("validation")
    with pytest.raises(UserError, match="holds a run already"):
        finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=runs / mode, mode=mode, words=[GRID])


def test_a_probe_is_exported_and_neighbours_are_refused_for_what_they_hold(runs: Path, tmp_path: Path) -> None:
    export_run(runs / "probe", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "models" / "model.pt").is_file()
    with pytest.raises(UserError, match="would hold features of the training patients"):
        export_run(runs / "knn", tmp_path / "other")
    assert export_line(runs / "knn") == ""  # so nobody is sent there
    assert not (tmp_path / "other").exists()


def test_features_are_extracted_once_for_both_modes_and_anew_for_other_weights(
    runs: Path, store: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list((runs / "features").iterdir())) == 1

    asked: list[object] = []

    def never(encoder: object, *_: object, **__: object) -> None:
        asked.append(encoder)
        raise UserError("features were extracted")

    monkeypatch.setattr(feature_cache, "encode", never)
    options: dict[str, Any] = {"store": store, "labels": cohort / "labels.csv", "mode": "probe"}
    finetune("hemorrhage", out=runs / "again", words=[GRID], **options)
    assert asked == []
    with pytest.raises(UserError, match="features were extracted"):
        finetune("hemorrhage", out=runs / "other", words=[GRID, "seed=1"], **options)
    assert len(asked) == 1


def test_an_option_without_use_is_told_and_slices_are_refused(
    store: Path, cohort: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="mode knn answers for volumes"):
        finetune(
            "hemorrhage",
            store=store,
            labels=cohort / "labels.csv",
            out=tmp_path / "run",
            mode="knn",
            words=[GRID, "task::slices=true", "ema=0.9"],
        )
    assert "mode knn trains no encoder: ema=0.9 changes nothing" in capsys.readouterr().err


def test_one_class_alone_gives_its_smoothed_log_odds() -> None:
    assert frozen.constant(np.zeros(9), 1) == pytest.approx([np.log(0.5 / 9.5)])
    assert frozen.constant(np.zeros(0), 1) == pytest.approx([0.0])
    assert frozen.constant(np.full(4, 2.0), 3) == pytest.approx(np.log([0.5, 0.5, 4.5]))


def test_patience_ends_a_run_that_does_not_get_better_and_resuming_leaves_it(
    store: Path, cohort: Path, tmp_path: Path
) -> None:
    words = [*WORDS, "max_epochs=6", "patience=2", "learning_rate=0.0"]
    options: dict[str, Any] = {
        "store": store,
        "labels": cohort / "labels.csv",
        "out": tmp_path / "run",
        "mode": "frozen",
    }
    finetune("hemorrhage", words=words, **options)
    last = load_tensors(tmp_path / "run" / LAST)
    per_epoch = last["step"] // 3
    assert last["step"] == 3 * per_epoch  # epoch 1 is the best, and two more
    assert load_tensors(tmp_path / "run" / "model.pt")["epoch"] == 1
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "2 epochs without a better AUC" in log
    finetune("hemorrhage", words=[], resume=True, **options)
    assert load_tensors(tmp_path / "run" / LAST)["step"] == last["step"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == log


def test_what_is_validated_and_saved_is_the_average(store: Path, cohort: Path, tmp_path: Path) -> None:
    words = [*WORDS, "max_epochs=1", "ema=0.5"]
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", words=words)
    state = load_tensors(tmp_path / "run" / LAST)
    average = {n.removeprefix("module."): v for n, v in state["handlers"]["WeightAverage"].items()}
    saved = load_tensors(tmp_path / "run" / "model.pt")["network"]
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    encoder = read_encoder_file(tmp_path / "run").state_dict
    assert all(torch.equal(encoder[name], average[f"encoder.{name}"]) for name in encoder)
    trained = state["method"]["network.labels.weight"]
    assert not torch.equal(saved["labels.weight"], trained)


def test_mirrored_answers_are_part_of_the_bundle(store: Path, cohort: Path, tmp_path: Path) -> None:
    words = [*WORDS, "max_epochs=1", "flips=true"]
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", words=words)
    export_run(tmp_path / "run", tmp_path / "bundle")
    network = ConfigParser(read_config(tmp_path / "bundle" / "configs" / "inference.yaml")).get_parsed_content(
        "network_def"
    )
    network.load_state_dict(load_tensors(tmp_path / "bundle" / "models" / "model.pt"))
    x = torch.rand(1, 1, 24, 28, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mirrored = network.eval()(x)
        torch.testing.assert_close(mirrored, network(x.flip(2)))
        assert (mirrored - network.logits(x)).abs().max() > 1e-6


@pytest.mark.parametrize("bundle", ["head_ct_hemorrhage_classification", "volume_classification"])
def test_the_options_of_a_config_reach_what_they_are_for(bundle: str, store: Path, cohort: Path) -> None:
    given: dict[str, Any] = {
        "dataset_dir": str(store),
        "labels": str(cohort / "labels.csv"),
        "task::grid": [24, 28, 10],
        "mode": "last",
        "last_levels": 2,
        "layer_decay": 0.5,
        "patience": 3,
        "ema": 0.9,
        "flips": True,
    }
    if bundle == "volume_classification":
        given |= {"task::columns": ["hemorrhage"], "task::classes": {"hemorrhage": ["0", "1"]}}

    def built(name: str, **more: Any) -> Any:
        return ConfigParser(resolved(read_config(bundle_config(bundle, "train")), given | more)).get_parsed_content(
            name
        )

    trainer = built("train::trainer", balance="sampling", batch_size=4, output_dir="unused")
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3])
    assert isinstance(trainer.dataset, BalancedSamples)
    average, validation, keeper, *_ = trainer.extra_handlers
    assert (average.decay, validation.patience, average.trained.flips) == (0.9, 3, True)
    assert validation.network is average.network
    assert keeper.encoder is average.network.encoder
    weights = built("method", balance="weights").row_weights
    assert float(weights.mean()) == pytest.approx(1.0)
    assert len(set(weights.tolist())) == 2
    assert built("method").row_weights is None
