"""Encoders by name: what is misspelt is answered with the nearest name, and a file says how to build its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from volssl.contract import InputContract
from volssl.encoders import DenseNet121, PaperDenseNet, SwinUNETR, build_encoder, encoder_like, save_encoder
from volssl.errors import UserError

CT = InputContract("CT", (55.0, 200.0), (1.0, 1.0, 1.0), (32, 32, 32))


@pytest.fixture(scope="module")
def swin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    settings = {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2], "window_size": 3}
    save_encoder(
        folder / "encoder.pt", build_encoder("SwinUNETR", settings=settings), contract=CT, patients=[], method=""
    )
    return folder


def test_a_name_builds_its_class_with_channels_and_settings() -> None:
    encoder = build_encoder("PaperDenseNet", in_channels=3, settings={"growth": 2})
    assert type(encoder) is PaperDenseNet
    assert (encoder.in_channels, encoder.settings["growth"]) == (3, 2)
    assert type(build_encoder("DenseNet121", settings={"growth": 2, "init_features": 4})) is DenseNet121
    assert type(build_encoder()) is PaperDenseNet


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("densenet121", {}, "no such encoder, did you mean DenseNet121"),
        ("SwinUNet", {}, "did you mean SwinUNETR"),
        ("ResNet", {}, "ResNet: no such encoder.*there are PaperDenseNet, DenseNet121, SwinUNETR"),
        ("PaperDenseNet", {"grwth": 3}, "no setting grwth, did you mean growth.*init_features, growth, compress"),
        ("PaperDenseNet", {"in_channels": 3}, "no setting in_channels"),
        ("SwinUNETR", {"feature_size": 13}, "SwinUNETR: feature_size is 13, a multiple of 12"),
        ("DenseNet121", {"growth": "much"}, "DenseNet121: "),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_name(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        build_encoder(name, settings=settings)
    assert "\n" not in str(caught.value)


def test_without_a_name_the_files_architecture_is_built_for_the_channels_asked_for(swin_file: Path) -> None:
    name, settings = encoder_like(swin_file)
    assert (name, settings["feature_size"], settings["num_heads"]) == ("SwinUNETR", 12, [2, 2, 2, 2])
    encoder = build_encoder(None, in_channels=2, settings={"checkpointing": True}, path=swin_file / "encoder.pt")
    assert type(encoder) is SwinUNETR
    assert encoder.settings == settings | {"in_channels": 2, "checkpointing": True}


def test_a_name_goes_before_the_files(swin_file: Path) -> None:
    assert type(build_encoder("PaperDenseNet", path=swin_file)) is PaperDenseNet


def test_building_takes_no_weights_from_the_file(swin_file: Path) -> None:
    torch.manual_seed(7)
    encoder = build_encoder(path=swin_file)
    held = torch.load(swin_file / "encoder.pt", weights_only=True)["state_dict"]
    assert not torch.equal(
        encoder.state_dict()["swinViT.patch_embed.proj.weight"], held["swinViT.patch_embed.proj.weight"]
    )
