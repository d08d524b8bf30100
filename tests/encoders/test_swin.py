"""Swin-UNETR's encoder and decoder against MONAI's own network: features, answers, weights both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SwinUNETR as StockSwinUNETR
from torch import Tensor

from volssl.encoders import DenseNet121, SwinUNETR, UNETRDecoder, save_stock_weights
from volssl.encoders.stock import recognised, stock_weights
from volssl.encoders.swin import RatesInMemory

SETTINGS: dict[str, Any] = {"feature_size": 12, "depths": [2, 1, 1, 1], "num_heads": [2, 3, 4, 6], "window_size": 4}


def stock_network(in_channels: int = 1, out_channels: int = 2, **other: Any) -> StockSwinUNETR:
    return StockSwinUNETR(in_channels=in_channels, out_channels=out_channels, **{**SETTINGS, **other}).eval()


@pytest.fixture(scope="module")
def stock() -> StockSwinUNETR:
    torch.manual_seed(5)
    return stock_network()


@pytest.fixture(scope="module")
def encoder(stock: StockSwinUNETR) -> SwinUNETR:
    """With the stock network's weights."""
    built = SwinUNETR(**SETTINGS).eval()
    assert built.load_state_dict(stock.state_dict(), strict=False).missing_keys == []
    return built


def self_supervised(stock: StockSwinUNETR) -> dict[str, Any]:
    """The layout of the published self-supervised weights, which the stock network's `load_from` reads."""
    bare = {name.removeprefix("swinViT."): value for name, value in stock.state_dict().items() if "swinViT." in name}
    state = {f"module.{name.replace('.mlp.linear', '.mlp.fc')}": value for name, value in bare.items()}
    heads = {"module.norm.weight": torch.ones(1), "module.rotation_head.weight": torch.ones(4, 192)}
    return {"epoch": 3, "state_dict": state | heads}


def test_the_levels_are_the_stock_transformers(stock: StockSwinUNETR, encoder: SwinUNETR) -> None:
    x = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        pyramid, theirs = encoder(x), stock.swinViT(x, stock.normalize)
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (12, 32, 16, 16),
        (24, 16, 8, 8),
        (48, 8, 4, 4),
        (96, 4, 2, 2),
        (192, 2, 1, 1),
    ]
    assert all(torch.equal(a, b) for a, b in zip(pyramid, theirs, strict=True))
    torch.testing.assert_close(encoder.pool(pyramid)[0], (theirs[-1][0, :, 0, 0, 0] + theirs[-1][0, :, 1, 0, 0]) / 2)


def test_encoder_and_decoder_are_the_stock_network(stock: StockSwinUNETR, encoder: SwinUNETR, tmp_path: Path) -> None:
    decoder = UNETRDecoder(encoder, out_channels=2).eval()
    state = stock.state_dict()
    decoder.load_state_dict({name: value for name, value in state.items() if not name.startswith("swinViT.")})
    x = torch.rand(1, 1, 32, 64, 32)
    with torch.no_grad():
        assert torch.equal(decoder(x, encoder(x)), stock(x))
    save_stock_weights(tmp_path / "whole.pt", encoder, decoder=decoder)
    written = torch.load(tmp_path / "whole.pt", weights_only=True)
    assert written.keys() == state.keys()
    fresh = stock_network()
    fresh.load_state_dict(written)
    with torch.no_grad():
        assert torch.equal(fresh(x), stock(x))


def test_the_decoder_restores_the_inputs_channels_and_trains_every_parameter(encoder: SwinUNETR) -> None:
    two = SwinUNETR(2, **SETTINGS)
    decoder = UNETRDecoder(two)
    x = torch.rand(1, 2, 64, 32, 32)
    restored = decoder(x, two(x))
    assert restored.shape == x.shape
    (restored * torch.randn_like(restored)).sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_the_encoder_alone_is_loaded_by_the_stock_network(encoder: SwinUNETR, tmp_path: Path) -> None:
    save_stock_weights(tmp_path / "encoder.pt", encoder)
    fresh = stock_network()
    missing, unexpected = fresh.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True), strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {name for name, _ in fresh.named_children()} - {"swinViT"}


