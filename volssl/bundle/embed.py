"""`volssl embed`: what a run's encoder makes of each volume, who is near whom, and what SwAV's prototypes grouped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from volssl.bundle.prototypes import PAGE, prototypes_of, write_prototypes
from volssl.bundle.runs import load_run
from volssl.contract import InputContract
from volssl.data import Store
from volssl.data.keys import study_alias
from volssl.data.splits import SPLITS
from volssl.encoders import Encoder, load_encoder
from volssl.errors import UserError
from volssl.evaluation.feature_cache import FeatureCache, Preprocessing, as_task_has_it, weights_hash
from volssl.evaluation.features import Features
from volssl.evaluation.validation import MODEL
from volssl.files import write_atomically, write_text
from volssl.tasks import BoxCache, TaskViews
from volssl.transforms.resample import FloatBox
from volssl.views.base import Scan
from volssl.views.cropper import read_box

TABLE, NEIGHBOURS = "embeddings.parquet", "neighbours.csv"


@dataclass(frozen=True)
class Embedding:
    """What was written, and the neighbours that were asked for.

    Attributes:
        rows: id, patient, study, modality and split of each volume, all but the last two keyed hashes.
        features: (volumes, dim), in the same order.
        neighbours: a row a neighbour, the nearest first; None where nobody asked.
        files: that were written.
    """

    rows: pd.DataFrame
    features: Features
    neighbours: pd.DataFrame | None
    files: tuple[Path, ...]


def embed_run(
    run: Path,
    *,
    store: Path,
    out: Path,
    splits: Sequence[str] = SPLITS,
    study: str = "",
    count: int = 10,
    batch_size: int = 16,
) -> Embedding:
    """Write the pooled feature of each volume, its neighbours where a study is named, and a page of prototypes.

    A fine-tuned run sees what its task preprocesses, a pretraining run the crop of `middle_crop`.

    Args:
        run: of `volssl pretrain` or `volssl finetune`.
        splits: sides of the store that are embedded.
        study: whose neighbours are listed, by a name that a label table may call it, or a volume's id.
        count: neighbours of each of its volumes.
        batch_size: scans encoded at once; it changes no feature.

    Raises:
        UserError: for a folder without a run, a split that there is not, no volume of the encoder's modality, or a
            study that is not among what is embedded.
    """
    opened = Store.open(store)
    encoder, how = encoder_and_preprocessing(run)
    rows = chosen_volumes(opened, splits, how.contract.modality.split("+"))
    scans = [opened.scan(key) for key in rows["id"]]
    cache = FeatureCache(Path(run).parent / "features", batch_size=batch_size)
    features, _ = cache.features(encoder, scans, how)
    queries = volumes_of(opened, rows, study) if study else []
    out.mkdir(parents=True, exist_ok=True)
    files = [write_table(rows, features, out / TABLE, encoder=encoder, contract=how.contract)]
    found = None
    if study:
        found = nearest(rows, features, queries, count=count)
        write_text(out / NEIGHBOURS, found.to_csv(index=False, lineterminator="\n"))
        files.append(out / NEIGHBOURS)
    if (prototypes := prototypes_of(run)) is not None:
        seen, _ = cache.features(prototypes.encoder, scans, how)
        files.append(write_prototypes(prototypes, rows, seen, how, opened, out / PAGE))
    return Embedding(rows, features, found, tuple(files))


def encoder_and_preprocessing(run: Path) -> tuple[Encoder, Preprocessing]:
    """A run's encoder, and how a scan becomes what it is fed."""
    if (run / MODEL).is_file():
        model = load_run(run)
        encoder: Any = model.network.encoder
        return encoder, as_task_has_it(TaskViews(model.task, cache=BoxCache()))
    encoder, contract = load_encoder(run)
    return encoder, middle_crop(contract)


