"""An axial and a coronal series of a study, from DICOM to the figures: joined where there are two, alone where not."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from monai.bundle import verify_net_in_out

from volssl.bundle.answers import Answer
from volssl.bundle.evaluate import evaluate_run, labels_for
from volssl.bundle.export import export_run
from volssl.bundle.predict import predict_studies
from volssl.bundle.runs import load_run
from volssl.bundle.verify import check_bundle
from volssl.bundle.workflow import finetune
from volssl.data import Store, prepare, read_scans
from volssl.data.studies import Studies
from volssl.errors import UserError
from volssl.simulate.cohort import simulate_cohort
from volssl.tasks import TaskViews
from volssl.tensors import load_tensors
from volssl.transforms.head_box import HeadBoxd

GRID = (32, 36, 12)
WORDS = ["max_epochs=1", "batch_size=4", f"task::grid={list(GRID)}"]
N = 12


def add_coronal(folder: Path) -> None:
    """Write a coronal series of the voxels of an axial one of 4.1 x 4.1 x 8.2 mm: 4.1 x 12.3 x 2.05 mm."""
    slices = sorted((pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=lambda one: one.InstanceNumber)
    volume = np.stack([one.pixel_array for one in slices])  # (S, rows to posterior, columns to left)
    rows = volume.shape[1] // 3
    thick = volume[:, : 3 * rows].reshape(len(volume), rows, 3, -1).mean(axis=2)
    left, front, low = slices[0].ImagePositionPatient
    for index in range(rows):
        dataset = copy.deepcopy(slices[0])
        pixels = thick[::-1, index].repeat(4, axis=0).round().astype(np.uint16)  # rows to inferior
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelSpacing, dataset.SliceThickness, dataset.SpacingBetweenSlices = [2.05, 4.1], 12.3, 12.3
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        top = low + 8.2 * (len(volume) - 1) + 1.5 * 2.05
        dataset.ImagePositionPatient = [left, front + 4.1 + 12.3 * index, round(top, 6)]
        dataset.InstanceNumber, dataset.SeriesNumber = index + 1, 3
        dataset.SeriesInstanceUID = f"{slices[0].SeriesInstanceUID[:50]}.3"
        dataset.SOPInstanceUID = f"{slices[0].SOPInstanceUID[:50]}.3.{index}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        del dataset.SliceLocation
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(folder / f"COR{index:04d}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve studies, of which every other one has a coronal series too."""
    folder = tmp_path_factory.mktemp("joined") / "cohort"
    simulate_cohort(folder, N, spacing_mm=4.1, slice_mm=8.2, fmt="dicom", workers=1)
    table = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    table["slice_sops"] = [
        sops(folder / "volumes" / s, cell) for s, cell in zip(table["study"], table["slices"], strict=True)
    ]
    table.drop(columns="slices").to_csv(folder / "labels.csv", index=False)
    for study in sorted((folder / "volumes").iterdir())[::2]:
        add_coronal(study)
    return folder


def sops(study: Path, indices: str) -> str:
    """SOPInstanceUIDs of axial slices: an index would not tell of which series it is."""
    named = [study / f"IM{int(index) + 1:04d}.dcm" for index in indices.split(";") if index]
    return ";".join(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in named)


