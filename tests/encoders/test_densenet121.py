"""DenseNet121 against MONAI's own: features, pooling, weights both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121 as StockDenseNet121
from torch import nn

from volssl.encoders import DenseNet121, PaperDenseNet, save_stock_weights
from volssl.encoders.stock import recognised, stock_weights


@pytest.fixture(scope="module")
def stock() -> StockDenseNet121:
    """Stock network with statistics that are not those of a new one."""
    torch.manual_seed(3)
    network = StockDenseNet121(spatial_dims=3, in_channels=1, out_channels=3, init_features=8, growth_rate=2)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.running_mean.uniform_(-0.1, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_the_defaults_are_densenet121s() -> None:
    encoder = DenseNet121()
    assert encoder.channels == (64, 256, 512, 1024, 1024)
    assert encoder.dim == 1024
    stock = StockDenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
    own = {name: value.shape for name, value in encoder.state_dict().items()}
    theirs = {name: value.shape for name, value in stock.state_dict().items()}
    assert {name for name in theirs if name not in own} == {"class_layers.out.weight", "class_layers.out.bias"}
    assert own == {name: theirs[name] for name in own}


def test_stock_weights_give_the_stock_networks_features_and_answers(stock: StockDenseNet121) -> None:
    encoder = DenseNet121(init_features=8, growth=2).eval()
    missing, unexpected = encoder.load_state_dict(stock.state_dict(), strict=False)
    assert missing == []
    assert set(unexpected) == {"class_layers.out.weight", "class_layers.out.bias"}
    x = torch.rand(2, 1, 64, 48, 40)
    with torch.no_grad():
        pyramid = encoder(x)
        assert torch.equal(pyramid[-1], stock.features(x))
        assert torch.equal(pyramid[1], stock.features[:5](x))
        torch.testing.assert_close(stock.class_layers.out(encoder.pool(pyramid)), stock(x), atol=1e-6, rtol=1e-6)


def test_what_is_written_is_loaded_strictly_by_the_stock_network(stock: StockDenseNet121, tmp_path: Path) -> None:
    torch.manual_seed(4)
    encoder, classifier = DenseNet121(init_features=8, growth=2).eval(), nn.Linear(64, 3)
    assert encoder.dim == stock.class_layers.out.in_features == 64
    save_stock_weights(tmp_path / "whole.pt", encoder, classifier=classifier)
    fresh = StockDenseNet121(spatial_dims=3, in_channels=1, out_channels=3, init_features=8, growth_rate=2).eval()
    fresh.load_state_dict(torch.load(tmp_path / "whole.pt", weights_only=True))
    x = torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), classifier(encoder.pooled(x)), atol=1e-6, rtol=1e-6)


def test_28_voxels_are_too_few_for_the_stock_network_and_29_are_enough(stock: StockDenseNet121) -> None:
    assert tuple(stock.features(torch.zeros(1, 1, 29, 29, 29)).shape) == (1, 64, 1, 1, 1)
    with pytest.raises(RuntimeError, match="smaller than kernel"):
        stock.features(torch.zeros(1, 1, 29, 29, 28))


def test_settings_are_read_off_the_weights(stock: StockDenseNet121) -> None:
    state = stock_weights({"state_dict": {f"module.{name}": value for name, value in stock.state_dict().items()}})
    assert state is not None
    name, settings = recognised(state)
    assert (name, settings) == ("DenseNet121", {"in_channels": 1, "init_features": 8, "growth": 2})


def test_networks_of_another_depth_or_in_two_dimensions_are_refused() -> None:
    units = (6, 12, 32, 32)  # DenseNet169
    deeper = StockDenseNet121(spatial_dims=3, in_channels=1, out_channels=1, growth_rate=2, block_config=units)
    with pytest.raises(ValueError, match=r"blocks of \(6, 12, 32, 32\) layers"):
        recognised(deeper.state_dict())
    flat = StockDenseNet121(spatial_dims=2, in_channels=1, out_channels=1, growth_rate=2)
    with pytest.raises(ValueError, match="not 3D"):
        recognised(flat.state_dict())


def test_the_papers_network_is_not_written_for_monai(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MONAI has no PaperDenseNet"):
        save_stock_weights(tmp_path / "x.pt", PaperDenseNet())
    assert not list(tmp_path.iterdir())
