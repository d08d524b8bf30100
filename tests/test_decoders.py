"""The light decoder: any encoder's pyramid, any size, every level used, no sample mixed with another."""

from __future__ import annotations

import pytest
import torch

from volssl.decoders import PyramidDecoder, fitted, spread
from volssl.encoders import DenseNet121, Encoder, PaperDenseNet, SwinUNETR


def decoder_of(encoder: Encoder, **options: int) -> PyramidDecoder:
    torch.manual_seed(0)
    return PyramidDecoder(encoder.channels, encoder.strides, **options)


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (PaperDenseNet(init_features=4, growth=2, compress=2), (16, 16, 4)),
        (PaperDenseNet(init_features=4, growth=2, compress=2), (17, 23, 5)),
        (PaperDenseNet(init_features=4, growth=2, compress=2), (30, 19, 7)),
        (DenseNet121(init_features=8, growth=4), (29, 33, 47)),
        (SwinUNETR(feature_size=12, depths=(1, 1, 1, 1)), (32, 64, 32)),
    ],
)
def test_it_gives_back_the_size_of_the_input(encoder: Encoder, size: tuple[int, int, int]) -> None:
    x = torch.rand(2, 1, *size)
    encoder.eval()
    assert decoder_of(encoder, out_channels=3, width=4)(x, encoder(x)).shape == (2, 3, *size)


def test_every_level_and_every_weight_takes_part() -> None:
    encoder = PaperDenseNet(init_features=4, growth=2, compress=2)
    decoder, x = decoder_of(encoder), torch.rand(2, 1, 32, 32, 8)
    pyramid = [level.detach().requires_grad_() for level in encoder(x)]
    decoder(x, pyramid).square().sum().backward()
    assert all(level.grad is not None and bool(level.grad.any()) for level in pyramid)
    assert all(p.grad is not None and bool(p.grad.any()) for p in decoder.parameters())


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    encoder = PaperDenseNet(init_features=4, growth=2, compress=2).eval()
    decoder, x = decoder_of(encoder).train(), torch.rand(3, 1, 32, 32, 8)
    whole = decoder(x, encoder(x))
    torch.testing.assert_close(decoder(x[1:2], encoder(x[1:2])), whole[1:2], atol=1e-5, rtol=1e-5)


def test_in_plane_levels_do_not_mix_slices() -> None:
    strides = ((2, 2, 1), (4, 4, 2))
    decoder = PyramidDecoder((5, 6), strides, width=4)
    assert [tuple(mix[0].weight.shape[2:]) for mix in decoder.mixes] == [(3, 3, 1), (3, 3, 3)]


def test_a_voxel_s_channels_become_the_block_it_stands_for() -> None:
    # Two feature voxels along R, stride (2, 1, 3): channel 6 c + 3 i + k goes to voxel (2 r + i, a, 3 s + k).
    x = torch.arange(2.0 * 2 * 6).reshape(1, 12, 2, 1, 1)
    got = spread(x, 2, (2, 1, 3))
    assert got.shape == (1, 2, 4, 1, 3)
    for c in range(2):
        for r in range(2):
            for i in range(2):
                for k in range(3):
                    assert got[0, c, 2 * r + i, 0, k] == x[0, 6 * c + 3 * i + k, r, 0, 0]


def test_what_strides_do_not_divide_is_cut_off_or_repeated_at_the_end() -> None:
    x = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert torch.equal(fitted(x, (1, 2, 2)), x[:, :, :1])
    longer = fitted(x, (2, 2, 4))
    assert torch.equal(longer[..., :2], x)
    assert torch.equal(longer[..., 2], x[..., 1])
    assert torch.equal(longer[..., 3], x[..., 1])


def test_a_width_that_has_no_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="width 6"):
        PyramidDecoder((5, 6), ((2, 2, 2), (4, 4, 4)), width=6)
    with pytest.raises(ValueError, match="one stride a level"):
        PyramidDecoder((5, 6), ((2, 2, 2),))


def test_at_the_beginning_the_voxels_of_a_block_are_alike() -> None:
    encoder = PaperDenseNet(init_features=4, growth=2, compress=2).eval()
    x = torch.rand(1, 1, 16, 16, 4)
    got = decoder_of(encoder, out_channels=2)(x, encoder(x))
    torch.testing.assert_close(got[:, :, ::2, ::2], got[:, :, 1::2, 1::2])
    assert not torch.allclose(got[:, 0], got[:, 1])
