"""The page of a SwAV run's prototypes: the scans of each, side by side, for experts to name what was grouped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.bundle.config import SEPARATOR, read_config, stated
from volssl.bundle.simulated import simulated_notice
from volssl.bundle.workflow import CONFIG
from volssl.data import Store
from volssl.encoders import Encoder, build_encoder
from volssl.encoders.file import read_encoder_file
from volssl.encoders.weights import load_weights
from volssl.engine.checkpoint import LAST
from volssl.evaluation.contact_sheet import Tile, tile_picture
from volssl.evaluation.feature_cache import Preprocessing
from volssl.evaluation.features import Features
from volssl.evaluation.page import number, write_page
from volssl.heads import projection_head
from volssl.progress import track
from volssl.tensors import load_tensors

PAGE = "prototypes.html"
SHOWN = 6  # scans of each prototype: a row of the page
MOST = 200  # prototypes on the page


@dataclass(frozen=True)
class Prototypes:
    """What a SwAV run's last checkpoint holds.

    Attributes:
        encoder, projector: as they were after the last step, as the prototypes were.
        vectors: (modalities, K, feature_dim), of length 1.
        modalities: those that have prototypes, in their order.
        temperature: divides the scores.
    """

    encoder: Encoder
    projector: nn.Module
    vectors: Tensor
    modalities: tuple[str, ...]
    temperature: float

    @torch.no_grad()
    def scores(self, features: Features, modality: str) -> Tensor:
        """(N, dim) pooled features of one modality -> (N, K) cosines to its prototypes."""
        projected = functional.normalize(self.projector(torch.from_numpy(features)).float(), dim=1)
        return projected @ self.vectors[self.modalities.index(modality)].T


@dataclass(frozen=True)
class Group:
    """The scans of one prototype.

    Attributes:
        prototype: its number, from 0.
        modality: of its scans.
        n: how many have it as their nearest.
        entropy: of their soft assignments, mean, as a share of the even one's: 0 is sure, 1 could be any.
        nearest: places of the scans nearest to it, the nearest first, with their cosines.
    """

    prototype: int
    modality: str
    n: int
    entropy: float
    nearest: tuple[tuple[int, float], ...]


def prototypes_of(run: Path) -> Prototypes | None:
    """The prototypes of a run of SwAV, or of a method with SwAV among its parts; None for another run."""
    if not (run / LAST).is_file() or not (run / CONFIG).is_file():
        return None
    state: dict[str, Tensor] = load_tensors(run / LAST)["method"]
    names = [name for name in state if name.split(".")[-1] == "prototypes"]
    if not names:
        return None
    prefix = names[0].removesuffix("prototypes")
    held = read_encoder_file(run)
    settings = {key: value for key, value in held.settings.items() if key != "in_channels"}
    encoder = build_encoder(held.name, in_channels=held.settings["in_channels"], settings=settings)
    load_weights(encoder, below(state, "encoder."), source=str(run / LAST), least=1.0)
    weights = below(state, f"{prefix}projector.")
    hidden, out_dim = len(weights["0.weight"]), len(weights["3.weight"])
    projector = projection_head(encoder.dim, out_dim, hidden)
    load_weights(projector, weights, source=str(run / LAST), least=1.0)
    contract = held.contract
    key = SEPARATOR.join(["method", *prefix.split(".")[:-1], "temperature"])
    return Prototypes(
        encoder=encoder.eval(),
        projector=projector.eval(),
        vectors=functional.normalize(state[names[0]].float(), dim=2),
        modalities=tuple(contract.modality.split("+")) if contract else (),
        temperature=float(stated(read_config(run / CONFIG), key)),
    )


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def grouped(
    scores: Tensor, places: np.ndarray, *, modality: str, temperature: float, shown: int = SHOWN
) -> list[Group]:
    """The prototypes that are the nearest of some scan, the largest first.

    Args:
        scores: (N, K) cosines of a modality's scans.
        places: (N,) where each of them stands among all.
    """
    shares = torch.softmax(scores.double() / temperature, dim=1)
    even = math.log(scores.shape[1]) or 1.0
    entropies = -(shares * shares.clamp(min=1e-300).log()).sum(dim=1) / even
    own = scores.argmax(dim=1)
    groups = []
    for prototype in sorted(set(own.tolist())):
        members = (own == prototype).nonzero().squeeze(1)
        order = members[scores[members, prototype].argsort(descending=True, stable=True)][:shown]
        near = tuple((int(places[i]), float(scores[i, prototype])) for i in order.tolist())
        groups.append(Group(prototype, modality, len(members), float(entropies[members].mean()), near))
    return sorted(groups, key=lambda group: (-group.n, group.prototype))


def write_prototypes(
    prototypes: Prototypes, rows: pd.DataFrame, features: Features, how: Preprocessing, store: Store, path: Path
) -> Path:
    """Write `prototypes.html`: for each prototype that has scans how many, how sure, and the nearest as they were fed.

    Args:
        rows: of the volumes, with `id`, `modality` and `split`.
        features: (N, dim) of the checkpoint's encoder, in the order of the rows.
        how: makes the pictures, which are what the encoder was fed.
    """
    groups: list[Group] = []
    for modality in prototypes.modalities:
        places = np.flatnonzero(rows["modality"] == modality)
        if len(places):
            scores = prototypes.scores(features[places], modality)
            groups += grouped(scores, places, modality=modality, temperature=prototypes.temperature)
    shown = groups[:MOST]
    asked = [(group, place, cosine) for group in shown for place, cosine in group.nearest]
    tiles: dict[tuple[str, int], list[Tile]] = {}
    for group, place, cosine in track(asked, "Reading scans", len(asked)):
        tile = tile_of(rows.iloc[place], cosine, how, store)
        tiles.setdefault((group.modality, group.prototype), []).append(tile)
    there = prototypes.vectors.shape[0] * prototypes.vectors.shape[1]
    counts = np.array([group.n for group in groups])
    share = counts / counts.sum()
    evenness = float(-(share * np.log(share)).sum() / math.log(there)) if there > 1 else 1.0
    return write_page(
        "prototypes.html.j2",
        path,
        title=f"{len(groups)} prototype{'s' if len(groups) != 1 else ''} with scans",
        simulated=simulated_notice(store),
        facts={"Volumes": f"{len(rows):,}", "Splits": ", ".join(sorted(set(rows["split"])))},
        headline=[
            ("Prototypes", f"{len(groups):,}", f"of {there:,} are the nearest of some scan"),
            ("Evenness", number(evenness, 2), "1 is as many scans for each of all prototypes"),
            ("Largest", f"{int(counts.max()):,}", f"of {len(rows):,} volumes"),
        ],
        groups=[{"of": group, "tiles": tiles[group.modality, group.prototype]} for group in shown],
        left_out=len(groups) - len(shown),
        several=len(prototypes.modalities) > 1,
        temperature=prototypes.temperature,
    )


def tile_of(row: Any, cosine: float, how: Preprocessing, store: Store) -> Tile:
    """The middle axial slice of what the encoder was fed of a scan."""
    image, _ = how.make(store.scan(row["id"]))
    contract = how.contract
    axial = image[0, :, :, image.shape[3] // 2].numpy()
    low, high = contract.value_range
    alt = f"Middle axial slice of volume {row['id'][:8]}, as the network was fed it"
    spacing = (contract.spacing_mm[0], contract.spacing_mm[1])
    picture = tile_picture(axial, spacing, low=low, high=high, alt=alt)
    return Tile(row["id"], picture, (f"cosine {number(cosine, 2)}", str(row["split"])), (), None)
