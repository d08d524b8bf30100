"""Features kept: once for a set of weights, and anew for another weight, input contract or preprocessing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.pretraining import TinyEncoder, labelled, views_of
from volssl.evaluation import feature_cache
from volssl.evaluation.feature_cache import FeatureCache, as_task_has_it, features_key
from volssl.evaluation.features import pooled_features


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many scans each extraction was of."""
    counted: list[int] = []
    right = feature_cache.encode

    def told(encoder: object, scans: list[object], image_of: object, **options: int) -> object:
        counted.append(len(scans))
        return right(encoder, scans, image_of, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(feature_cache, "encode", told)
    return counted


def test_features_are_those_of_the_encoder_and_extracted_once(calls: list[int], tmp_path: Path) -> None:
    side = labelled("train", 6, 0)
    views, encoder = views_of(side), TinyEncoder()
    how = as_task_has_it(views)
    features, facts = FeatureCache(tmp_path).features(encoder, side.scans[:4], how)
    np.testing.assert_array_equal(features, pooled_features(encoder, side.scans[:4], views).features)
    assert [fact["grid"] for fact in facts] == [list(views.task.contract.grid)] * 4
    again, _ = FeatureCache(tmp_path).features(encoder, side.scans[:4][::-1], how)
    np.testing.assert_array_equal(again, features[::-1])
    cache = FeatureCache(tmp_path)
    more, _ = cache.features(encoder, side.scans, how)
    cache.features(encoder, side.scans, how)
    assert calls == [4, 2]
    np.testing.assert_array_equal(more[:4], features)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_folder_features_are_kept_in_memory(calls: list[int]) -> None:
    side = labelled("train", 3, 0)
    cache, encoder, how = FeatureCache(), TinyEncoder(), as_task_has_it(views_of(side))
    first, _ = cache.features(encoder, side.scans, how)
    second, _ = cache.features(encoder, side.scans, how)
    assert calls == [3]
    np.testing.assert_array_equal(first, second)


def test_a_changed_weight_or_statistic_gives_new_features(calls: list[int], tmp_path: Path) -> None:
    side = labelled("train", 3, 0)
    encoder, how = TinyEncoder(), as_task_has_it(views_of(side))
    first, _ = FeatureCache(tmp_path).features(encoder, side.scans, how)
    for name in ("layers.0.weight", "layers.1.running_mean"):
        with torch.no_grad():
            encoder.state_dict()[name].view(-1)[0] += 1e-3
        changed, _ = FeatureCache(tmp_path).features(encoder, side.scans, how)
        np.testing.assert_array_equal(changed, pooled_features(encoder, side.scans, views_of(side)).features)
        assert np.abs(changed - first).max() > 1e-7
        first = changed
    assert calls == [3, 3, 3]


def test_another_contract_or_scan_geometry_has_another_key() -> None:
    side = labelled("train", 1, 0)
    encoder, how = TinyEncoder(), as_task_has_it(views_of(side))
    other = replace(how.contract, spacing_mm=(1.0, 1.0, 1.0))
    assert features_key(encoder, how.contract) != features_key(encoder, other)
    scan = side.scans[0]
    assert how.name(scan) != how.name(replace(scan, spacing_mm=(1.0, 2.0, 3.0)))
