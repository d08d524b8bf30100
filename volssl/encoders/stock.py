"""Weights to and from stock MONAI networks, `monai.networks.nets.SwinUNETR` and `DenseNet121`.

Our encoders name their parameters as the stock networks do, so that nothing is renamed on the way out. On the way in,
the layouts in which such weights have been published are brought to those names: below `state_dict` or `model`, behind
`module.`, the bare transformer of the self-supervised Swin-UNETR (Tang et al. 2022), the `encoder.` of Disruptive
Autoencoders (Valanarasu et al. 2023). What stands beside the encoder, heads and decoders, stays and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.networks.nets.swin_unetr import filter_swinunetr
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.encoders.densenet121 import UNITS, DenseNet121
from volssl.encoders.swin import STAGES, SwinUNETR
from volssl.encoders.swin_decoder import UNETRDecoder
from volssl.tensors import save_tensors

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights
BARE_SWIN = re.compile(r"(patch_embed|layers[1-4]c?)\.")
PATCHES, STEM = SwinUNETR.first_layers[0], DenseNet121.first_layers[0]


def save_stock_weights(
    path: Path, encoder: Encoder, *, decoder: UNETRDecoder | None = None, classifier: nn.Linear | None = None
) -> None:
    """Write weights that a stock MONAI network loads with `load_state_dict`.

    Args:
        path: a file of tensors alone.
        encoder: a `SwinUNETR` or a `DenseNet121`.
        decoder: of a `SwinUNETR`: with it the stock network is whole; without, load with `strict=False`.
        classifier: of a `DenseNet121`, from its pooled features: the same holds.

    Raises:
        ValueError: for an encoder that MONAI does not have, or a part that it has no place for.
    """
    state = encoder.state_dict()
    if not isinstance(encoder, SwinUNETR | DenseNet121):
        raise ValueError(f"MONAI has no {type(encoder).__name__}; SwinUNETR and DenseNet121 can be written for it")
    if decoder is not None:
        if not isinstance(encoder, SwinUNETR):
            raise ValueError("a decoder belongs to SwinUNETR; DenseNet121 has none")
        state |= decoder.state_dict()
    if classifier is not None:
        if not isinstance(encoder, DenseNet121):
            raise ValueError("a classifier belongs to DenseNet121; SwinUNETR has none")
        state |= {f"class_layers.out.{name}": value for name, value in classifier.state_dict().items()}
    save_tensors(path, {name: value.detach().cpu().contiguous() for name, value in state.items()})


def stock_weights(values: Any) -> dict[str, Tensor] | None:
    """What a file of a stock network holds, under the stock network's names; None where it holds no such thing."""
    if not isinstance(values, Mapping):
        return None
    for wrapper in WRAPPERS:
        if isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    state = {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state or len(state) < len(values):
        return None
    named = dict(stock_name(name, value) for name, value in state.items())
    return named if PATCHES in named or STEM in named else None


def stock_name(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A published name -> the stock network's; other names stay."""
    name = name.removeprefix("module.").replace("swin_vit.", "swinViT.")
    if name.startswith("encoder."):
        name, value = filter_swinunetr(name, value) or (name, value)
    if BARE_SWIN.match(name):
        name = f"swinViT.{name}"
    if name.startswith("swinViT."):
        name = name.replace(".mlp.fc", ".mlp.linear")
    return name, value


def recognised(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The encoder that stock weights are for, by the shapes of its tensors -> its name and settings.

    Raises:
        ValueError: for a 2D network, a DenseNet of another depth, or a damaged file.
    """
    swin = PATCHES in state
    first = state[PATCHES if swin else STEM]
    if first.ndim != 5:
        raise ValueError("weights of a network that is not 3D")
    try:
        settings = swin_settings(state) if swin else densenet_settings(state)
    except KeyError as error:
        raise ValueError(f"weights without {error.args[0]}, which every such network has") from error
    return (SwinUNETR if swin else DenseNet121).__name__, {"in_channels": first.shape[1]} | settings


def swin_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of a `SwinUNETR` that show in its tensors."""
    blocks = [f"swinViT.layers{stage}.0.blocks" for stage in range(1, STAGES + 1)]
    tables = [state[f"{stage}.0.attn.relative_position_bias_table"] for stage in blocks]
    offsets = round(tables[0].shape[0] ** (1 / 3))  # (2 window - 1) along each axis
    return {
        "feature_size": state[PATCHES].shape[0],
        "depths": [count(state, rf"{re.escape(stage)}\.(\d+)\.") for stage in blocks],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (offsets + 1) // 2,
        "use_v2": any(name.startswith("swinViT.layers1c.") for name in state),
    }


def densenet_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of a `DenseNet121` that show in its tensors."""
    units = tuple(
        count(state, rf"features\.denseblock{block}\.denselayer(\d+)\.") for block in range(1, len(UNITS) + 1)
    )
    if units != UNITS:
        raise ValueError(f"weights of a DenseNet with blocks of {units} layers; DenseNet121 has {UNITS}")
    growth = state["features.denseblock1.denselayer1.layers.conv2.weight"].shape[0]
    return {"init_features": state[STEM].shape[0], "growth": growth}


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in names that match."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})
