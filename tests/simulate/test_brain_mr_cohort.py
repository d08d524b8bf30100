"""A simulated cohort of brain MRs on disk: tables, masks, DICOM, and what `prepare` and the label join make of it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from volssl.data import Store, prepare
from volssl.data.labels import join_labels
from volssl.errors import UserError
from volssl.simulate.cohort import simulate_brain_mr_cohort, simulate_cohort

COARSE = {"spacing_mm": 4.0, "slice_mm": 6.0, "seed": 4, "workers": 1}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_brain_mr_cohort(tmp_path_factory.mktemp("nifti") / "cohort", 6, **COARSE)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_brain_mr_cohort(tmp_path_factory.mktemp("dicom") / "cohort", 2, fmt="dicom", **COARSE)


def table(cohort: Path, name: str = "labels.csv") -> pd.DataFrame:
    return pd.read_csv(cohort / name, dtype={"slices": str}, keep_default_na=False)


def test_the_label_table_agrees_with_the_masks_and_the_lesions(cohort: Path) -> None:
    rows, lesions = table(cohort), table(cohort, "lesions.csv")
    assert rows["metastasis"].nunique() == 2
    for _, row in rows.iterrows():
        mask = np.asarray(nibabel.load(cohort / "masks" / f"{row['study']}.nii.gz").dataobj)
        mine = lesions[lesions["study"] == row["study"]]
        assert list(mine["number"]) == list(range(1, row["lesions"] + 1)) == sorted(set(np.unique(mask)) - {0})
        assert row["metastasis"] == int(mask.any())
        assert row["slices"] == ";".join(str(s) for s in range(mask.shape[2]) if mask[:, :, s].any())
        assert row["largest_mm"] == max(mine["diameter_mm"], default=0)
        assert row["total_ml"] == pytest.approx((mask > 0).sum() * 4 * 4 * 6 / 1000, abs=1e-3)


def test_prepare_takes_it_as_mr_passes_masks_over_and_joins_slices(cohort: Path, tmp_path: Path) -> None:
    summary = prepare([cohort], tmp_path / "store", workers=1)
    store = Store(tmp_path / "store")
    assert summary.as_dict()["stored"] == 6
    assert store.rows["modality"].to_pylist() == ["MR"] * 6
    joined = join_labels(store, cohort / "labels.csv", ["metastasis", "lesions", "largest_mm"])
    assert len(joined) == 6
    truth = table(cohort)
    assert sorted(joined["metastasis"]) == sorted(truth["metastasis"])
    assert sorted(len(cell or []) for cell in joined["slice_indices"]) == sorted(
        len(cell.split(";")) if cell else 0 for cell in truth["slices"]
    )


def test_the_dicom_series_hold_the_nifti_cohorts_values(cohort: Path, series: Path) -> None:
    for study in table(series)["study"]:
        nifti = nibabel.load(cohort / "volumes" / f"{study}.nii.gz")
        values = np.asarray(nifti.dataobj)
        slices = [pydicom.dcmread(path) for path in sorted((series / "volumes" / study).glob("*.dcm"))]
        assert len(slices) == values.shape[2]
        for index, d in enumerate(slices):
            assert np.array_equal(d.pixel_array.T[::-1, ::-1], values[:, :, index])
            corner = nifti.affine @ [values.shape[0] - 1, values.shape[1] - 1, index, 1]
            np.testing.assert_allclose(d.ImagePositionPatient, [-corner[0], -corner[1], corner[2]], atol=1e-3)
        assert {(d.Modality, d.MagneticFieldStrength, d.AccessionNumber) for d in slices} == {("MR", 3.0, study)}
        assert len({d.SOPInstanceUID for d in slices}) == len(slices)


def test_it_says_that_it_is_simulated(cohort: Path) -> None:
    assert "SIMULATED" in (cohort / "README.txt").read_text()
    assert all(name.startswith("SIM ") for name in table(cohort)["scanner"])


def test_a_stripped_cohort_and_a_head_ct_are_other_cohorts(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other arguments"):
        simulate_brain_mr_cohort(cohort, 6, stripped=True, **COARSE)
    with pytest.raises(UserError, match="other arguments"):
        simulate_cohort(cohort, 6, **COARSE)
    brain = simulate_brain_mr_cohort(tmp_path / "brain", 1, stripped=True, **COARSE)
    volume = np.asarray(nibabel.load(next((brain / "volumes").glob("*.nii.gz"))).dataobj)
    assert (volume == 0).mean() > 0.6
