"""Metastasis: its columns, its loss against torch's, its box; an image and its mask that move together."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from tests.scans import ArrayScan
from volssl.errors import UserError
from volssl.evaluation.validation import mean_auc
from volssl.tasks import Metastasis, TaskViews
from volssl.tasks.masks import Masks, check_masks, mask_files
from volssl.transforms.head_box import BoxInfo

TASK = Metastasis(grid=(8, 8, 4), spacing_mm=(3.0, 3.0, 6.0))
INFO = BoxInfo(((0.0, 8.0), (0.0, 8.0), (0.0, 4.0)), (8, 8, 4), (8, 8, 4), (3.0, 3.0, 6.0))


def row(metastasis: float, slices: list[int] | None = None) -> pd.Series:
    return pd.Series({"metastasis": metastasis, "slice_indices": slices})


def brain(name: str = "a") -> ArrayScan:
    """Dark with a bright corner block of 2 × 2 × 1 voxels, at (1, 5, 2)."""
    values = np.full((8, 8, 4), 10.0, np.float32)
    values[1:3, 5:7, 2] = 90.0
    return ArrayScan(values, id=name, spacing_mm=(3.0, 3.0, 6.0), modality="MR")


def test_a_study_has_its_label_then_its_slices_and_a_negative_one_none_in_any() -> None:
    assert TASK.targets(row(1.0, [1, 2]), INFO).tolist() == [1, 0, 1, 1, 0]
    assert TASK.targets(row(0.0), INFO).tolist() == [0, 0, 0, 0, 0]
    unknown = TASK.targets(row(1.0), INFO)
    assert unknown[0] == 1
    assert torch.isnan(unknown[1:]).all()


def test_the_loss_is_torchs_of_the_slices_that_are_known_and_scored() -> None:
    logits = torch.tensor([[9.0, 0.5, torch.nan, -2.0, 1.0], [9.0, 3.0, 1.0, torch.nan, 0.2]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0, 1.0, 0.0, torch.nan], [0.0, 0.0, 0.0, 0.0, 0.0]])
    loss = TASK.loss(logits, targets)["loss"]
    expected = functional.binary_cross_entropy_with_logits(
        torch.tensor([0.5, -2.0, 3.0, 1.0, 0.2]), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, [0, 2, 4]].tolist() == [0, 0, 0]
    assert logits.grad[0, 1].item() == pytest.approx((torch.sigmoid(torch.tensor(0.5)).item() - 1) / 5)


def test_the_epoch_is_chosen_by_the_auc_of_all_slices_of_all_studies() -> None:
    assert TASK.selected_outputs == ("slices",)
    y, p = [[0.0, 1.0, np.nan], [0.0, 0.0, 1.0]], [[0.2, 0.6, 0.9], [0.7, 0.1, 0.4]]
    value = mean_auc(pd.DataFrame({"y_slices": y, "p_slices": p}), TASK.selected_outputs)
    assert value == pytest.approx(roc_auc_score([0, 1, 0, 0, 1], [0.2, 0.6, 0.7, 0.1, 0.4]))


def test_the_box_is_scaled_by_the_scans_percentiles_and_ct_is_refused() -> None:
    image, _ = TASK.preprocess(brain())
    assert image.shape == (1, 8, 8, 4)
    assert image[0, 1, 5, 2] == image.max()
    scan = ArrayScan(np.zeros((8, 8, 4), np.int16), modality="CT")
    with pytest.raises(ValueError, match="reads MR"):
        TASK.preprocess(scan)


@pytest.mark.parametrize(
    ("values", "match"), [([0.0, 2.0], "holds 2; write 0, 1"), ([1.0, 1.0], "all of one class"), ([0.0, 1.0], "slice")]
)
def test_labels_that_cannot_train_are_refused(values: list[float], match: str) -> None:
    with pytest.raises(UserError, match=match):
        TASK.check_labels(pd.DataFrame({"metastasis": values}))


def test_validation_needs_a_slice_of_a_positive_study_since_slices_choose_the_epoch() -> None:
    labels = pd.DataFrame({"metastasis": [1.0, 0.0], "slice_indices": [[2], None]})
    TASK.check_validation(labels)
    for unmarked in (labels.assign(slice_indices=None), labels[["metastasis"]]):
        with pytest.raises(UserError, match="no positive validation study, by whose slices the best epoch is chosen,"):
            TASK.check_validation(unmarked)
    with pytest.raises(UserError, match="all of one class in metastasis; the best epoch"):
        TASK.check_validation(labels.assign(metastasis=1.0))


@pytest.fixture
def masked(tmp_path: Path) -> TaskViews:
    """Views of one scan whose mask is its bright block."""
    scan = brain()
    nibabel.save(nibabel.Nifti1Image((scan.read()[0] > 50).astype(np.uint8), scan.affine), tmp_path / "a.nii.gz")
    labels = pd.DataFrame({"metastasis": [1.0, 0.0, 1.0, np.nan], "mask": ["a.nii.gz", "", "", ""]}, index=list("abcd"))
    files = mask_files(labels, tmp_path / "labels.csv", label="metastasis")
    return TaskViews(TASK, labels, train=True, move=1.0, flip=0.5).with_masks(Masks(files))


def test_a_mask_is_known_where_it_is_named_and_empty_where_a_study_is_negative(masked: TaskViews) -> None:
    assert masked.masks is not None
    assert {key: path and path.name for key, path in masked.masks.files.items()} == {"a": "a.nii.gz", "b": None}
    assert masked(brain("b"), np.random.RandomState(0))["mask"].sum() == 0
    assert torch.isnan(masked(brain("c"), np.random.RandomState(0))["mask"]).all()


def test_masks_that_nobody_names_are_asked_for() -> None:
    for labels, match in (
        (pd.DataFrame({"metastasis": [1.0]}), "no column mask; name a NIfTI file .* or do something else"),
        (pd.DataFrame({"metastasis": [1.0, 0.0], "mask": ["", "b.nii.gz"]}), "no positive training study has a mask"),
    ):
        with pytest.raises(UserError, match=match):
            check_masks(labels, "metastasis", instead="do something else")


def test_image_and_mask_move_together(masked: TaskViews) -> None:
    still = masked.still()(brain(), np.random.RandomState(0))
    assert torch.equal(still["mask"], (still["image"] > 0.5).float())
    moved = [masked(brain(), np.random.RandomState(seed)) for seed in range(8)]
    places = [one["mask"].nonzero().float().mean(dim=0) for one in moved]
    assert all((one["image"][one["mask"] > 0] > 0.35).all() for one in moved)
    assert max(float(place[1]) for place in places) > 4 > min(float(place[1]) for place in places)  # mirrored or not
