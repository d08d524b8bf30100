"""Frozen features, extracted once: kept by the hash of the weights that made them and of what these were fed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from volssl.contract import InputContract
from volssl.evaluation.features import Features, encode
from volssl.tasks.cache import cache_key
from volssl.tasks.views import TaskViews
from volssl.tensors import load_tensors, save_tensors
from volssl.views.base import Scan

if TYPE_CHECKING:
    from volssl.encoders.base import Encoder

FORMAT = 1  # count up when features of the same weights and images change


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes what an encoder is fed; nothing in it is random.

    Attributes:
        contract: of the input.
        name: of a scan, a text that names it and all that its preprocessing depends on.
        make: a scan -> the image (C, R, A, S), and plain facts on how it was made.
    """

    contract: InputContract
    name: Callable[[Scan], str]
    make: Callable[[Scan], tuple[Tensor, dict[str, Any]]]


def as_task_has_it(views: TaskViews) -> Preprocessing:
    """A task's preprocessing, through the cache of its views; the facts are where the box lies."""

    def make(scan: Scan) -> tuple[Tensor, dict[str, Any]]:
        image, info = views.preprocessed(scan)
        return image, info.as_dict()

    return Preprocessing(views.task.contract, lambda scan: cache_key(scan, views.task), make)


class FeatureCache:
    """Features in memory, and in a folder where runs share them: a file for each set of weights and input contract.

    A file holds keyed hashes of volumes, features and boxes; deleting it costs time alone. On another device the last
    bits of a feature may differ, and the file does not say on which it was made.

    Args:
        folder: of the files; None keeps features in memory alone.
        batch_size: scans encoded at once; it changes no feature.
    """

    def __init__(self, folder: Path | str | None = None, *, batch_size: int = 16) -> None:
        self.folder = None if folder is None else Path(folder)
        self.batch_size = batch_size
        self._kept: dict[str, dict[str, Any]] = {}

    def features(
        self, encoder: Encoder, scans: Sequence[Scan], preprocessing: Preprocessing
    ) -> tuple[Features, list[dict[str, Any]]]:
        """(N, dim) pooled features of scans, and the facts of each; those not known yet are extracted and kept."""
        key = features_key(encoder, preprocessing.contract)
        known = self._kept.setdefault(key, {}) | self._read(key)
        names = [preprocessing.name(scan) for scan in scans]
        missing = [(name, scan) for name, scan in zip(names, scans, strict=True) if name not in known]
        if missing:
            known |= self._extracted(encoder, missing, preprocessing)
            if self.folder is not None:
                save_tensors(self._file(key), {"format": FORMAT, "scans": self._read(key) | known})
        self._kept[key] = known
        return np.stack([known[name]["feature"].numpy() for name in names]), [known[name]["facts"] for name in names]

    def _extracted(
        self, encoder: Encoder, missing: Sequence[tuple[str, Scan]], preprocessing: Preprocessing
    ) -> dict[str, Any]:
        facts: list[dict[str, Any]] = []

        def image_of(scan: Scan) -> Tensor:
            image, fact = preprocessing.make(scan)
            facts.append(fact)
            return image

        rows = encode(encoder, [scan for _, scan in missing], image_of, batch_size=self.batch_size)
        made = zip(missing, torch.from_numpy(rows), facts, strict=True)
        return {name: {"feature": row.clone(), "facts": fact} for (name, _), row, fact in made}

    def _read(self, key: str) -> dict[str, Any]:
        if self.folder is None or not self._file(key).is_file():
            return {}
        held = load_tensors(self._file(key))
        return dict(held["scans"]) if held.get("format") == FORMAT else {}

    def _file(self, key: str) -> Path:
        return Path(str(self.folder)) / f"{key}.pt"


def features_key(encoder: Encoder, contract: InputContract) -> str:
    """Names the weights and what they are fed."""
    told = {"weights": weights_hash(encoder), "contract": contract.as_dict(), "format": FORMAT}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of every tensor of a network, with its name, type and shape."""
    digest = hashlib.sha256(type(network).__name__.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
