"""Features are the encoder's own, taken without leaving a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.evaluation.pretraining import Anything, TinyEncoder, labelled, views_of
from volssl.evaluation.features import pooled_features
from volssl.tasks.cache import BoxCache
from volssl.tasks.views import TaskViews


def test_features_are_the_pooled_ones_of_the_preprocessed_scans_whatever_the_batches() -> None:
    torch.manual_seed(0)
    encoder, some = TinyEncoder(), labelled("scan", 7, 1)
    views = views_of(some)
    made = pooled_features(encoder, some.scans, views, batch_size=3)
    images = torch.stack([views.task.preprocess(scan)[0] for scan in some.scans])
    with torch.no_grad():
        expected = encoder.eval().pooled(images)
    assert made.features.dtype == np.float32
    np.testing.assert_allclose(made.features, expected, atol=1e-6)


def test_labels_come_by_output_with_nan_where_unknown() -> None:
    some = labelled("scan", 6, 1)
    views = views_of(some)
    made = pooled_features(TinyEncoder(), some.scans, views)
    assert made.labels["bright"].tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(made.labels["odd"], [1, 0, 0, np.nan, np.nan, np.nan])
    assert pooled_features(TinyEncoder(), some.scans, TaskViews(views.task)).labels == {}


def test_modes_weights_averages_and_random_numbers_stay_as_they_were() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    encoder, some = TinyEncoder().train(), labelled("scan", 5, 1)
    views = views_of(some)
    encoder.layers[1].eval()  # a frozen part in a training network
    before, random = {k: v.clone() for k, v in encoder.state_dict().items()}, torch.get_rng_state()
    numpy_random = np.random.get_state(legacy=False)["state"]["key"].copy()
    made = pooled_features(encoder, some.scans, views)
    assert [layer.training for layer in (encoder, *encoder.layers)] == [True, True, False, True, True]
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert (numpy_random == np.random.get_state(legacy=False)["state"]["key"]).all()
    assert all(p.grad is None for p in encoder.parameters())
    again = pooled_features(encoder, some.scans, views)  # dropout would differ
    np.testing.assert_array_equal(made.features, again.features)


def test_a_scan_is_preprocessed_once_where_there_is_a_cache() -> None:
    some, read = labelled("scan", 4, 1), []
    views = TaskViews(Anything(), views_of(some).labels, cache=BoxCache())
    for _ in range(3):
        pooled_features(TinyEncoder(), some.scans, views)
        read.append(sum(len(scan.boxes) for scan in some.scans))
    assert read == [4, 4, 4]


def test_random_views_are_refused() -> None:
    with pytest.raises(ValueError, match="without random changes"):
        pooled_features(TinyEncoder(), labelled("scan", 4, 1).scans, TaskViews(Anything(), train=True))