@pytest.fixture(scope="module")
def store(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    prepare([cohort], folder, workers=0)
    return folder


@pytest.fixture(scope="module")
def run(cohort: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    words = [*WORDS, "task::join=mean"]
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=out, words=words)
    return out


def test_a_study_has_one_answer_of_both_its_series(cohort: Path, store: Path, run: Path, tmp_path: Path) -> None:
    volumes = Store.open(store).columns("id", "study", "spacing_mm", "split").to_pandas()
    assert len(volumes) == N + N // 2
    labels = cohort / "labels.csv"
    metrics = evaluate_run(run, store=store, labels=labels, split="validation", out=tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet").set_index("id")
    assert metrics["n_studies"] == len(table) == volumes[volumes["split"] == "validation"]["study"].nunique()
    model = load_run(run)
    opened = Store.open(store)
    joined = 0
    for key, row in table.iterrows():
        mine = volumes.set_index("id").loc[key]
        (*others,) = volumes[(volumes["study"] == mine["study"]) & (volumes["id"] != key)]["id"]
        image, info = model.task.preprocess(opened.scan(str(key)))
        features = [model.network.encoder.pooled(image[None])]
        for other in others:
            joined += 1
            scan, first = opened.scan(other), opened.scan(str(key))
            shift = (first.affine[:3, 3] - first.affine[:3, :3].sum(1) / 2) - (
                scan.affine[:3, 3] - scan.affine[:3, :3].sum(1) / 2
            )
            ratio = np.array(first.spacing_mm) / np.array(scan.spacing_mm)
            box = [
                tuple(edge * by + mm / size for edge in pair)
                for pair, by, mm, size in zip(info.box, ratio, shift, scan.spacing_mm, strict=True)
            ]
            second, _ = model.task.preprocess_at(scan, box)  # type: ignore[arg-type]
            assert np.corrcoef(image.flatten(), second.flatten())[0, 1] > 0.7  # the same head in the same place
            features.append(model.network.encoder.pooled(second[None]))
        logit = model.network.labels(torch.stack(features).mean(dim=0))[0, 0]
        assert row["p_hemorrhage"] == pytest.approx(torch.sigmoid(logit).item(), abs=1e-5)
    assert joined > 0


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    export_run(run, run.parent / "bundle", formats=["torchscript"])
    return run.parent / "bundle"


@pytest.fixture(scope="module")
def answers(cohort: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """By the name of the study's folder; of one with two series with what was drawn and reported of it."""
    out = tmp_path_factory.mktemp("answers")
    more = predict_studies(bundle, folders(cohort)[:1], out, overlay=True, dicom_sr=True, research_only=True)
    found = more + predict_studies(bundle, folders(cohort)[1:], out)
    assert len(found) == N  # the coronal series have no answers of their own
    return {answer.study.name: answer for answer in found}


def folders(cohort: Path) -> list[Path]:
    return sorted((cohort / "volumes").iterdir())


def lines_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "paths.csv").open()))


