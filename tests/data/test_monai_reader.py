"""A DICOM series against a third reader: MONAI's own, on ITK, where it is meant to be right (one series, no tilt)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation

from volssl.data import read_scans
from volssl.simulate.cohort import simulate_cohort


def test_monai_on_itk_reads_the_same_voxels_and_affine(tmp_path: Path) -> None:
    cohort = simulate_cohort(tmp_path / "cohort", 1, seed=3, fmt="dicom", spacing_mm=6.0, slice_mm=9.0, workers=1)
    (series,) = [path for path in (cohort / "volumes").iterdir() if path.is_dir()]
    (scan,) = read_scans(series)
    load = Compose(
        [LoadImage(reader="ITKReader", image_only=True), EnsureChannelFirst(), Orientation("RAS", labels=None)]
    )
    image = load(series)
    np.testing.assert_array_equal(scan.read(), image.numpy())
    np.testing.assert_allclose(scan.affine, image.affine.numpy(), atol=1e-4)
