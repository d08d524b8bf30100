"""Invented predictions of a made-up classifier: forty patients with two studies each, five slices a study."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


def invented(split: str, seed: int, patients: int = 40) -> pd.DataFrame:
    """A table of predictions whose scores tell positives apart fairly well; the lowest slice is never labelled."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(2 * patients):
        positive, subdural = rng.random() < 0.4, rng.random() < 0.3
        label, score = (rng.random(5) < 0.3 * positive).astype(float), rng.random(5)
        label[0] = np.nan
        rows.append(
            {
                "id": f"{split}-{index:04d}-and-more",
                "patient": f"{split}-{index // 2}",
                "split": split,
                "sex": ("F", "M")[index // 2 % 2],
                "age_band": None if index // 2 == 3 else "80+" if index < 8 else "40-59",
                "y_hemorrhage": float(positive),
                "p_hemorrhage": 1 / (1 + np.exp(-rng.normal(1.5 * positive))),
                "y_subdural": float(positive and subdural),
                "p_subdural": 1 / (1 + np.exp(-rng.normal(1.5 * (positive and subdural)))),
                "y_slices": list(label),
                "p_slices": list(np.clip((score + np.nan_to_num(label)) / 2, 0, 1)),
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture
def predictions() -> pd.DataFrame:
    return invented("test", 1)


@pytest.fixture
def validation() -> pd.DataFrame:
    return invented("validation", 2)
