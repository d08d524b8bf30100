"""Pretraining over CT and MR at once, on simulated heads and made MR: what each part of a method makes of each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.data.sources import write_nifti
from tests.tiny import CROPS, TINY
from volssl.bundle.workflow import pretrain
from volssl.data import StoredScan, prepare
from volssl.encoders.file import read_encoder_file
from volssl.errors import UserError
from volssl.methods import Supervised
from volssl.methods.base import Batch
from volssl.views.base import MODALITIES

WORDS = ("modality=CT+MR", *TINY, *CROPS, "near_duplicates=true")


@pytest.fixture(scope="module")
def mixed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten CT of training patients, and eight MR."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(8):
        noise = np.random.RandomState(i).gamma(2.0, 100.0, (28, 32, 12)).astype(np.float32)
        write_nifti(folder / "mr" / f"{i}.nii.gz", noise, np.diag([6.0, 6.0, 12.0, 1.0]))
    prepare([cohort], folder / "store", workers=0)
    prepare([folder / "mr"], folder / "store", modality="MR", workers=0)
    return folder / "store"


def test_the_hybrid_learns_of_mr_without_labels_and_of_ct_with_them(
    mixed: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    seen: list[tuple[str, bool, bool]] = []
    reads, embed = StoredScan.read, Supervised.embed

    def told(self: StoredScan, box: Any = None) -> Any:
        read.add(self.modality)
        return reads(self, box)

    def kept(self: Supervised, batch: Batch) -> dict[str, Tensor]:
        for kind, target, image in zip(batch["modality"].tolist(), batch["target"], batch["image"], strict=True):
            seen.append((MODALITIES[kind], bool(target.isfinite().any()), bool(image.any())))
        return embed(self, batch)

    monkeypatch.setattr(StoredScan, "read", told)
    monkeypatch.setattr(Supervised, "embed", kept)
    run = tmp_path / "run"
    pretrain("hybrid", store=mixed, labels=cohort / "labels.csv", out=run, words=WORDS)
    assert read == {"CT", "MR"}
    assert len(seen) % 4 == 0
    assert sorted(seen) == [("CT", True, True)] * (len(seen) // 2) + [("MR", False, False)] * (len(seen) // 2)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row[name] for row in rows for name in ("swav_loss", "supervised_loss") if name in row]
    assert len(losses) == 2 * (len(seen) // 4)
    assert all(math.isfinite(loss) and loss > 0.1 for loss in losses)
    contract = read_encoder_file(run).contract
    assert contract is not None
    assert contract.modality == "CT+MR"


def test_a_batch_that_cannot_be_split_over_both_is_refused_and_leaves_nothing(
    mixed: Path, cohort: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a batch of 3 cannot be split evenly over 2 modalities: take a multiple of 2"):
        pretrain(
            "hybrid", store=mixed, labels=cohort / "labels.csv", out=tmp_path / "run", words=[*WORDS, "batch_size=3"]
        )
    assert not (tmp_path / "run").exists()
