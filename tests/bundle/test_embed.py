"""`volssl embed`: features against the encoder's own, neighbours against scikit-learn's, and the page of prototypes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from tests.scans import noise_scan
from tests.tiny import CROPS, TINY
from volssl.bundle.embed import embed_run, middle_crop
from volssl.bundle.prototypes import grouped
from volssl.bundle.workflow import finetune, pretrain
from volssl.contract import InputContract
from volssl.data import Store
from volssl.encoders import load_encoder
from volssl.errors import UserError
from volssl.methods import SwAV
from volssl.tensors import load_tensors
from volssl.views.cropper import Cropper

WORDS = (*TINY, *CROPS, "method::queue_length=0", "method::prototypes=6")


@pytest.fixture(scope="module")
def swav(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("embedding") / "swav"
    pretrain("swav", store=store, out=run, words=WORDS)
    return run


@pytest.fixture(scope="module")
def out(swav: Path, store: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding") / "out"
    study = str(pd.read_csv(cohort / "labels.csv", dtype=str)["study"][0])
    embed_run(swav, store=store, out=folder, study=study, count=4)
    return folder


def test_every_volume_has_the_feature_that_the_encoder_gives_its_middle_crop(
    swav: Path, store: Path, out: Path
) -> None:
    table = pq.read_table(out / "embeddings.parquet")
    assert table.column_names == ["id", "patient", "study", "modality", "split", "feature"]
    opened = Store.open(store)
    assert table["id"].to_pylist() == sorted(opened.rows["id"].to_pylist())
    encoder, contract = load_encoder(swav)
    image, _ = middle_crop(contract).make(opened.scan(table["id"][3].as_py()))
    with torch.no_grad():
        expected = encoder.pooled(image[None])[0].numpy()
    np.testing.assert_allclose(np.array(table["feature"][3].as_py()), expected, atol=1e-5)
    assert json.loads(table.schema.metadata[b"input_contract"]) == contract.as_dict()


def test_neighbours_are_those_of_scikit_learn_by_cosine(out: Path) -> None:
    table = pq.read_table(out / "embeddings.parquet").to_pandas()
    found = pd.read_csv(out / "neighbours.csv")
    features = np.stack(table["feature"].to_list())
    query = int(np.flatnonzero(table["id"] == found["of"][0])[0])
    distances, places = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features).kneighbors(features[[query]])
    assert found["id"].tolist() == table["id"][places[0][1:]].tolist()
    np.testing.assert_allclose(found["cosine"], 1 - distances[0][1:], atol=1e-5)
    assert found["rank"].tolist() == [1, 2, 3, 4]


def test_nothing_that_is_written_names_a_study(out: Path, cohort: Path, store: Path) -> None:
    names = pd.read_csv(cohort / "labels.csv", dtype=str)["study"]
    written = b"".join(path.read_bytes() for path in out.iterdir())
    assert not [name for name in names if name.encode() in written]
    assert str(store).encode() not in written


def test_the_page_counts_every_scan_once_and_shows_what_the_method_itself_groups(
    swav: Path, store: Path, out: Path
) -> None:
    page = (out / "prototypes.html").read_text()
    heads = re.findall(r"<h2>Prototype (\d+): (\d+) scans?</h2>", page)
    counts = {int(prototype): int(n) for prototype, n in heads}
    opened = Store.open(store)
    assert sum(counts.values()) == len(opened)
    encoder, contract = load_encoder(swav)
    method = SwAV(encoder, prototypes=6, hidden_dim=512, queue_length=0)
    method.load_state_dict(load_tensors(swav / "checkpoints" / "last.pt")["method"], strict=False)
    crops = torch.stack(
        [middle_crop(contract).make(opened.scan(key))[0] for key in sorted(opened.rows["id"].to_pylist())]
    )
    with torch.no_grad():
        features = method.eval().embed({"crop0": crops, "modality": torch.zeros(len(crops))})["crop0"]
        own = (features @ torch.nn.functional.normalize(method.prototypes[0], dim=1).T).argmax(dim=1)
    assert counts == {int(k): int((own == k).sum()) for k in own.unique()}
    assert "simulated" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_fine_tuned_run_is_embedded_as_its_task_sees_a_scan(store: Path, cohort: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["task::grid=[24, 28, 10]"]
    finetune("hemorrhage", store=store, labels=cohort / "labels.csv", out=run, mode="probe", words=words)
    kept = len(list((tmp_path / "features").iterdir()))
    found = embed_run(run, store=store, out=tmp_path / "out", splits=["test"])
    assert set(found.rows["split"]) == {"test"}
    assert found.features.shape == (len(found.rows), 1024)
    assert not (tmp_path / "out" / "prototypes.html").exists()
    assert len(list((tmp_path / "features").iterdir())) == kept  # of the same weights and input: one file


def test_a_study_that_is_not_embedded_is_an_error_that_says_why(swav: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: is not in the store"):
        embed_run(swav, store=store, out=tmp_path, study="nowhere")
    rows = Store.open(store).rows.to_pylist()
    hidden = next(row["id"] for row in rows if row["split"] == "test")
    with pytest.raises(UserError, match="in a split that is not embedded"):
        embed_run(swav, store=store, out=tmp_path, splits=["train"], study=hidden)
    with pytest.raises(UserError, match="split tests: unknown; choose train, validation, test"):
        embed_run(swav, store=store, out=tmp_path, splits=["tests"])


def test_the_middle_crop_is_what_a_cropper_cuts_about_the_middle() -> None:
    scan = noise_scan(1, (40, 44, 16))  # 140 x 154 x 112 mm
    contract = InputContract(modality="CT", window_hu=(40, 80), spacing_mm=(3.5, 7.0, 7.0), grid=(20, 30, 8))
    image, facts = middle_crop(contract).make(scan)
    assert facts["box"] == [[10.0, 30.0], [-8.0, 52.0], [4.0, 12.0]]  # A is wider than the scan, and centred on it
    cropper = Cropper(size=contract.grid, spacing_mm=contract.spacing_mm, windows_hu=(40, 80))
    assert torch.equal(image, cropper.cut(scan, ((10.0, 30.0), (-8.0, 52.0), (4.0, 12.0))))


def test_groups_are_counted_and_their_entropy_is_a_share_of_the_even_one() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.5], [0.2, 0.8, 0.1], [0.7, 0.0, 0.0]])
    first, second = grouped(scores, np.array([10, 11, 12, 13]), modality="CT", temperature=0.1, shown=2)
    assert (first.prototype, first.n, second.prototype, second.n) == (0, 3, 1, 1)
    assert [place for place, _ in first.nearest] == [10, 13]
    assert [cosine for _, cosine in second.nearest] == pytest.approx([0.8])
    p = np.exp(scores.numpy()[2] / 0.1)
    p /= p.sum()
    assert second.entropy == pytest.approx(float(-(p * np.log(p)).sum() / np.log(3)), rel=1e-4)
    alone = grouped(torch.full((1, 3), 0.5), np.array([0]), modality="CT", temperature=0.1)
    assert alone[0].entropy == pytest.approx(1.0)
