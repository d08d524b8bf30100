"""The paper's DenseNet: its numbers, any input size, and the pooling against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from volssl.encoders import PaperDenseNet
from volssl.encoders.densenet import pool_parts


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((48, 56, 20), [(24, 28, 20), (12, 14, 20), (6, 7, 10), (3, 3, 5), (3, 3, 5)]),
        ((33, 40, 9), [(17, 20, 9), (8, 10, 9), (4, 5, 4), (2, 2, 2), (2, 2, 2)]),
        ((16, 16, 4), [(8, 8, 4), (4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1)]),
    ],
)
def test_the_pyramid_has_the_stated_channels_and_sizes(
    size: tuple[int, int, int], sizes: list[tuple[int, int, int]]
) -> None:
    encoder = PaperDenseNet().eval()
    assert encoder.channels == (23, 37, 58, 79, 100)
    assert encoder.strides == ((2, 2, 1), (4, 4, 1), (8, 8, 2), (16, 16, 4), (16, 16, 4))
    pyramid = encoder(torch.zeros(1, 1, *size))
    shapes = [(1, channels, *n) for channels, n in zip(encoder.channels, sizes, strict=True)]
    assert [tuple(level.shape) for level in pyramid] == shapes
    assert tuple(encoder.pooled(torch.zeros(1, 1, *size)).shape) == (1, 1024)


def test_the_first_two_blocks_never_mix_slices() -> None:
    encoder = PaperDenseNet().eval()
    x = torch.rand(1, 1, 16, 16, 4)
    changed = x.clone()
    changed[..., 3] += 1.0
    before, after = encoder(x), encoder(changed)
    assert torch.equal(before[1][..., :3], after[1][..., :3])
    assert not torch.equal(before[2][..., 0], after[2][..., 0])


@pytest.mark.parametrize("shape", [(5, 7, 1), (4, 6, 2), (3, 3, 5), (1, 1, 1)])
def test_pooled_parts_equal_adaptive_pooling(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, 3, *shape)
    parts = pool_parts(x).view(2, 8, 2, 3)
    highest, mean = functional.adaptive_max_pool3d(x, 2), functional.adaptive_avg_pool3d(x, 2)
    torch.testing.assert_close(parts[:, :, 0].transpose(1, 2), highest.flatten(2))
    torch.testing.assert_close(parts[:, :, 1].transpose(1, 2), mean.flatten(2))


def test_too_small_an_input_names_the_axis() -> None:
    with pytest.raises(ValueError, match="axis S has 3 voxels, at least 4"):
        PaperDenseNet()(torch.zeros(1, 1, 32, 32, 3))
