"""The bundle of a pretraining run: it answers with the feature of `volssl embed`, and MONAI's checks pass."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow, ckpt_export, create_workflow, load, onnx_export, verify_net_in_out
from monai.data import MetaTensor
from sklearn.metrics import roc_auc_score

from tests.bundle.conftest import CROP
from tests.scans import noise_scan
from volssl.bundle.embed import embed_run, middle_crop
from volssl.bundle.embedding import EmbeddingNetwork, MiddleCropd
from volssl.bundle.predict import predict_studies
from volssl.bundle.ranges import PooledFeature
from volssl.bundle.score_encoder import score_encoder
from volssl.bundle.verify import check_bundle, config_findings
from volssl.contract import InputContract
from volssl.data import Store, TrainingScans, join_labels
from volssl.encoders import PaperDenseNet, load_encoder, save_encoder
from volssl.errors import UserError, user_error_in
from volssl.evaluation.features import pooled_features
from volssl.evaluation.knn import knn_scores
from volssl.evaluation.probe import linear_probe
from volssl.tasks import Hemorrhage, Metastasis, TaskViews
from volssl.tensors import load_tensors, save_tensors


@pytest.fixture(scope="module")
def run(swav_run: Path) -> Path:
    return swav_run


@pytest.fixture(scope="module")
def bundle(swav_bundle: Path) -> Path:
    return swav_bundle


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that is neither the bundle's nor the repository's."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def files(bundle: Path) -> dict[str, str]:
    return {"config_file": str(bundle / "configs/inference.yaml"), "meta_file": str(bundle / "configs/metadata.json")}


def test_a_file_has_the_feature_that_embed_gives_its_volume_in_the_store(
    bundle: Path, run: Path, store: Path, cohort: Path, tmp_path: Path
) -> None:
    volumes = sorted((cohort / "volumes").glob("*.nii.gz"))[:3]
    answers = predict_studies(bundle, volumes, tmp_path / "answers")
    embed_run(run, store=store, out=tmp_path / "embedded")
    table = np.stack(pq.read_table(tmp_path / "embedded" / "embeddings.parquet")["feature"].to_pylist())
    for answer in answers:
        apart = np.abs(table - np.array(answer.content["embedding"])).max(axis=1)
        assert apart.min() < 1e-5
        assert (apart < 1e-3).sum() == 1  # the other scans have other features
    written = pd.read_csv(tmp_path / "answers" / "answers.csv")
    assert [written[f"feature_{index}"][0] for index in (0, 1023)] == pytest.approx(
        [answers[0].content["embedding"][index] for index in (0, 1023)]
    )
    assert not {"volume", "types", "slices"} & set(answers[0].content)
    assert "simulated" in answers[0].content["notice"]


def test_monai_runs_it_with_the_answers_of_predict(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    study = sorted((cohort / "volumes").glob("*.nii.gz"))[0]
    workflow = create_workflow(
        **files(bundle), workflow_type="inference", bundle_root=str(bundle), dataset_dir=[str(study)], output_dir="out"
    )
    assert workflow.check_properties() == []
    workflow.run()
    (ours,) = predict_studies(bundle, [study], tmp_path / "ours")
    (theirs,) = (json.loads(path.read_text()) for path in Path("out").glob("*.json"))
    assert len(theirs["embedding"]) == 1024
    assert theirs["embedding"] == pytest.approx(ours.content["embedding"], abs=1e-6)


def test_no_required_property_of_its_training_is_missing(bundle: Path, store: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.yaml"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(store),
        output_dir="again",
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == 1


def test_monai_verifies_loads_and_exports_it(bundle: Path, run: Path, tmp_path: Path) -> None:
    verify_net_in_out("network_def", **files(bundle), device="cpu")
    encoder, _ = load_encoder(run)
    image = torch.rand(1, 1, *CROP)
    with torch.no_grad():
        expected = encoder.pooled(image)
    network = load(bundle.name, model=EmbeddingNetwork(PaperDenseNet()).eval(), bundle_dir=bundle.parent, device="cpu")
    ckpt_export(filepath=str(tmp_path / "model.ts"), bundle_root=str(bundle), **files(bundle))
    onnx_export(
        "network_def", filepath=str(tmp_path / "model.onnx"), ckpt_file=str(bundle / "models/model.pt"), **files(bundle)
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        assert torch.equal(network(image), expected)
        assert torch.equal(torch.jit.load(tmp_path / "model.ts")(image), expected)
    answer = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    np.testing.assert_allclose(answer, expected.numpy(), rtol=0, atol=1e-5)


def test_metadata_and_card_say_what_the_feature_is_of(bundle: Path, run: Path, store: Path) -> None:
    values = json.loads((bundle / "configs" / "metadata.json").read_text())
    image, pred = values["network_data_format"]["inputs"]["image"], values["network_data_format"]["outputs"]["pred"]
    assert (image["spatial_shape"], image["is_patch_data"], pred["num_channels"]) == (list(CROP), False, 1024)
    section = values["volssl"]
    seen = set(load_tensors(run / "encoder.pt")["patients"])
    volumes = [patient for patient in Store.open(store).columns("patient")["patient"].to_pylist() if patient in seen]
    assert (section["dim"], section["labels"], section["training_ranges"]["volumes"]) == (1024, [], len(volumes))
    assert 0 < len(volumes) < 16
    assert section["artefacts"]["models/model.ts"]["free"] == "BRAS"
    card = (bundle / "docs" / "README.md").read_text()
    assert card.splitlines()[2].startswith("**Trained on simulated data**")
    assert "Output: a feature of 1024 numbers." in card
    assert "output: features, as the network's" in card
    assert "<!--" not in card


def test_its_inference_config_holds_no_expression(bundle: Path) -> None:
    text = (bundle / "configs" / "inference.yaml").read_text()
    assert config_findings(yaml.safe_load(text)) == []
    assert not re.search(r"^[^#]*\$", text, re.MULTILINE)


@pytest.mark.parametrize("asked", ["overlay", "dicom_sr"])
def test_what_shows_an_output_is_refused(bundle: Path, cohort: Path, tmp_path: Path, asked: str) -> None:
    with pytest.raises(UserError, match=r"it embeds volumes, and has no output that --(overlay|dicom-sr) could show"):
        predict_studies(bundle, [cohort / "volumes"], tmp_path / "out", **{asked: True})
    assert not (tmp_path / "out").exists()


def test_a_feature_of_another_length_than_the_encoders_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    values = json.loads((copy / "configs" / "metadata.json").read_text())
    values["volssl"]["dim"] = 10**9
    (copy / "configs" / "metadata.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="a feature of 1000000000 numbers, the encoder has 1024"):
        check_bundle(copy)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_crop_of_a_read_volume_is_that_of_a_scan_in_a_store(modality: str) -> None:
    scan = replace(noise_scan(1, (40, 44, 16)), modality=modality)
    contract = InputContract(modality="CT+MR", window_hu=(40, 80), spacing_mm=(3.5, 7.0, 7.0), grid=(20, 30, 8))
    image, _ = middle_crop(contract).make(scan)
    made = MiddleCropd("image", "CT+MR", (20, 30, 8), (3.5, 7.0, 7.0), (40.0, 80.0))(
        {
            "image": MetaTensor(torch.from_numpy(scan.read()), affine=torch.from_numpy(scan.affine)),
            "modality": modality,
            "foreground": scan.foreground,
            "intensity": scan.intensity,
        }
    )
    assert torch.equal(made["image"], image)
    assert made["image_box"]["box"] == [10.0, 30.0, -8.0, 52.0, 4.0, 12.0]


def test_the_feature_of_an_embedding_is_its_answer() -> None:
    network, image = EmbeddingNetwork(PaperDenseNet()).eval(), torch.rand(1, 1, 16, 16, 4)
    pooled = PooledFeature(network)
    with torch.no_grad():
        assert torch.equal(network(image)[0], pooled.take())


def evaluated(bundle: Path, store: Path, cohort: Path, **given: Any) -> None:
    """Run `evaluate.yaml` over the exported bundle's train config."""
    files = [str(bundle / "configs" / f"{name}.yaml") for name in ("train", "evaluate")]
    places = {"bundle_root": str(bundle), "dataset_dir": str(store), "labels": str(cohort / "labels.csv")}
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **places, **given)
    workflow.initialize()
    workflow.run()


