"""What every encoder that volssl exports must keep, found by itself: a new one is tested by being exported."""

from __future__ import annotations

import json
from copy import deepcopy
from math import lcm
from typing import Any

import pytest
import torch

import volssl.encoders as exported
from volssl.encoders import Encoder, build_encoder

NAMES = [
    name
    for name in exported.__all__
    if isinstance(kind := getattr(exported, name), type) and issubclass(kind, Encoder) and kind is not Encoder
]
# Smaller than the defaults where these take seconds; an encoder that is not named here is tested with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "DenseNet121": {"init_features": 8, "growth": 2},
    "SwinUNETR": {"feature_size": 12, "depths": [2, 1, 1, 1], "num_heads": [3, 3, 3, 3], "window_size": 3},
}
Size = tuple[int, int, int]


def small(name: str, in_channels: int = 1, **settings: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(name, in_channels=in_channels, settings=SMALL.get(name, {}) | settings)


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return small(request.param).eval()


def sizes(encoder: Encoder) -> tuple[Size, Size]:
    """The smallest size that every stride divides, and a longer one along R and S."""
    steps = [lcm(stride, multiple) for stride, multiple in zip(encoder.strides[-1], encoder.multiple, strict=True)]
    r, a, s = (-(-least // step) * step for least, step in zip(encoder.min_size, steps, strict=True))
    return (r, a, s), (r + steps[0], a, s + steps[2])


def test_all_three_networks_are_found() -> None:
    assert {"PaperDenseNet", "DenseNet121", "SwinUNETR"} <= set(NAMES)


@pytest.mark.parametrize("which", [0, 1])
def test_the_pyramid_has_the_stated_channels_and_strides(encoder: Encoder, which: int) -> None:
    size = sizes(encoder)[which]
    with torch.no_grad():
        pyramid = encoder(torch.rand(2, 1, *size))
    expected = [
        (2, channels, *(n // step for n, step in zip(size, stride, strict=True)))
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [tuple(level.shape) for level in pyramid] == expected
    voxels = [level[0, 0].numel() for level in pyramid]
    assert voxels == sorted(voxels, reverse=True)  # finest first


def test_the_pooled_feature_has_the_stated_length_and_is_that_of_the_pyramid(encoder: Encoder) -> None:
    x = torch.rand(2, 1, *sizes(encoder)[0])
    with torch.no_grad():
        pyramid = encoder(x)
        kept = [level.clone() for level in pyramid]
        pooled = encoder.pool(pyramid)
        assert pooled.shape == (2, encoder.dim)
        assert torch.equal(pooled, encoder.pooled(x))
    assert all(torch.equal(a, b) for a, b in zip(pyramid, kept, strict=True))  # pooling changes no level
    assert (pooled[0] - pooled[1]).abs().max() > 1e-6


def test_the_smallest_size_is_encoded_and_what_is_smaller_is_refused_by_its_axis(encoder: Encoder) -> None:
    with torch.no_grad():
        encoder(torch.rand(1, 1, *encoder.min_size))
    for i, axis in enumerate("RAS"):
        size = list(encoder.min_size)
        size[i] -= 1
        with pytest.raises(ValueError, match=f"axis {axis} has {size[i]} voxels, at least {size[i] + 1}"):
            encoder(torch.rand(1, 1, *size))


def test_a_size_that_is_no_multiple_is_refused_by_its_axis(encoder: Encoder) -> None:
    for i, axis in enumerate("RAS"):
        size = list(sizes(encoder)[0])
        size[i] += 1
        if encoder.multiple[i] > 1:
            with pytest.raises(ValueError, match=f"axis {axis} has {size[i]} voxels, a multiple of"):
                encoder(torch.rand(1, 1, *size))


def test_settings_are_plain_values_that_build_the_encoder_again(encoder: Encoder) -> None:
    assert json.loads(json.dumps(encoder.settings)) == encoder.settings
    again = type(encoder)(**encoder.settings).eval()
    again.load_state_dict(encoder.state_dict())
    x = torch.rand(1, 1, *sizes(encoder)[0])
    with torch.no_grad():
        assert torch.equal(again.pooled(x), encoder.pooled(x))


def test_the_first_layers_are_those_whose_shape_follows_the_input_channels(encoder: Encoder) -> None:
    one, three = encoder.state_dict(), small(type(encoder).__name__, in_channels=3).state_dict()
    changed = {name for name in one if one[name].shape != three[name].shape}
    assert changed == set(encoder.first_layers)
    assert all(three[name].shape[1] == 3 for name in changed)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_from_pyramid_and_pooled_feature(name: str) -> None:
    encoder = small(name)
    pyramid = encoder(torch.rand(2, 1, *sizes(encoder)[0]))
    loss = sum((level * torch.randn_like(level)).sum() for level in pyramid)
    pooled = encoder.pool(pyramid)
    (loss + (pooled * torch.randn_like(pooled)).sum()).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_channels_last_gives_the_same_numbers(encoder: Encoder) -> None:
    x = torch.rand(2, 1, *sizes(encoder)[1])
    with torch.no_grad():
        other = deepcopy(encoder).to(memory_format=torch.channels_last_3d)
        pyramid = other(x.to(memory_format=torch.channels_last_3d))
        for ours, theirs in zip(encoder(x), pyramid, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_changes_neither_gradients_nor_statistics(name: str) -> None:
    plain, saving = small(name), small(name, checkpointing=True)
    assert saving.settings["checkpointing"]
    x = torch.rand(2, 1, *sizes(plain)[0])
    for encoder in (plain, saving):
        encoder.train().pooled(x).square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    for (key, a), b in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_every_parameter_and_buffer_is_in_one_stage(encoder: Encoder) -> None:
    own = [id(t) for t in (*encoder.parameters(), *encoder.buffers())]
    staged = [id(t) for stage in encoder.stages() for part in stage for t in (*part.parameters(), *part.buffers())]
    assert sorted(staged) == sorted(own)
    stem = {id(p) for part in encoder.stages()[0] for p in part.parameters()}
    assert {id(encoder.get_parameter(name)) for name in encoder.first_layers} <= stem


@pytest.mark.parametrize("name", NAMES)
def test_a_level_depends_on_the_first_stages_alone_and_the_pooled_feature_on_all(name: str) -> None:
    encoder = small(name)
    stages = [[p for part in stage for p in part.parameters()] for stage in encoder.stages()]
    pyramid = encoder(torch.rand(2, 1, *sizes(encoder)[0]))
    reached = []
    for made in (*pyramid, encoder.pool(pyramid)):
        loss = (made * torch.randn_like(made)).sum()
        grads = [torch.autograd.grad(loss, stage, retain_graph=True, allow_unused=True) for stage in stages]
        used = [any(g is not None for g in stage) for stage in grads]
        assert used == sorted(used, reverse=True)  # the first few, and none after a gap
        reached.append(sum(used))
    assert reached == sorted(reached)
    assert reached[0] < len(stages) == reached[-1]
    assert len(stages) >= len(pyramid)
