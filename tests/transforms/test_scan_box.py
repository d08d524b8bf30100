"""The box of a task lies about the middle of what is not air, reads what it needs alone, and is the same for MONAI."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tests.phantom import make_phantom
from tests.scans import ArrayScan, noise_scan
from volssl.transforms.head_box import head_box
from volssl.transforms.probabilities import Probabilitiesd
from volssl.transforms.scan_box import ScanBoxd, cut, scan_box


def boxed(scan: ArrayScan, **options: Any) -> Any:
    given: dict[str, Any] = {
        "shape": scan.shape,
        "spacing_mm": scan.spacing_mm,
        "foreground": scan.foreground,
        "intensity": scan.intensity,
        "modality": scan.modality,
        "window_hu": (40.0, 80.0),
        "grid": (10, 11, 8),
        "extent_mm": (70.0, 77.0, 56.0),
    }
    return scan_box(scan.read, **(given | options))


def test_the_middle_of_the_box_is_that_of_the_foreground() -> None:
    _, info = boxed(noise_scan(0), foreground=((10, 20), (0, 44), (4, 8)))
    assert [(first + last) / 2 for first, last in info.box] == [15, 22, 6]
    assert [last - first for first, last in info.box] == pytest.approx([20, 22, 8])  # 3.5 x 3.5 x 7 mm voxels


def test_a_box_on_the_grid_of_the_scan_is_the_windowed_scan_itself() -> None:
    scan = noise_scan(1)
    image, _ = boxed(scan, foreground=((0, 40), (0, 44), (0, 16)), grid=(20, 22, 8))
    np.testing.assert_allclose(image[0], np.clip(scan.array[10:30, 11:33, 4:12] / 80, 0, 1), atol=1e-6)


def test_only_what_the_box_needs_is_read() -> None:
    scan = noise_scan(2)
    image, _ = boxed(scan, foreground=((0, 20), (0, 44), (0, 16)))
    (near,) = scan.boxes
    assert near is not None
    assert np.prod([last - first for first, last in near]) < scan.array.size / 2
    whole, _ = boxed(ArrayScan(scan.array), foreground=((0, 20), (0, 44), (0, 16)))
    assert torch.equal(image, whole)


def test_what_lies_outside_of_the_scan_is_0() -> None:
    scan = ArrayScan(np.full((10, 10, 10), 80, np.int16), spacing_mm=(1.0, 1.0, 1.0))
    image, _ = boxed(scan, extent_mm=(20.0, 10.0, 10.0), grid=(20, 10, 10))
    assert torch.equal(image[0, :, 0, 0], torch.tensor([0.0] * 5 + [1.0] * 10 + [0.0] * 5))


def test_the_head_box_is_that_of_hemorrhage() -> None:
    head = make_phantom(spacing_mm=(4.0, 4.0, 8.0))
    scan = ArrayScan(head.hu, spacing_mm=head.spacing_mm)
    options: dict[str, Any] = {"grid": (12, 14, 10), "extent_mm": (168.0, 196.0, 140.0)}
    image, info = boxed(scan, place="head", **options)
    theirs, where = head_box(head.hu[None], head.spacing_mm, window_hu=(40.0, 80.0), **options)
    assert torch.equal(image, theirs)
    assert info == where


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"place": "chest"}, "foreground or head, not chest"),
        ({"place": "head", "modality": "MR"}, "this scan is MR"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_found_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        boxed(noise_scan(0), **options)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_transform_makes_the_same_box_of_a_metatensor(modality: str) -> None:
    scan = ArrayScan(noise_scan(3).array, modality=modality)
    windows = (40.0, 80.0) if modality == "CT" else ()
    grid, extent_mm = (10, 11, 8), (70.0, 77.0, 56.0)
    transform = ScanBoxd("image", modality, "foreground", grid, extent_mm, windows)
    image = MetaTensor(torch.from_numpy(scan.array[None]), affine=torch.from_numpy(scan.affine))
    result = transform({"image": image, "foreground": scan.foreground, "intensity": scan.intensity})
    expected, info = boxed(scan, window_hu=windows or None)
    assert torch.equal(result["image"], expected)
    assert result["image_box"] == info.as_dict()


def test_a_cut_is_an_index() -> None:
    values = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    np.testing.assert_array_equal(partial(cut, values)(((1, 3), (0, 5), (2, 4))), values[:, 1:3, :, 2:4])


def test_columns_become_probabilities_target_by_target() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 0.0, 0.0]])
    answer = Probabilitiesd("pred", ["binary", "multi-class", "ordinal"], [1, 3, 2])({"pred": logits})["pred"][0]
    e = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(answer, [0.5, *(e / e.sum()), 0.5, 0.25], rtol=1e-6)
    with pytest.raises(ValueError, match="binary, multi-class or ordinal, not scale"):
        Probabilitiesd("pred", ["scale"], [6])({"pred": logits})