def test_evaluate_yaml_scores_the_features_of_the_bundles_weights(
    bundle: Path, run: Path, store: Path, cohort: Path
) -> None:
    evaluated(bundle, store, cohort)
    found = json.loads(Path("evaluation/metrics.json").read_text())
    encoder, contract = load_encoder(run)
    task = Hemorrhage(grid=contract.grid, window_hu=contract.window_hu)
    table = join_labels(Store.open(store), cohort / "labels.csv", required_columns=task.label_columns)
    views = TaskViews(task, table)
    sides = {
        side: TrainingScans(store, views=views, labels=table, split=side) for side in ("train", "validation", "test")
    }
    known = {side: pooled_features(encoder.eval(), scans.scans, views) for side, scans in sides.items()}
    x, y = (
        {side: f.features for side, f in known.items()},
        {side: f.labels["hemorrhage"] for side, f in known.items()},
    )
    probe = linear_probe(x["train"], y["train"], x["validation"], y["validation"])
    expected = roc_auc_score(y["test"], probe.scores(x["test"]))
    assert found["outputs"]["hemorrhage, linear probe"]["metrics"]["auc"]["value"] == pytest.approx(expected, abs=1e-9)
    neighbours = roc_auc_score(y["test"], knn_scores(x["train"], y["train"], x["test"]))
    assert found["outputs"]["hemorrhage, nearest neighbours"]["metrics"]["auc"]["value"] == pytest.approx(
        neighbours, abs=1e-9
    )
    assert found["split"] == "test"
    assert "simulated" in found["simulated"].lower()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"split": "train"}, "split train: features are scored on patients whom no probe learns from"),
        ({"weights": "nowhere/model.pt"}, "nowhere/model.pt: no weights there"),
        ({"task::window_hu": [100.0, 900.0]}, "window"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    bundle: Path, store: Path, cohort: Path, given: dict[str, Any], why: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluated(bundle, store, cohort, **given)
    assert re.search(why, str(user_error_in(caught.value)))
    assert not Path("evaluation").exists()


def test_patients_whom_an_encoder_saw_are_not_scored(
    bundle: Path, run: Path, store: Path, cohort: Path, tmp_path: Path
) -> None:
    leaking = tmp_path / "leaking"
    shutil.copytree(run, leaking)
    facts = load_tensors(leaking / "encoder.pt")
    rows = Store.open(store).columns("patient", "split").to_pandas()
    facts["patients"] = sorted(rows.loc[rows["split"] == "test", "patient"])
    save_tensors(leaking / "encoder.pt", facts)
    with pytest.raises((RuntimeError, UserError)) as caught:
        evaluated(bundle, store, cohort, weights=str(leaking / "encoder.pt"))
    assert "seen" in str(user_error_in(caught.value))


def test_an_encoder_of_mr_is_scored_on_mr(brain_store: Path, brain_cohort: Path, tmp_path: Path) -> None:
    task, encoder = Metastasis(grid=(24, 28, 12), spacing_mm=(6.0, 6.0, 12.0)), PaperDenseNet()
    save_encoder(tmp_path / "encoder.pt", encoder, contract=task.contract, patients=set(), method="SwAV")
    found = score_encoder(
        tmp_path / "encoder.pt",
        encoder=encoder,
        task=task,
        store=brain_store,
        labels=brain_cohort / "labels.csv",
        split="validation",
        out=tmp_path / "scored",
    )
    rows = Store.open(brain_store).columns("modality", "split").to_pandas()
    assert found["n_studies"] == int((rows["split"] == "validation").sum()) > 0
    assert set(found["outputs"]) == {"metastasis, linear probe", "metastasis, nearest neighbours"}
