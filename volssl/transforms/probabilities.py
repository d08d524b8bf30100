"""From a network's logits to probabilities, target by target: independent, among classes, or along a scale."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor


def probabilities(logits: Tensor, kind: str) -> Tensor:
    """Logits of one target (B, N) -> probabilities (B, N).

    Args:
        kind: `binary`, each column by itself; `multi-class`, columns that sum to 1; `ordinal`, where column k is the
            chance to pass step k once step k - 1 is passed (continuation ratios), so that their products, the
            chances to lie above each step, never rise.

    Raises:
        ValueError: for another kind.
    """
    if kind == "binary":
        return torch.sigmoid(logits)
    if kind == "multi-class":
        return torch.softmax(logits, dim=1)
    if kind == "ordinal":
        return torch.sigmoid(logits).cumprod(dim=1)
    raise ValueError(f"a target is binary, multi-class or ordinal, not {kind}")


class Probabilitiesd(MapTransform):  # type: ignore[misc]
    """`probabilities` of each target on entries (B, T) of a dictionary.

    Args:
        keys: entries to transform.
        kinds: of the targets, in the order of the columns.
        sizes: how many columns each has.
    """

    def __init__(
        self, keys: KeysCollection, kinds: Sequence[str], sizes: Sequence[int], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.kinds, self.sizes = tuple(kinds), [int(size) for size in sizes]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            parts = torch.split(torch.as_tensor(result[key]).float(), self.sizes, dim=1)
            result[key] = torch.cat([probabilities(*pair) for pair in zip(parts, self.kinds, strict=True)], dim=1)
        return result
