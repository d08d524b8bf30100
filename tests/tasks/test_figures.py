from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from volssl.tasks.figures import middle_cuts, write_montage

SPACING = (3.5, 3.5, 7.0)


def test_the_patients_right_is_on_the_left_and_superior_and_anterior_are_on_top() -> None:
    image = torch.zeros(1, 48, 56, 20)
    image[:, 36:, :, 15:] = 1  # right, superior
    axial, coronal, sagittal = middle_cuts(image.roll(-5, dims=3), SPACING)
    _, coronal, _ = middle_cuts(image, SPACING)
    assert axial[:, :30].mean() > 0.9 > 0.1 > axial[:, 40:].mean()
    assert coronal[:25, :30].mean() > 0.9 > 0.1 > coronal[60:].mean()
    front = torch.zeros(1, 48, 56, 20)
    front[:, :, 42:] = 1
    axial, _, sagittal = middle_cuts(front, SPACING)
    assert axial[:35].mean() > 0.9 > 0.1 > axial[50:].mean()
    assert sagittal[:, 125:].mean() > 0.9 > 0.1 > sagittal[:, :110].mean()


def test_pictures_have_the_proportions_of_the_head() -> None:
    axial, coronal, sagittal = middle_cuts(torch.rand(1, 48, 56, 20), SPACING)  # 168 x 196 x 140 mm
    assert axial.shape == (160, 137)
    assert coronal.shape == (114, 137)
    assert sagittal.shape == (114, 160)


def test_a_montage_is_a_png_of_two_cases_a_row(tmp_path: Path) -> None:
    path = write_montage([torch.rand(1, 12, 14, 5)] * 5, tmp_path / "views" / "heads.png", spacing_mm=(14, 14, 28))
    rows, columns = imread(path).shape[:2]
    assert (rows, columns) == (3 * 162 + 2, 6 * 162 + 2)
    assert 0.2 < np.asarray(imread(path))[..., 0].mean() < 0.6


def test_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        write_montage([], tmp_path / "heads.png", spacing_mm=SPACING)