def test_the_bundle_looks_at_both_as_the_run_did_to_the_last_bit(cohort: Path, store: Path, run: Path) -> None:
    opened, task = Store.open(store), load_run(run).task
    table = labels_for(task, opened, cohort / "labels.csv")
    views = TaskViews(task, table, scan_of=opened.scan)
    trained = [views(opened.scan(key), np.random.RandomState(0))["image"] for key in table.index]
    transform = HeadBoxd("image", GRID, task.extent_mm, task.contract.window_hu)
    predicted = [one["image"][0] for one in Studies(folders(cohort), transform=transform, join="mean")]
    assert len(predicted) == len(trained) == N
    assert all(any(torch.equal(image, known) for known in trained) for image in predicted)
    assert [bool(image[1].any()) for image in predicted] == [True, False] * (N // 2)


def test_probabilities_are_those_of_the_run(cohort: Path, store: Path, run: Path, answers: dict[str, Answer]) -> None:
    opened, model = Store.open(store), load_run(run)
    views = TaskViews(model.task, labels_for(model.task, opened, cohort / "labels.csv"), scan_of=opened.scan)
    folder_of = {line["key"]: Path(line["path"]).parent.name for line in lines_of(store)}
    for key in views.labels.index:
        image = views(opened.scan(key), np.random.RandomState(0))["image"][None]
        with torch.no_grad():
            found = model.task.predictions(model.network(image))
        wanted = {name: float(p) for name, p in found.items() if name != "slices"}
        content = answers[folder_of[key]].content
        assert content["volume"] | content["types"] == pytest.approx(wanted, abs=1e-6)


def test_the_answer_says_what_was_joined_and_paths_csv_whose_it_was(cohort: Path, answers: dict[str, Answer]) -> None:
    both, one = (answers[folder.name] for folder in folders(cohort)[:2])
    assert one.content["joined"] == {"features": "mean", "second_series": None}
    told = both.content["joined"]["second_series"]
    assert (told["plane"], told["spacing_mm"], told["box"]) == ("coronal", [4.1, 12.3, 2.05], "of the first")
    own, other = both.content["preprocessing"]["box_voxels"], told["box_voxels"]
    for first, second, by in zip(own, other, (1, 3, 0.25), strict=True):  # as many millimetres
        assert second[1] - second[0] == pytest.approx((first[1] - first[0]) / by, abs=5e-3)
    lines = [line for line in lines_of(both.path.parent) if line["answer"] == both.path.name]
    assert [line["series_uid"].endswith(".3") for line in lines] == [False, True]
    assert both.content["in_training_range"] is one.content["in_training_range"] is True


def test_overlay_and_report_of_two_series_lie_on_the_axial_one_and_name_both(
    cohort: Path, answers: dict[str, Answer]
) -> None:
    study = folders(cohort)[0]
    answer = answers[study.name]
    image = nibabel.load(answer.path.with_name(f"{answer.path.stem}-saliency.nii.gz"))
    assert image.header.get_zooms() == pytest.approx((4.1, 4.1, 8.2))
    document = pydicom.dcmread(answer.path.with_name(f"{answer.path.stem}-report.dcm"))
    (told,) = document.CurrentRequestedProcedureEvidenceSequence
    series = told.ReferencedSeriesSequence
    listed = {reference.ReferencedSOPInstanceUID for one in series for reference in one.ReferencedSOPSequence}
    assert len(series) == 2
    assert listed == {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in study.glob("*.dcm")}


def test_monai_alone_answers_the_same(cohort: Path, bundle: Path, answers: dict[str, Answer], tmp_path: Path) -> None:
    for folder in folders(cohort)[:2]:
        shutil.copytree(folder, tmp_path / "studies" / folder.name)
    words = [f"--config_file={bundle / 'configs' / 'inference.yaml'}", f"--bundle_root={bundle}"]
    words += [f"--dataset_dir={tmp_path / 'studies'}", f"--output_dir={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        env=os.environ | {"MONAI_EVAL_EXPR": "0", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer_of = {Path(line["path"]).name: line["answer"] for line in lines_of(tmp_path / "out")}
    assert len(set(answer_of.values())) == len(list((tmp_path / "out").glob("*.json"))) == 2
    for name, file in answer_of.items():
        content = json.loads((tmp_path / "out" / file).read_text())
        assert content["volume"] == pytest.approx(answers[name].content["volume"], abs=1e-6)
        assert content["joined"] == answers[name].content["joined"]


def test_export_keeps_everything_and_needs_no_trust(run: Path, bundle: Path) -> None:
    facts = check_bundle(bundle).facts
    assert (facts.join, facts.channels, facts.contract.channels) == ("mean", 2, 1)
    trained = load_tensors(run / "model.pt")["network"]
    kept = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[key], trained[key]) for key in trained)
    assert "$" not in (bundle / "configs" / "inference.yaml").read_text()
    values = json.loads((bundle / "configs" / "metadata.json").read_text())
    image = values["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]["1"]) == (2, "coronal series of the study")
    assert values["volssl"]["artefacts"]["models/model.ts"]["compared_at"][0] == [1, 2, *GRID]
    assert "then the same of the study's coronal series" in (bundle / "docs" / "README.md").read_text()
    verify_net_in_out(
        "network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
    )


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("join: mean", "join: max", "feeds join max, the weights were trained with mean"),
        ("join: mean", "join: ''", "feeds join , the weights were trained with mean"),
        (
            "  modality: CT\n  join: '@join'",
            "  modality: CT\n  join: max",
            "Studies with join 'max' in place of '@join'",
        ),
        ("  modality: CT\n  join: '@join'\n", "  modality: CT\n", "dataset is another than volssl's own"),
    ],
)
def test_a_bundle_that_joins_otherwise_than_its_metadata_say_is_refused(
    bundle: Path, tmp_path: Path, old: str, new: str, match: str
) -> None:
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    path = copied / "configs" / "inference.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=match):
        check_bundle(copied)


def test_a_coronal_series_of_another_space_lies_in_a_box_of_its_own_head(
    cohort: Path, run: Path, tmp_path: Path
) -> None:
    study = shutil.copytree(folders(cohort)[0], tmp_path / "study")
    for path in study.glob("COR*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[0] += 500
        dataset.save_as(path)
    task = load_run(run).task
    transform = HeadBoxd("image", GRID, task.extent_mm, task.contract.window_hu)
    (sample,) = Studies(study, transform=transform, join="mean")
    (alone,) = (scan for scan in read_scans(study) if scan.spacing_mm[1] > 12)
    assert torch.equal(sample["image"][0, 1:], task.preprocess(alone)[0])
    assert sample["image_second_box"]["own_head"] is True


def test_a_probe_that_looks_at_one_series_refuses_to_join(cohort: Path, store: Path, tmp_path: Path) -> None:
    words = [f"task::grid={list(GRID)}", "task::join=mean"]
    with pytest.raises(UserError, match="mode probe looks at each series alone"):
        finetune(
            "hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", mode="probe", words=words
        )
