from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy.ndimage import center_of_mass

from tests.phantom import BRAIN, MIDDLE_MM, Phantom, make_phantom
from volssl.transforms.head_box import BoxInfo, HeadBoxd, cut_box, head_box

GRID = (48, 56, 20)
SPACING = (2.0, 2.0, 2.0)


@pytest.fixture(scope="module")
def head() -> Phantom:
    return make_phantom()


def affine(spacing_mm: tuple[float, float, float]) -> torch.Tensor:
    return torch.diag(torch.tensor([*spacing_mm, 1.0], dtype=torch.float64))


def test_the_window_maps_the_brain_and_the_outside_is_air(head: Phantom) -> None:
    image, info = head_box(head.hu[None], SPACING, grid=GRID)
    assert image.shape == (1, *GRID)
    assert image.dtype == torch.float32
    middle = tuple(
        int((mm / 2 - start) / (stop - start) * n)
        for mm, (start, stop), n in zip(MIDDLE_MM, info.box, GRID, strict=True)
    )
    assert image[(0, *middle)] == pytest.approx((BRAIN + 45) / 200, abs=0.02)  # 55 ± 100: from -45 to 155
    assert image[0, 0, 0, 0] == 0
    assert image.max() == 1
    assert info.plausible


def test_a_point_comes_out_where_the_box_says(head: Phantom) -> None:
    _, info = head_box(head.hu[None], SPACING, grid=GRID)
    assert info.box[2][1] < head.hu.shape[2]
    for at in ((70, 50, 60), (30, 100, 90), (55, 62, 40)):
        hu = np.full(head.hu.shape, -1000, np.int16)
        hu[at] = 155
        image = cut_box(hu[None], info.box, GRID, (55.0, 200.0))
        expected = [(i + 0.5 - lo) / (hi - lo) * n - 0.5 for i, (lo, hi), n in zip(at, info.box, GRID, strict=True)]
        assert center_of_mass(image[0].numpy()) == pytest.approx(expected, abs=0.1)


def test_only_the_grid_depends_on_the_grid(head: Phantom) -> None:
    small, coarse = head_box(head.hu[None], SPACING, grid=(24, 28, 10))
    large, fine = head_box(head.hu[None], SPACING, grid=(96, 112, 40))
    assert coarse.box == fine.box
    pooled = torch.nn.functional.avg_pool3d(large[None], 4)[0]
    assert torch.mean((pooled - small).abs()) < 0.05


def test_slices_of_the_grid_overlap_those_of_the_scan_as_worked_out_by_hand() -> None:
    info = BoxInfo(((0, 1), (0, 1), (-1.0, 7.0)), (1, 1, 4), (1, 1, 6), SPACING)
    assert info.slice_edges.tolist() == [-1, 1, 3, 5, 7]
    assert info.slice_overlap().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    thin = BoxInfo(((0, 1), (0, 1), (0.25, 1.75)), (1, 1, 3), (1, 1, 2), SPACING)
    assert thin.slice_overlap().tolist() == [[0.5, 0], [0.25, 0.25], [0, 0.5]]


def test_box_info_survives_json() -> None:
    info = BoxInfo(((0.5, 1.5), (-2, 3.25), (0, 9)), GRID, (100, 90, 30), (0.9, 0.9, 5.0), ("one", "two"))
    assert BoxInfo.from_dict(json.loads(json.dumps(info.as_dict()))) == info
    assert not info.plausible


def test_the_dictionary_transform_does_what_the_function_does(head: Phantom) -> None:
    image = MetaTensor(torch.from_numpy(head.hu[None]).float(), affine=affine(SPACING))
    result = HeadBoxd("image", GRID)({"image": image, "other": 1})
    expected, info = head_box(head.hu[None], SPACING, grid=GRID)
    assert type(result["image"]) is torch.Tensor
    assert torch.equal(result["image"], expected)
    assert result["image_box"] == info.as_dict()
    assert result["other"] == 1
    json.dumps(result["image_box"])


def test_the_dictionary_transform_is_built_from_plain_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = {
        "_target_": "volssl.transforms.head_box.HeadBoxd",
        "keys": "image",
        "grid": [48, 56, 20],
        "extent_mm": [168, 196, 140],
        "window_hu": [55, 200],
    }
    parser = ConfigParser({"box": config})
    transform = parser.get_parsed_content("box")
    assert (transform.grid, transform.extent_mm, transform.window_hu) == (GRID, (168.0, 196.0, 140.0), [(55.0, 200.0)])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 4, 4, 4), "image with an affine"),
        (MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.diag(torch.tensor([-1.0, -1, 1, 1]))), "Orientationd"),
        (MetaTensor(torch.zeros(2, 4, 4, 4), affine=torch.eye(4)), r"\(1, R, A, S\)"),
    ],
)
def test_what_has_no_place_in_the_body_is_refused(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadBoxd("image")({"image": image})
