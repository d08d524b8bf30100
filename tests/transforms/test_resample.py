"""Box resampling against PyTorch's antialiased resize and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch.nn import functional

from volssl.transforms import resample_box, window
from volssl.transforms.resample import axis_weights


@pytest.mark.parametrize(("n", "size"), [(40, 13), (24, 24), (10, 37)])
def test_a_whole_slice_equals_antialiased_resizing(n: int, size: int) -> None:
    image = torch.rand(1, n, n, 1)
    ours = resample_box(image, ((0, n), (0, n), (0, 1)), (size, size, 1))
    theirs = functional.interpolate(image[None, :, :, :, 0], size=(size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(ours[..., 0], theirs[0], atol=1e-5, rtol=0)


def test_a_finer_grid_is_scipy_s_linear_interpolation() -> None:
    image = torch.rand(2, 9, 7, 5)
    box, size = ((1.3, 6.9), (-0.2, 6.5), (0.4, 4.9)), (13, 20, 11)
    axes = [start + (np.arange(n) + 0.5) * (stop - start) / n - 0.5 for (start, stop), n in zip(box, size, strict=True)]
    where = np.stack(np.meshgrid(*axes, indexing="ij"))
    expected = [map_coordinates(channel.numpy(), where, order=1, mode="nearest") for channel in image]
    np.testing.assert_allclose(
        resample_box(image, box, size)[:, :, 1:].numpy(), np.stack(expected)[:, :, 1:], atol=1e-5
    )
    assert float(resample_box(image, box, size)[:, :, 0].abs().max()) == 0  # its centers lie outside: fill


def test_axes_are_taken_in_any_order_to_the_same_result() -> None:
    image = torch.rand(1, 12, 11, 10)
    box, size = ((0.5, 11.0), (-3.0, 14.0), (2.0, 9.5)), (5, 17, 6)
    expected = image.double()
    for axis, (side, n) in enumerate(zip(box, size, strict=True)):
        weights = axis_weights(image.shape[axis + 1], *side, n).double()
        expected = torch.tensordot(expected, weights, dims=([1], [1]))  # the axis goes to the end, the next comes up
    torch.testing.assert_close(resample_box(image, box, size).double(), expected, atol=1e-6, rtol=0)


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