def test_the_published_self_supervised_layout_is_read_as_monai_reads_it(stock: StockSwinUNETR) -> None:
    published = self_supervised(stock)
    theirs = stock_network()
    theirs.load_from(published)
    state = stock_weights(published)
    assert state is not None
    encoder = SwinUNETR(**SETTINGS).eval()
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], ["norm.weight", "rotation_head.weight"])
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(x), theirs.swinViT(x), strict=True))


def rename_none(name: str) -> str:
    return name


def rename_trainers(name: str) -> str:
    return "module." + name.replace("swinViT.", "swin_vit.")


def rename_autoencoders(name: str) -> str:
    """As Disruptive Autoencoders name them: `encoder.layers1.0.0.blocks…` (MONAI's `filter_swinunetr`)."""
    inner = name.removeprefix("swinViT.")
    return "encoder." + (f"{inner[:10]}0.{inner[10:]}" if inner.startswith("layers") else inner)


@pytest.mark.parametrize("rename", [rename_none, rename_trainers, rename_autoencoders])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_other_layouts_come_to_the_same_names(stock: StockSwinUNETR, rename: Any, wrapper: str) -> None:
    wanted: dict[str, Tensor] = stock.swinViT.state_dict(prefix="swinViT.")
    values: dict[str, Any] = {rename(name): value for name, value in wanted.items()}
    state = stock_weights({wrapper: values} if wrapper else values)
    assert state is not None
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("use_v2", [False, True])
def test_settings_are_read_off_the_weights(use_v2: bool) -> None:
    state = stock_network(in_channels=2, use_v2=use_v2).state_dict()
    name, settings = recognised(state)
    assert (name, settings) == ("SwinUNETR", {"in_channels": 2, **SETTINGS, "use_v2": use_v2})
    assert SwinUNETR(**settings).load_state_dict(state, strict=False).missing_keys == []


def test_what_is_no_weights_of_these_networks_is_not_taken_for_some() -> None:
    assert stock_weights([1]) is None
    assert stock_weights({}) is None
    assert stock_weights({"conv.weight": torch.ones(1)}) is None
    assert stock_weights({"swinViT.patch_embed.proj.weight": torch.ones(1), "x": "y"}) is None
    with pytest.raises(ValueError, match=r"weights without swinViT\.layers1\.0\.blocks\.0"):
        recognised({"swinViT.patch_embed.proj.weight": torch.ones(12, 1, 2, 2, 2)})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feature_size": 20}, "feature_size is 20, a multiple of 12"),
        ({"depths": [2, 2, 2]}, r"depths are \[2, 2, 2\], 4 numbers"),
        ({"num_heads": [5, 6, 12, 24]}, "num_heads 5 does not divide the 48 channels"),
        ({"downsample": "pool"}, "one of merging, mergingv2"),
        ({"depths": [2, 2, 2, 2000]}, "at most 64 blocks"),
    ],
)
def test_settings_that_no_swin_unetr_has_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SwinUNETR(**settings)


def test_the_size_of_a_network_is_known_without_memory() -> None:
    with torch.device("meta"):
        encoder = SwinUNETR(feature_size=12, drop_path_rate=0.3)
    assert {value.device.type for value in encoder.state_dict().values()} == {"meta"}
    rates = [module.drop_prob for module in encoder.modules() if type(module).__name__ == "DropPath"]
    assert rates == pytest.approx([0.3 * block / 7 for block in range(1, 8)])


def test_a_decoder_wants_swins_pyramid(tmp_path: Path, encoder: SwinUNETR) -> None:
    other = DenseNet121(init_features=8, growth=2)
    with pytest.raises(ValueError, match="not that of a DenseNet121"):
        UNETRDecoder(other)
    with pytest.raises(ValueError, match="DenseNet121 has none"):
        save_stock_weights(tmp_path / "x.pt", other, decoder=UNETRDecoder(encoder))


def test_the_defaults_are_the_published_networks() -> None:
    encoder = SwinUNETR()
    assert (encoder.channels, encoder.dim) == ((48, 96, 192, 384, 768), 768)
    with torch.device("meta"), RatesInMemory():
        stock = StockSwinUNETR(in_channels=1, out_channels=1, feature_size=48)
    shapes = {name: value.shape for name, value in stock.swinViT.state_dict(prefix="swinViT.").items()}
    assert {name: value.shape for name, value in encoder.state_dict().items()} == shapes
