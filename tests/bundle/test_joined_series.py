"""An axial and a coronal series of a study, from DICOM to the figures: joined where there are two, alone where not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.export import export_run
from volssl.bundle.runs import load_run
from volssl.bundle.workflow import finetune
from volssl.data import Store, prepare
from volssl.errors import UserError
from volssl.simulate.cohort import simulate_cohort

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


def test_a_bundle_that_would_answer_for_each_series_alone_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\(task::join=mean\); a bundle answers for each alone"):
        export_run(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_probe_that_looks_at_one_series_refuses_to_join(cohort: Path, store: Path, tmp_path: Path) -> None:
    words = [f"task::grid={list(GRID)}", "task::join=mean"]
    with pytest.raises(UserError, match="mode probe looks at each series alone"):
        finetune(
            "hemorrhage", store=store, labels=cohort / "labels.csv", out=tmp_path / "run", mode="probe", words=words
        )
