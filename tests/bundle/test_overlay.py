"""Where a network looked: found as the papers say, laid where the study lies, and telling nobody's name."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tests.bundle.conftest import Line
from volssl.bundle.overlay import MARKS
from volssl.bundle.predict import predict_studies
from volssl.bundle.saliency import deepest, on_study, saliency, scaled
from volssl.encoders import DenseNet121, PaperDenseNet, SwinUNETR
from volssl.encoders.base import Encoder
from volssl.heads import TaskNetwork
from volssl.slabs import SlabNetwork, SuspectNetwork
from volssl.transforms.head_box import BoxInfo, cut_box


class Corner(Encoder):
    """An encoder without convolutions whose one feature is the mean of the first eighth of the volume."""

    channels, strides, dim, min_size = (1,), ((1, 1, 1),), 1, (1, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1][:, :, :4, :4, :4].mean(dim=(2, 3, 4))

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        return ()


def test_hires_cam_is_the_papers_formula_and_leaves_the_network_as_it_was() -> None:
    torch.manual_seed(0)
    network = TaskNetwork(PaperDenseNet(), types=1, slices=4).eval()
    image = torch.rand(1, 1, 32, 32, 4)
    before = [value.clone() for value in network.state_dict().values()]
    found = saliency(network, image, column=1)
    maps = network.encoder(image)[deepest(network.encoder, (32, 32, 4))]  # (1, C, 8, 8, 4)
    assert maps.shape[2:] == (8, 8, 4)

    def from_level(level: Tensor) -> Tensor:
        x = level
        for pool, block in zip(network.encoder.pools[2:], network.encoder.blocks[2:], strict=True):
            x = block(pool(x))
        return network.labels(network.encoder.pool([x]))[0, 1]

    (gradient,) = torch.autograd.grad(from_level(maps), maps)
    wanted = functional.relu((gradient * maps).sum(dim=1, keepdim=True))
    wanted = functional.interpolate(wanted, size=(32, 32, 4), mode="trilinear")[0, 0]
    assert wanted.max() > 0
    assert torch.allclose(found.grid, scaled(wanted), atol=1e-4)
    assert found.method == "HiResCAM (MONAI) at level 2 of 5, one value for 4×4×1 voxels"
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_occlusion_finds_the_corner_that_alone_is_looked_at() -> None:
    network = TaskNetwork(Corner(), types=0, slices=0).eval()
    nn.init.ones_(network.labels.weight)
    image = torch.zeros(1, 1, 16, 16, 16)
    image[:, :, :4, :4, :4] = 1
    found = saliency(network, image, column=0)
    assert found.method == "occlusion sensitivity (MONAI)"
    assert found.grid[0, 0, 0] == 1
    assert found.grid[8:].max() == found.grid[:, 8:].max() == found.grid[:, :, 8:].max() == 0


def test_of_two_joined_series_the_map_is_of_the_first_and_zeros_are_none() -> None:
    torch.manual_seed(0)
    network = TaskNetwork(PaperDenseNet(), types=1, slices=4, join="mean").eval()
    image = torch.rand(1, 2, 32, 32, 4)
    found = saliency(network, image, column=1)
    level = deepest(network.encoder, (32, 32, 4))
    maps = network.encoder(image[:, :1])[level]

    def from_level(level: Tensor) -> Tensor:
        for pool, block in zip(network.encoder.pools[2:], network.encoder.blocks[2:], strict=True):
            level = block(pool(level))
        return network.labels(network.encoder.pool([level]) / 2)[0, 1]  # the other half is of the second

    (gradient,) = torch.autograd.grad(from_level(maps), maps)
    wanted = functional.relu((gradient * maps).sum(dim=1, keepdim=True))
    wanted = functional.interpolate(wanted, size=(32, 32, 4), mode="trilinear")[0, 0]
    assert torch.allclose(found.grid, scaled(wanted), atol=1e-4)
    swin = TaskNetwork(SwinUNETR(feature_size=12, window_size=4), types=0, slices=0, join="mean").eval()
    image = torch.cat([torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1, 32, 32, 32)], dim=1)
    alone = saliency(swin, image[:, :1], column=0)
    assert torch.equal(saliency(swin, image, column=0).grid, alone.grid)


@pytest.mark.parametrize(
    ("encoder", "size", "method"),
    [
        (DenseNet121(init_features=8, growth=4), (32, 32, 32), "HiResCAM (MONAI) at level 2 of 5"),
        (SwinUNETR(feature_size=12, window_size=4), (32, 32, 32), "occlusion sensitivity (MONAI)"),
    ],
)
def test_each_encoder_has_its_way(encoder: Encoder, size: tuple[int, int, int], method: str) -> None:
    torch.manual_seed(0)
    network = TaskNetwork(encoder, types=0, slices=0, flips=True).eval()
    found = saliency(network, torch.rand(1, 1, *size), column=0)
    assert found.method.startswith(method)
    assert found.grid.shape == size
    assert 0 <= found.grid.min() <= found.grid.max() <= 1


def test_of_slabs_each_slice_has_a_map_of_its_own() -> None:
    torch.manual_seed(0)
    network = SlabNetwork(PaperDenseNet(), SuspectNetwork((4,) * 6)).eval()
    image = torch.rand(1, 1, 32, 32, 6)
    found = saliency(network, image, column=0)
    assert found.grid.shape == (32, 32, 6)
    other = image.clone()
    other[..., 5] = 0  # in the slabs of slices 3 to 5, and of none before; the suspects' network sees a little further
    changed = saliency(network, other, column=0)
    assert found.grid[..., 5].sum() > 0
    assert not torch.allclose(found.grid[..., 5], changed.grid[..., 5], atol=1e-3)
    assert found.method.endswith("slab by slab")


def test_a_voxel_of_the_scan_gets_the_saliency_of_where_it_lay_in_the_box() -> None:
    hu = np.zeros((1, 24, 20, 12), dtype=np.float32)
    hu[0, 14, 9, 7] = 100
    box = ((2.0, 18.0), (4.0, 20.0), (1.0, 9.0))
    info = BoxInfo(box, (16, 16, 8), (24, 20, 12), (1.0, 1.0, 2.0))
    back = on_study(cut_box(hu, box, info.grid, (50.0, 100.0))[0], info)
    assert back.shape == (24, 20, 12)
    assert back.numpy() == pytest.approx(hu[0] / 100, abs=1e-6)  # the box is on the voxels: there and back is exact
    finer = BoxInfo(box, (32, 32, 16), (24, 20, 12), (1.0, 1.0, 2.0))
    back = on_study(cut_box(hu, box, finer.grid, (50.0, 100.0))[0], finer)
    assert np.unravel_index(int(back.argmax()), back.shape) == (14, 9, 7)


def test_a_volume_and_a_picture_stand_beside_each_answer_and_name_nobody(line: Line, tmp_path: Path) -> None:
    (answer,) = predict_studies(line.bundle, line.series[:1], tmp_path / "out", overlay=True)
    key = answer.content["study"]
    volume, picture = (tmp_path / "out" / f"{key}-saliency{ending}" for ending in (".nii.gz", ".png"))
    image = nibabel.load(volume)
    scan = nibabel.load(line.volumes[0])
    assert image.shape == nibabel.as_closest_canonical(scan).shape
    assert image.affine == pytest.approx(nibabel.as_closest_canonical(scan).affine, abs=1e-3)
    values = image.get_fdata()
    assert 0 <= values.min() <= values.max() <= 1
    with Image.open(picture) as shown:
        assert shown.size[0] > 1000
        assert shown.info.keys() <= {"dpi"}
    held = volume.read_bytes()
    assert held[3] == 0  # gzip's own header has no name
    for secret in (line.series[0].name, str(tmp_path)):
        assert secret.encode() not in gzip.decompress(held) + picture.read_bytes()
    told = bytes(image.header["descrip"]).strip(b"\0")
    assert told == b"SIMULATED TRAINING DATA. Research software, no medical device."
    assert all(len(mark) < 80 for mark in MARKS.values())
    assert bytes(image.header["db_name"]).strip(b"\0") == b""
