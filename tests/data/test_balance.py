"""Classes of unequal size: weights against scikit-learn's, and draws that take each class as often."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from tests.scans import noise_scan
from volssl.data.balance import BalancedSamples, balanced, class_weights
from volssl.data.loader import ViewDataset
from volssl.errors import UserError

IDS = [f"scan{i}" for i in range(12)]
CLASSES = pd.Series([0.0] * 9 + [1.0] * 2 + [np.nan], index=IDS)


def number(scan: object, rng: np.random.RandomState) -> dict[str, Tensor]:
    return {"drawn": torch.tensor(rng.uniform())}


class Scans(ViewDataset):
    """Twelve scans, their ids and patients."""

    def __init__(self) -> None:
        super().__init__([noise_scan(i, (4, 4, 2)) for i in range(12)], number, seed=3)
        self.ids, self.patients = IDS, [f"patient{i}" for i in range(12)]


def test_weights_are_those_of_scikit_learn_and_an_unknown_class_counts_one() -> None:
    weights = class_weights("weights", CLASSES, IDS)
    assert weights is not None
    np.testing.assert_allclose(weights[:11], compute_sample_weight("balanced", CLASSES[:11]), rtol=1e-6)
    assert weights[11] == 1
    assert float(weights[:11].mean()) == pytest.approx(1)
    assert class_weights("none", CLASSES, IDS) is None
    assert class_weights("sampling", CLASSES, IDS) is None
    shuffled = class_weights("weights", CLASSES[::-1], IDS[::-1])
    assert shuffled is not None
    assert torch.equal(shuffled, weights.flip(0))


def test_an_epoch_draws_each_class_as_often_and_never_what_is_unknown() -> None:
    samples = balanced("sampling", Scans(), CLASSES)
    assert isinstance(samples, BalancedSamples)
    assert len(samples) == 12
    epochs = [[int(samples[epoch, i]["index"]) for i in range(12)] for epoch in range(30)]
    for drawn in epochs:
        assert Counter(CLASSES.iloc[drawn]) == {0.0: 6, 1.0: 6}
    counts = Counter(index for drawn in epochs for index in drawn)
    assert set(counts) == set(range(11))
    assert 60 < counts[9] < 120  # 90 expected of each of the two, 20 of each of the nine
    assert epochs[0] != epochs[1]


def test_a_draw_depends_on_seed_epoch_and_index_alone_and_a_scan_drawn_twice_is_changed_anew() -> None:
    samples = balanced("sampling", Scans(), CLASSES)
    again = balanced("sampling", Scans(), CLASSES)
    pairs = [(int((one := samples[2, i])["index"]), float(one["drawn"])) for i in range(12)]
    backwards = [(int((one := again[2, i])["index"]), float(one["drawn"])) for i in reversed(range(12))]
    assert pairs == backwards[::-1]
    assert len({index for index, _ in pairs}) < 12  # some came twice
    assert len({drawn for _, drawn in pairs}) == 12


def test_without_balance_the_samples_are_the_same_object_and_a_misspelt_choice_is_an_error() -> None:
    scans = Scans()
    assert balanced("none", scans, CLASSES) is scans
    assert balanced("weights", scans, CLASSES) is scans
    for refuse in (lambda: balanced("weight", scans, CLASSES), lambda: class_weights("weight", CLASSES, IDS)):
        with pytest.raises(UserError, match="balance weight: unknown; choose none, weights, sampling"):
            refuse()
