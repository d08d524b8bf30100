"""What the bundle of a pretraining run is made of: an encoder that answers with its feature, and the crop it is fed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn

from volssl.bundle.embed import middle_crop
from volssl.contract import InputContract
from volssl.encoders.base import Encoder, Size
from volssl.transforms.head_box import BoxInfo, ras_spacing_mm
from volssl.views.base import Box, Scan


class EmbeddingNetwork(nn.Module):
    """An encoder that answers with its pooled feature.

    Args:
        encoder: any `Encoder`.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, R, A, S) -> (B, dim)."""
        feature: Tensor = self.encoder.pool(self.encoder(x))
        return feature


class MiddleCropd(MapTransform):  # type: ignore[misc]
    """The crop that `volssl embed` feeds an encoder, of the entries of a dictionary; where it lies under `<key>_box`.

    An entry is a (1, R, A, S) MetaTensor whose affine has RAS axes, HU for CT. The dictionary holds its `foreground`
    and `intensity` too, and the `modality` of each, as `volssl.data.studies.Studies` gives them.

    Args:
        keys: entries to transform.
        modality: what the encoder was trained on: `CT`, `MR` or `CT+MR`.
        grid: voxels along R, A, S.
        spacing_mm: of the crop.
        window_hu: (center, width) in HU, or one such pair for each channel; empty for MR.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str,
        grid: Size,
        spacing_mm: tuple[float, float, float],
        window_hu: tuple[float, float] | tuple[tuple[float, float], ...] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        contract = InputContract(modality=modality, window_hu=window_hu or None, spacing_mm=spacing_mm, grid=grid)
        self.preprocessing = middle_crop(contract)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            scan = ReadScan(result, key)
            image, facts = self.preprocessing.make(scan)
            result[key], result[f"{key}_box"] = image, crop_info(scan, facts, self.preprocessing.contract).as_dict()
        return result


@dataclass(frozen=True)
class ReadScan:
    """A volume that has been read, in the form of a `Scan`."""

    entries: Mapping[Hashable, Any]
    key: Hashable
    id: str = ""

    @property
    def shape(self) -> Size:
        r, a, s = self.entries[self.key].shape[1:]
        return int(r), int(a), int(s)

    @property
    def affine(self) -> np.ndarray:
        return np.asarray(self.entries[self.key].affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return ras_spacing_mm(self.affine, self.key)

    @property
    def modality(self) -> str:
        return str(self.entries["modality"])

    @property
    def foreground(self) -> Box:
        box: Box = self.entries["foreground"]
        return box

    @property
    def intensity(self) -> tuple[float, float]:
        low, high = self.entries["intensity"]
        return float(low), float(high)

    def read(self, box: Box | None = None) -> np.ndarray:
        values = np.asarray(self.entries[self.key])
        return values if box is None else values[(slice(None), *(slice(first, last) for first, last in box))]


def crop_info(scan: Scan, facts: Mapping[str, Any], contract: InputContract) -> BoxInfo:
    """Where `middle_crop` cut a scan, by what it told."""
    r, a, s = ((float(first), float(last)) for first, last in facts["box"])
    return BoxInfo((r, a, s), contract.grid, scan.shape, scan.spacing_mm)
