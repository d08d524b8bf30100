"""Loading weights: the report, the threshold, and the rule between one input channel and several."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from volssl.encoders.weights import load_weights, match_channels
from volssl.errors import UserError


def test_the_report_names_what_fits_and_what_does_not() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3))
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.weight": torch.ones(4, 2), "x": torch.ones(1)}
    report = load_weights(network, state, source="f", least=0.5, notes=["a note"])
    assert (report.loaded, report.missing) == (["0.bias", "0.weight"], ["1.bias"])
    assert (report.wrong_shape, report.unexpected) == (["1.weight"], ["x"])
    assert report.share == 0.5
    assert str(report).splitlines() == [
        "weights: 2 tensors loaded (50%)",
        "  1 missing: 1.bias",
        "  1 unexpected: x",
        "  1 of another shape: 1.weight",
        "  a note",
    ]
    assert torch.equal(network[0].weight, torch.ones(2, 2))


def test_under_the_threshold_nothing_is_loaded() -> None:
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    with pytest.raises(UserError, match="f: fills 50% of the network's tensors and 51% are needed"):
        load_weights(network, {"weight": torch.ones(2, 2)}, source="f", least=0.51)
    assert torch.equal(network.weight, before)


def test_a_file_of_the_networks_own_may_hold_nothing_else() -> None:
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    own = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
    with pytest.raises(UserError, match=r"^f: holds 1 tensors that the network has no place for;.*\(first: x\)$"):
        load_weights(network, own | {"x": torch.ones(1)}, source="f", least=1.0)
    assert torch.equal(network.weight, before)
    assert load_weights(network, own, source="f", least=1.0).loaded == ["bias", "weight"]
    assert torch.equal(network.weight, torch.ones(2, 2))


def test_one_channel_for_n_and_n_for_one_keep_the_convolution_of_equal_channels() -> None:
    weight, x = torch.randn(5, 1, 3, 3, 3), torch.rand(1, 1, 6, 6, 6)
    several, notes = match_channels({"w": weight, "b": torch.ones(5)}, ["w"], 4, source="f")
    assert several["w"].shape == (5, 4, 3, 3, 3)
    assert torch.equal(several["b"], torch.ones(5))
    assert notes == ["w: made for 1 channel, repeated for 4 and divided by 4"]
    wanted = functional.conv3d(x, weight, padding=1)
    torch.testing.assert_close(functional.conv3d(x.expand(-1, 4, -1, -1, -1), several["w"], padding=1), wanted)
    back, notes = match_channels(several, ["w"], 1, source="f")
    torch.testing.assert_close(back["w"], weight)
    assert notes == ["w: made for 4 channels, summed to 1"]


def test_as_many_channels_as_wanted_are_left_alone() -> None:
    state = {"w": torch.randn(5, 3, 3, 3, 3)}
    same, notes = match_channels(state, ["w", "absent"], 3, source="f")
    assert same["w"] is state["w"]
    assert notes == []


def test_between_two_and_three_channels_there_is_no_rule() -> None:
    with pytest.raises(UserError, match="f: made for 2 input channels and would be fed 3"):
        match_channels({"w": torch.zeros(5, 2, 3, 3, 3)}, ["w"], 3, source="f")
