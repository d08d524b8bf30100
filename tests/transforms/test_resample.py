"""Box resampling against PyTorch's antialiased resize and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from volssl.transforms import resample_box, window


@pytest.mark.parametrize(("n", "size"), [(40, 13), (24, 24), (10, 37)])
def test_a_whole_slice_equals_antialiased_resizing(n: int, size: int) -> None:
    image = torch.rand(1, n, n, 1)
    ours = resample_box(image, ((0, n), (0, n), (0, 1)), (size, size, 1))
    theirs = functional.interpolate(image[None, :, :, :, 0], size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(ours[..., 0], theirs[0], atol=1e-5, rtol=0)


def test_half_of_the_voxels_are_averaged_with_triangle_weights() -> None:
    # Cells of two voxels: weights 1/8, 3/8, 3/8, 1/8 around each pair; the ends have 3/7, 3/7, 1/7.
    line = torch.tensor([0.0, 0.0, 8.0, 8.0, 0.0, 0.0]).view(1, 6, 1, 1)
    result = resample_box(line, ((0, 6), (0, 1), (0, 1)), (3, 1, 1)).flatten()
    torch.testing.assert_close(result, torch.tensor([8 / 7, 6.0, 8 / 7]))


def test_whole_voxel_boxes_are_plain_crops_and_outside_is_fill() -> None:
    image = torch.rand(2, 6, 5, 4)
    assert torch.allclose(resample_box(image, ((1, 4), (0, 5), (2, 4)), (3, 5, 2)), image[:, 1:4, :, 2:4])
    padded = resample_box(image, ((-2, 8), (0, 5), (0, 4)), (10, 5, 4), fill=-1.0)
    assert torch.allclose(padded[:, 2:8], image, atol=1e-6)
    assert torch.equal(padded[:, :2], torch.full((2, 2, 5, 4), -1.0))


def test_a_constant_stays_constant_and_the_mean_is_kept() -> None:
    image = torch.full((1, 30, 20, 9), 0.7)
    result = resample_box(image, ((2.3, 27.1), (1.5, 18.2), (0.5, 8.5)), (11, 9, 3))
    torch.testing.assert_close(result, torch.full((1, 11, 9, 3), 0.7))


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="positive extent"):
        resample_box(torch.zeros(1, 4, 4, 4), ((2, 2), (0, 4), (0, 4)), (1, 1, 1))


def test_the_window_maps_its_ends_to_zero_and_one() -> None:
    hu = torch.tensor([-1000, -45, 55, 155, 3000], dtype=torch.int16)
    torch.testing.assert_close(window(hu, 55, 200), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert window(hu.numpy(), 55, 200).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
