"""The multi-task head on every encoder: columns, and logits of slices that stand where the slices are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from volssl.encoders import build_encoder
from volssl.heads import SliceHead, TaskNetwork, slice_levels

SMALL: dict[str, dict[str, Any]] = {
    "PaperDenseNet": {"growth": 2, "init_features": 4, "compress": 2},
    "DenseNet121": {"init_features": 8, "growth": 2},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [3, 3, 3, 3], "window_size": 3},
}


@pytest.mark.parametrize(
    ("name", "levels"),
    [("PaperDenseNet", (1, 4)), ("DenseNet121", (0, 1, 2, 3, 4)), ("SwinUNETR", (0, 1, 2, 3, 4))],
)
def test_every_encoder_gives_a_column_a_label_and_a_slice(name: str, levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = TaskNetwork(build_encoder(name, settings=SMALL[name]), volume=1, types=5, slices=32, dropout=0.0)
    assert network.slices is not None
    assert network.slices.levels == levels
    logits = network(torch.rand(2, 1, 32, 32, 32))
    assert logits.shape == (2, 1 + 5 + 32)
    logits[:, 6:].square().sum().backward()
    assert [n for n, p in network.slices.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_the_deepest_level_with_every_slice_is_chosen_and_all_where_there_is_none() -> None:
    assert slice_levels([(2, 2, 1), (4, 4, 1), (8, 8, 2)]) == (1, 2)
    assert slice_levels([(2, 2, 1), (4, 4, 1)]) == (1,)
    assert slice_levels([(2, 2, 2), (4, 4, 4), (8, 8, 8)]) == (0, 1, 2)


@pytest.mark.parametrize(
    ("stride", "index", "reached"),
    [
        # half a slice of linear interpolation to each side, and one of the convolution
        (1, 5, range(4, 7)),
        (2, 5, range(8, 14)),  # covers slices 10 and 11
    ],
)
def test_what_a_level_sees_at_one_place_moves_the_logits_of_its_slices_alone(
    stride: int, index: int, reached: range
) -> None:
    torch.manual_seed(0)
    head = SliceHead([3], levels=[0], slices=32)
    level = torch.rand(1, 3, 4, 4, 32 // stride)
    other = level.clone()
    other[..., index] += 1.0
    with torch.no_grad():
        moved = (head([level]) - head([other])).abs()[0] > 0
    assert moved.nonzero().flatten().tolist() == list(reached)


@pytest.mark.parametrize("join", ["mean", "max"])
def test_features_of_two_series_are_joined_and_slices_are_those_of_the_first(join: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("PaperDenseNet", settings=SMALL["PaperDenseNet"])
    plain = TaskNetwork(encoder, types=2, slices=8, dropout=0.0).eval()
    both = TaskNetwork(encoder, types=2, slices=8, dropout=0.0, join=join).eval()
    both.load_state_dict(plain.state_dict())
    first, second = torch.rand(3, 1, 32, 32, 8), torch.rand(3, 1, 32, 32, 8)
    second[1] = 0
    with torch.no_grad():
        logits, alone = both(torch.cat([first, second], dim=1)), plain(first)
        a, b = encoder.pooled(first), encoder.pooled(second)
        expected = plain.labels((a + b) / 2 if join == "mean" else torch.maximum(a, b))
        assert torch.allclose(logits[[0, 2], :3], expected[[0, 2]], atol=1e-5)
        assert (logits[0, :3] - alone[0, :3]).abs().max() > 1e-3
        assert torch.allclose(logits[1], alone[1], atol=1e-5)  # one series alone
        assert torch.allclose(logits[:, 3:], alone[:, 3:], atol=1e-5)
        assert torch.allclose(both(first), alone)


@pytest.mark.parametrize("join", ["mean", "max"])
def test_batch_statistics_are_of_the_series_that_are_there(join: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder("PaperDenseNet", settings=SMALL["PaperDenseNet"])
    network = TaskNetwork(copy.deepcopy(encoder), types=2, slices=0, dropout=0.0, join=join).train()
    first, second = torch.rand(3, 1, 32, 32, 8), torch.rand(3, 1, 32, 32, 8)
    second[1] = 0
    logits = network(torch.cat([first, second], dim=1))
    own, other = encoder.train().pooled(torch.cat([first, second[[0, 2]]])).tensor_split([3])
    other = torch.stack([other[0], own[1], other[1]])
    assert torch.allclose(
        logits, network.labels((own + other) / 2 if join == "mean" else torch.maximum(own, other)), atol=1e-5
    )
    for mine, theirs in zip(network.encoder.buffers(), encoder.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_both_series_teach_the_encoder() -> None:
    torch.manual_seed(0)
    network = TaskNetwork(
        build_encoder("PaperDenseNet", settings=SMALL["PaperDenseNet"]), types=0, slices=0, join="mean"
    )
    x = torch.rand(2, 2, 32, 32, 8, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None
    assert all(x.grad[:, series].abs().max() > 0 for series in (0, 1))
