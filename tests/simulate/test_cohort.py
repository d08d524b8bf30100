"""A simulated cohort on disk: the table, the masks, the workers, the folder it may use, and the DICOM series."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK

from volssl.errors import UserError
from volssl.simulate.cohort import plan_cohort, simulate_cohort
from volssl.simulate.head_ct import TYPES

COARSE = {"spacing_mm": 4.0, "slice_mm": 8.0}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_cohort(tmp_path_factory.mktemp("nifti") / "cohort", 8, workers=1, seed=3, **COARSE)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_cohort(tmp_path_factory.mktemp("dicom") / "cohort", 2, workers=1, seed=3, fmt="dicom", **COARSE)


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(cohort / "labels.csv", dtype={"slices": str}, keep_default_na=False)


def test_the_label_table_agrees_with_the_masks(cohort: Path) -> None:
    rows = table(cohort)
    assert len(rows) == 8
    assert rows["hemorrhage"].nunique() == 2
    for _, row in rows.iterrows():
        mask = np.asarray(nibabel.load(cohort / "masks" / f"{row['study']}.nii.gz").dataobj)
        present = [int((mask == code).any()) for code in range(1, 6)]
        assert [row[kind] for kind in TYPES] == present
        assert row["hemorrhage"] == int(any(present))
        assert row["slices"] == ";".join(str(s) for s in range(mask.shape[2]) if mask[:, :, s].any())


def test_volumes_and_masks_share_their_grid(cohort: Path) -> None:
    for study in table(cohort)["study"]:
        volume, mask = (nibabel.load(cohort / kind / f"{study}.nii.gz") for kind in ("volumes", "masks"))
        assert volume.get_data_dtype() == np.int16
        assert volume.shape == mask.shape
        assert np.array_equal(volume.affine, mask.affine)
        assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
        assert volume.header.get_zooms() == pytest.approx((4.0, 4.0, 8.0))


def test_it_says_that_it_is_simulated_and_brings_its_key(cohort: Path) -> None:
    assert "SIMULATED" in (cohort / "README.txt").read_text()
    assert len(bytes.fromhex((cohort / "volssl.key").read_text().strip())) == 32
    patients = pd.read_csv(cohort / "patients.csv")
    assert list(patients.columns[:2]) == ["study", "patient"]
    assert set(patients["study"]) == set(table(cohort)["study"])


def test_two_workers_write_the_bytes_of_one(cohort: Path, tmp_path: Path) -> None:
    again = simulate_cohort(tmp_path / "again", 8, workers=2, seed=3, **COARSE)
    assert digests(again) == digests(cohort)


def test_an_interrupted_cohort_is_completed_to_the_same_bytes(cohort: Path, tmp_path: Path, monkeypatch) -> None:
    from volssl.simulate import cohort as module

    make, made = module.make_study, []

    def fail_after_three(kind, out, settings, plan):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(plan.study)
        return make(kind, out, settings, plan)

    monkeypatch.setattr(module, "make_study", fail_after_three)
    with pytest.raises(KeyboardInterrupt):
        simulate_cohort(tmp_path / "part", 8, workers=1, seed=3, **COARSE)
    monkeypatch.setattr(module, "make_study", make)
    first = tmp_path / "part" / "volumes" / f"{made[0]}.nii.gz"
    before = first.stat().st_mtime_ns
    simulate_cohort(tmp_path / "part", 8, workers=1, seed=3, **COARSE)
    assert first.stat().st_mtime_ns == before
    assert digests(tmp_path / "part") == digests(cohort)


def test_a_folder_with_something_else_is_refused(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        simulate_cohort(tmp_path, 2, **COARSE)
    with pytest.raises(UserError, match="other arguments"):
        simulate_cohort(cohort, 9, seed=3, **COARSE)
    with pytest.raises(UserError, match="site"):
        simulate_cohort(tmp_path / "new", 2, site="C", **COARSE)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_some_patients_have_several_studies_and_no_two_cohorts_share_one() -> None:
    plans = list(plan_cohort(300, seed=0, site="A"))
    patients = {plan.patient for plan in plans}
    assert 200 < len(patients) < 290
    assert len({plan.study for plan in plans}) == 300
    for seed, site in ((1, "A"), (0, "B")):
        assert not patients & {plan.patient for plan in plan_cohort(300, seed=seed, site=site)}


def test_pydicom_and_simpleitk_read_the_nifti_cohorts_hu_and_affine(cohort: Path, series: Path) -> None:
    for study in table(series)["study"]:
        nifti = nibabel.load(cohort / "volumes" / f"{study}.nii.gz")
        hu = np.asarray(nifti.dataobj)
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series / "volumes" / study)))
        image = SimpleITK.DICOMOrient(reader.Execute(), "RAS")
        assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), hu)
        flip = np.diag([-1.0, -1.0, 1.0])  # ITK's millimetres are LPS
        direction = flip @ np.array(image.GetDirection()).reshape(3, 3)
        np.testing.assert_allclose(direction @ np.diag(image.GetSpacing()), nifti.affine[:3, :3], atol=1e-5)
        np.testing.assert_allclose(flip @ image.GetOrigin(), nifti.affine[:3, 3], atol=1e-3)
        slices = [pydicom.dcmread(path) for path in sorted((series / "volumes" / study).glob("*.dcm"))]
        for index, d in enumerate(slices):
            plane = d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept)
            assert np.array_equal(plane.T[::-1, ::-1], hu[:, :, index])
            corner = nifti.affine @ [hu.shape[0] - 1, hu.shape[1] - 1, index, 1]
            np.testing.assert_allclose(d.ImagePositionPatient, [-corner[0], -corner[1], corner[2]], atol=1e-3)


def test_a_series_has_valid_identifiers_that_repeat_with_the_seed(series: Path, tmp_path: Path) -> None:
    again = simulate_cohort(tmp_path / "again", 2, workers=1, seed=3, fmt="dicom", **COARSE)
    assert digests(again) == digests(series)
    files = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(series.glob("volumes/*/*.dcm"))]
    assert len({d.SOPInstanceUID for d in files}) == len(files)
    assert len({d.SeriesInstanceUID for d in files}) == len({d.StudyInstanceUID for d in files}) == 2
    assert all(d.SOPInstanceUID.is_valid and d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID for d in files)
    assert all(str(d.PatientName).startswith("SIM^") and d.Modality == "CT" for d in files)
    assert {d.AccessionNumber for d in files} == set(table(series)["study"])
