"""The intensity rule, on volumes in which a band of known edges holds what matters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from volssl.evaluation.intensity_rule import (
    BINS,
    DEPTHS,
    choose_rule,
    depth_in_slice,
    intensity_counts,
    rule_predictions,
)


def volume(*, blood: int, bone: int = 20, seed: int = 0) -> torch.Tensor:
    """(1, 6, 5, 4) of brain at .3, so many voxels of bone at 1 and of blood at .6; blood lies in the lowest slices."""
    flat = torch.full((4, 30), 0.3)  # slices first
    flat.view(-1)[:blood] = 0.6
    flat.view(-1)[-bone:] = 1.0
    return flat.reshape(4, 6, 5).permute(1, 2, 0)[None]


def counted(*images: torch.Tensor) -> dict[str, np.ndarray]:
    return {str(index): intensity_counts(image) for index, image in enumerate(images)}


def table(output: str, labels: list[float]) -> pd.DataFrame:
    ids = [str(index) for index in range(len(labels))]
    return pd.DataFrame({"id": ids, "patient": ids, f"y_{output}": labels, f"p_{output}": np.full(len(ids), 0.5)})


def test_voxels_are_counted_by_slice_channel_and_bin() -> None:
    counts = intensity_counts(volume(blood=31))
    assert counts.shape == (4, len(DEPTHS), 1, BINS)
    whole = counts[:, 0, 0]
    assert whole[:, int(0.6 * BINS)].tolist() == [30, 1, 0, 0]
    assert whole[:, BINS - 1].tolist() == [0, 0, 0, 20]  # 1 itself is in the last bin
    assert whole.sum(axis=-1).tolist() == [30, 30, 30, 30]


def test_a_second_channel_is_counted_apart() -> None:
    both = torch.cat([volume(blood=7), volume(blood=0)])
    assert intensity_counts(both)[:, 0, :, int(0.6 * BINS)].sum(axis=0).tolist() == [7, 0]


def test_the_rule_finds_the_band_that_holds_the_blood_whatever_the_bone() -> None:
    bones = [31, 12, 25, 9, 18, 14]
    images = [volume(blood=blood, bone=bone) for blood, bone in zip([0, 1, 2, 5, 6, 7], bones, strict=True)]
    y = np.array([0, 0, 0, 1, 1, 1.0])
    rule = choose_rule(y, np.stack([intensity_counts(image).sum(axis=0) for image in images]))
    assert (rule.auc, rule.more) == (1.0, True)
    assert 0.3 < rule.low <= 0.6 < rule.high < 1.0


def head(*, blood: int, scalp: int) -> torch.Tensor:
    """(1, 21, 21, 3): a square of brain in air, with voxels of blood in its middle and as bright ones at its rim."""
    image = torch.zeros(1, 21, 21, 3)
    image[0, 1:-1, 1:-1] = 0.3
    middle = [(8 + k // 5, 8 + k % 5) for k in range(blood)]
    rim = [(1, 1 + k) for k in range(scalp)]
    for r, a in middle + rim:
        image[0, r, a, 1] = 0.6
    return image


def test_depth_is_the_distance_to_the_surface_within_the_slice_as_a_share_of_the_greatest() -> None:
    depth = depth_in_slice(head(blood=0, scalp=0)[0].numpy())
    assert depth.shape == (21, 21, 3)
    assert depth[10, 10].tolist() == [1, 1, 1]  # ten voxels from the air
    assert depth[10, [0, 1, 3, 19, 20], 0].tolist() == pytest.approx([0, 0.1, 0.3, 0.1, 0])
    hollow = head(blood=0, scalp=0)[0].numpy()
    hollow[9:12, 9:12] = 0  # fluid as dark as air, enclosed
    assert depth_in_slice(hollow)[10, 10, 0] == 1


def test_blood_inside_is_told_from_as_bright_a_rim_by_its_depth() -> None:
    rims = [19, 3, 12, 5, 17, 8]
    images = [head(blood=blood, scalp=rim) for blood, rim in zip([0, 1, 2, 5, 6, 7], rims, strict=True)]
    y = np.array([0, 0, 0, 1, 1, 1.0])
    rule = choose_rule(y, np.stack([intensity_counts(image).sum(axis=0) for image in images]))
    assert (rule.auc, rule.more, rule.depth) == (1.0, True, 0.15)
    assert "15 % deep or more" in str(rule)
    whole = np.array([[float((image > 0.5).sum())] for image in images])
    assert roc_auc_score(y, whole) < 0.8


def test_its_figure_is_that_of_the_shares_it_counts() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random(40) < 0.5).astype(float)
    counts = rng.integers(1, 50, size=(40, len(DEPTHS), 2, BINS))
    rule = choose_rule(y, counts)
    assert rule.auc == pytest.approx(roc_auc_score(y, rule.score(counts)))
    assert rule.auc > roc_auc_score(y, counts[:, 0, 0, :5].sum(axis=-1) / counts[:, 0, 0].sum(axis=-1))


def test_fewer_voxels_may_be_the_sign() -> None:
    images = [volume(blood=blood, bone=20 + 0 * blood) for blood in (9, 8, 7, 2, 1, 0)]
    y = np.array([0, 0, 0, 1, 1, 1.0])
    counts = np.stack([intensity_counts(image).sum(axis=0) for image in images])
    rule = choose_rule(y, counts)
    assert rule.auc == 1.0
    assert roc_auc_score(y, rule.score(counts)) == 1.0


def test_it_is_chosen_on_training_labels_and_scores_others() -> None:
    counts = counted(*(volume(blood=blood) for blood in (0, 1, 8, 9, 0, 4, 9)))
    training = table("bleed", [0, 0, 1, 1]).drop(columns="p_bleed")
    others = table("bleed", [np.nan] * 4 + [1, 1, 0])[4:]  # labels that say the opposite must not matter
    scored, rules = rule_predictions(training, others, counts, ["bleed"])
    assert rules["bleed"].auc == 1.0
    assert scored["p_bleed"].is_monotonic_increasing
    # The widest band that tells them apart holds the 20 voxels of bone as well, which all have.
    assert scored["p_bleed"].tolist() == pytest.approx([20 / 120, 24 / 120, 29 / 120])


def test_an_output_by_slice_is_scored_by_slice_and_stays_unscored_outside_of_the_scan() -> None:
    counts = counted(volume(blood=31), volume(blood=0), volume(blood=31))
    labels: list[object] = [[1.0, 1.0, 0.0, np.nan], np.nan]
    training = pd.DataFrame({"id": ["0", "1"], "y_slices": labels})
    asked = pd.DataFrame(
        {"id": ["2"], "patient": ["2"], "y_slices": [[1, 1, 0, 0]], "p_slices": [[0.1, 0.1, 0.1, np.nan]]}
    )
    scored, rules = rule_predictions(training, asked, counts, ["slices"])
    assert rules["slices"].auc == 1.0
    cells = scored["p_slices"].iloc[0]
    assert min(cells[0], cells[1]) > cells[2]
    assert np.isnan(cells[3])


def test_without_both_classes_it_guesses() -> None:
    scored, rules = rule_predictions(
        table("x", [1, 1]), table("x", [1, 0]), counted(volume(blood=1), volume(blood=2)), ["x"]
    )
    assert rules == {}
    assert scored["p_x"].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="one class"):
        choose_rule(np.ones(2), np.ones((2, len(DEPTHS), 1, BINS)))