def middle_crop(contract: InputContract) -> Preprocessing:
    """One crop of the size that pretraining used, about the middle of what is not air; no more of a scan is seen."""

    def box_of(scan: Scan) -> FloatBox:
        edges = []
        for (first, last), n, size, mm, own in zip(
            scan.foreground, scan.shape, contract.grid, contract.spacing_mm, scan.spacing_mm, strict=True
        ):
            wide = size * mm / own
            start = (first + last - wide) / 2
            start = (n - wide) / 2 if wide >= n else min(max(start, 0.0), n - wide)
            edges.append((start, start + wide))
        return edges[0], edges[1], edges[2]

    def make(scan: Scan) -> tuple[Tensor, dict[str, Any]]:
        box = box_of(scan)
        windows = contract.windows_hu or None
        return read_box(scan, box, contract.grid, windows), {"box": [list(side) for side in box]}

    def name(scan: Scan) -> str:
        told = [list(scan.shape), list(scan.spacing_mm), [list(side) for side in scan.foreground], list(scan.intensity)]
        return f"{scan.id}-{hashlib.sha256(json.dumps(['middle', *told]).encode()).hexdigest()[:12]}"

    return Preprocessing(contract, name, make)


def chosen_volumes(store: Store, splits: Sequence[str], modalities: Sequence[str]) -> pd.DataFrame:
    """The rows that are embedded, in the order of the ids."""
    if strange := sorted(set(splits) - set(SPLITS)):
        raise UserError(f"split {strange[0]}: unknown; choose {', '.join(SPLITS)}")
    rows = store.columns("id", "patient", "study", "modality", "split").to_pandas()
    rows = rows[rows["split"].isin(list(splits)) & rows["modality"].isin(list(modalities))].sort_values("id")
    if rows.empty:
        raise UserError(f"{store.path}: no {' or '.join(modalities)} volume of {', '.join(splits)} patients to embed")
    return rows.reset_index(drop=True)


def volumes_of(store: Store, rows: pd.DataFrame, study: str) -> list[int]:
    """Places in the rows of a study's volumes.

    Raises:
        UserError: where it has none among them.
    """
    alias = study_alias(store.key, study)
    aliases = store.columns("id", "aliases").to_pylist()
    named = {row["id"] for row in aliases if alias in row["aliases"] or row["id"] == study}
    places = [place for place, key in enumerate(rows["id"]) if key in named]
    if not places:
        where = "is in the store, in a split that is not embedded" if named else "is not in the store"
        raise UserError(f"{study}: {where}; name a study by file, folder, StudyInstanceUID or the id of a volume")
    return places


def nearest(rows: pd.DataFrame, features: Features, queries: Sequence[int], *, count: int) -> pd.DataFrame:
    """The volumes most alike to each query by the cosine of their features, itself left out.

    Returns:
        Columns `of` (the query's id), `rank` from 1, `id`, `study`, `split`, `cosine`, `same_patient`.
    """
    unit = features.astype(np.float64) / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = []
    for query in queries:
        cosines = unit @ unit[query]
        order = [place for place in np.argsort(-cosines, kind="stable") if place != query][:count]
        near = rows.loc[order, ["id", "study", "split"]].assign(
            of=rows["id"][query],
            rank=np.arange(1, len(order) + 1),
            cosine=cosines[order].round(6),
            same_patient=(rows["patient"][order] == rows["patient"][query]).to_numpy(),
        )
        found.append(near[["of", "rank", "id", "study", "split", "cosine", "same_patient"]])
    return pd.concat(found, ignore_index=True)


def write_table(
    rows: pd.DataFrame, features: Features, path: Path, *, encoder: Encoder, contract: InputContract
) -> Path:
    """`embeddings.parquet`: keys and `feature`, a list of float32; its metadata say of which weights and input."""
    feature = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(
        {"weights_sha256": weights_hash(encoder), "input_contract": json.dumps(contract.as_dict())}
    )
    table = table.append_column("feature", feature)
    write_atomically(path, lambda file: pq.write_table(table, file))
    return path
