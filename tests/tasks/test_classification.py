"""Classification of anything: each kind of label is learnt by its likelihood, and answered as probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.scans import ArrayScan, noise_scan
from volssl.errors import UserError
from volssl.tasks import BoxCache, Classification, TaskViews
from volssl.tasks.inference import labels_of
from volssl.transforms.head_box import BoxInfo

NAN = float("nan")
INFO = BoxInfo(((0, 8), (0, 8), (0, 4)), (8, 8, 4), (8, 8, 4), (1.0, 1.0, 1.0))
SCALE = {"grade": ["none", "mild", "severe"]}
CLASSES = ("grade=none", "grade=mild", "grade=severe")


def task(classes: dict[str, list[str]] | None = None, **options: Any) -> Classification:
    given = classes or {"bleed": ["0", "1"]}
    return Classification(columns=list(given), classes=given, **({"grid": (8, 8, 4)} | options))


def targets(of: Classification, *rows: dict[str, Any]) -> Tensor:
    return torch.stack([of.targets(pd.Series(row), INFO) for row in rows])


def test_outputs_are_named_by_column_class_and_step() -> None:
    assert task().output_names == ("bleed",)
    assert task({"a": ["0", "1"], "b": ["0", "1"]}, kind="multi-label").output_names == ("a", "b")
    assert task(SCALE, kind="multi-class").output_names == ("grade=none", "grade=mild", "grade=severe")
    assert task(SCALE, kind="ordinal").output_names == ("grade>=mild", "grade>=severe")
    mixed = task({"bleed": ["0", "1"], **SCALE}, kind="multi-class")
    assert mixed.output_names == ("bleed", "grade=none", "grade=mild", "grade=severe")
    assert (mixed.head_sizes, mixed.label_columns) == ({"volume": 4, "types": 0, "slices": 0}, ("bleed", "grade"))
    assert task(level="slice").output_names == ("bleed", "slices")


def test_a_multi_class_loss_is_torchs_cross_entropy_of_the_known_studies() -> None:
    of = task(SCALE, kind="multi-class", class_weights={"grade": [1.0, 2.0, 4.0]})
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    index = [0, 2, NAN, 1, 2]
    ours = of.loss(logits, targets(of, *({"grade": i} for i in index)))["loss"]
    known = torch.tensor([0, 1, 3, 4])
    weighted = functional.cross_entropy(
        logits[known], torch.tensor([0, 2, 1, 2]), weight=torch.tensor([1.0, 2.0, 4.0]), reduction="sum"
    )
    torch.testing.assert_close(ours, weighted / 4)


def test_a_binary_and_a_multi_label_loss_are_torchs_with_weights() -> None:
    of = task({"a": ["0", "1"], "b": ["0", "1"]}, kind="multi-label", class_weights={"b": [0.5, 3.0]})
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([[0.0, 1.0], [1.0, NAN], [1.0, 0.0], [NAN, NAN]])
    rows = [{"a": row[0].item(), "b": row[1].item()} for row in truth]
    weight = torch.tensor([[1.0, 3.0], [1.0, 0.0], [1.0, 0.5], [0.0, 0.0]])  # 0 where unknown
    expected = functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), weight=weight, reduction="sum")
    torch.testing.assert_close(of.loss(logits, targets(of, *rows))["loss"], expected / 5)


def test_an_ordinal_loss_is_minus_the_log_of_the_probability_that_is_answered() -> None:
    of = task({"grade": ["0", "1", "2", "3"]}, kind="ordinal", class_weights={"grade": [1.0, 1.0, 1.0, 2.0]})
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    answer = of.predictions(logits)
    above = torch.stack([torch.ones(4), *answer.values(), torch.zeros(4)], dim=1)
    of_class = above[:, :-1] - above[:, 1:]  # (B, 4): the chance of each class, from those to be at least it
    torch.testing.assert_close(of_class.sum(dim=1), torch.ones(4))
    assert (of_class > 0).all()  # so the answers never rise from step to step
    chances = of_class[torch.arange(4), torch.arange(4)]
    ours = of.loss(logits, targets(of, *({"grade": i} for i in range(4))))["loss"]
    torch.testing.assert_close(ours, (-chances.log() * torch.tensor([1.0, 1.0, 1.0, 2.0])).sum() / 4)


@pytest.mark.parametrize("kind", ["multi-class", "ordinal"])
def test_what_is_unknown_has_no_gradient_and_a_batch_of_it_no_loss(kind: str) -> None:
    of = task({"bleed": ["0", "1"], **SCALE}, kind=kind)
    logits = torch.randn(2, len(of.output_names), requires_grad=True)
    losses = of.loss(logits, targets(of, {"bleed": 1.0, "grade": NAN}, {"bleed": NAN, "grade": NAN}))
    losses["loss"].backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] != 0
    assert logits.grad[0, 1:].abs().sum() + logits.grad[1].abs().sum() == 0
    nothing = of.loss(logits.detach(), torch.full((2, len(of.output_names)), NAN))["loss"]
    assert nothing == 0


def test_probabilities_of_classes_sum_to_one_and_equal_scipys() -> None:
    from scipy.special import expit, softmax

    of = task({"bleed": ["0", "1"], **SCALE}, kind="multi-class")
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)) * 5
    answer = of.predictions(logits)
    np.testing.assert_allclose(answer["bleed"], expit(logits[:, 0].numpy()), rtol=1e-5)
    classes = np.stack([answer[f"grade={name}"].numpy() for name in SCALE["grade"]], axis=1)
    np.testing.assert_allclose(classes, softmax(logits[:, 1:].numpy(), axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("multi-class", [dict(zip(CLASSES, (0, 1, 0), strict=True)), dict(zip(CLASSES, (0, 0, 1), strict=True))]),
        ("ordinal", [{"grade>=mild": 1, "grade>=severe": 0}, {"grade>=mild": 1, "grade>=severe": 1}]),
    ],
)  # fmt: skip
def test_the_table_of_predictions_has_each_output_as_0_or_1(kind: str, expected: list[dict[str, float]]) -> None:
    of = task(SCALE, kind=kind)
    rows = labels_of(of, [{"target": one} for one in targets(of, {"grade": 1.0}, {"grade": 2.0}, {"grade": NAN})])
    assert rows[:2] == [{f"y_{name}": float(value) for name, value in row.items()} for row in expected]
    assert all(np.isnan(value) for value in rows[2].values())


def test_slices_are_learnt_beside_the_volume() -> None:
    of = task(level="slice", slice_weight=2.0)
    truth = targets(
        of,
        {"bleed": 1.0, "slice_indices": [1]},
        {"bleed": 0.0, "slice_indices": None},
        {"bleed": 1.0, "slice_indices": None},
    )
    np.testing.assert_array_equal(truth[:2], [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    assert truth[2, 0] == 1
    assert truth[2, 1:].isnan().all()  # a positive volume whose slices nobody marked
    losses = of.loss(torch.zeros(3, 5), truth)
    half = np.log(2)  # the cross-entropy of a probability of one half, whatever the truth
    assert float(losses["loss"]) == pytest.approx(half + 2 * half)
    assert set(of.predictions(torch.zeros(3, 5))) == {"bleed", "slices"}
    assert of.predictions(torch.zeros(3, 5))["slices"].shape == (3, 4)


def test_a_network_on_random_boxes_learns_three_classes_by_its_loss() -> None:
    of = task(SCALE, kind="multi-class")
    torch.manual_seed(0)
    means = torch.tensor([0.0, 1.0, 2.0]).repeat(20)
    x = means[:, None] + 0.1 * torch.randn(60, 1)
    truth = targets(of, *({"grade": float(i)} for i in means))
    network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        of.loss(network(x), truth)["loss"].backward()
        optimizer.step()
    found = torch.stack(list(of.predictions(network(x)).values()), dim=1).argmax(dim=1)
    assert (found == means).float().mean() > 0.95


def mr_scan() -> ArrayScan:
    values = np.random.default_rng(0).uniform(100, 900, (20, 20, 12)).astype(np.float32)
    return ArrayScan(values, spacing_mm=(1.0, 1.0, 2.0), modality="MR")


def test_mr_is_scaled_by_its_percentiles_and_ct_by_a_window_for_each_channel() -> None:
    scan = mr_scan()
    image, info = task(modality="MR", grid=(20, 20, 12), spacing_mm=(1.0, 1.0, 2.0)).preprocess(scan)
    low, high = np.percentile(scan.array, (0.5, 99.5))
    np.testing.assert_allclose(image[0], np.clip((scan.array - low) / (high - low), 0, 1), atol=1e-5)
    assert info.box == ((0, 20), (0, 20), (0, 12))
    of = task(window_hu=[(40, 80), (600, 2800)])
    assert of.preprocess(noise_scan(0))[0].shape == (2, 8, 8, 4)
    assert of.contract.channels == 2


def test_the_same_scan_in_another_box_is_another_entry_of_the_cache() -> None:
    cache, scan = BoxCache(), noise_scan(1)
    made = [cache.get_or_make(scan, task(box=box))[0] for box in ("foreground", "head")]
    assert not torch.equal(*made)


def test_views_of_a_labelled_scan_carry_its_target() -> None:
    of = task(SCALE, kind="ordinal")
    views = TaskViews(of, pd.DataFrame({"grade": [1.0]}, index=["scan0"]))
    np.testing.assert_array_equal(views(noise_scan(0), np.random.RandomState(0))["target"], [1, 0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"modality": "PET"}, "task::modality=PET: unknown; choose CT, MR"),
        ({"level": "voxel"}, "task::level=voxel: unknown"),
        ({"box": "chest"}, "task::box=chest: unknown; choose foreground, head"),
        ({"modality": "MR", "box": "head"}, "are of CT"),
        ({"kind": "multi-label"}, "multi-label is for several columns of 0 and 1"),
        ({"class_weights": {"bleed": [1.0]}}, "bleed has 2 classes, 0, 1; give a weight of at least 0 for each"),
        (
            {"class_weights": {"blood": [1.0, 1.0]}},
            "class_weights names blood, which is no label column; there are bleed",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        task(**options)


def test_slices_are_for_one_column_of_0_and_1_and_columns_must_be_named() -> None:
    with pytest.raises(UserError, match="level=slice is for one column"):
        task(SCALE, kind="multi-class", level="slice")
    with pytest.raises(UserError, match="needs label columns"):
        Classification(columns=[], classes={})
    with pytest.raises(UserError, match="names no two classes of bleed"):
        Classification(columns=["bleed"], classes={})


def test_a_scan_of_another_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="reads CT, this scan is MR"):
        task().preprocess(mr_scan())


def labels(**columns: list[float]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_training_labels_of_one_class_are_refused_and_a_class_without_a_study_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match="the 3 training studies with a label in `grade` are all mild"):
        task(SCALE, kind="multi-class").check_labels(labels(grade=[1, 1, 1, NAN]))
    with pytest.raises(UserError, match="the 0 training studies"):
        task(SCALE, kind="multi-class").check_labels(labels(grade=[NAN]))
    task(SCALE, kind="ordinal").check_labels(labels(grade=[0, 1, 1]))
    assert "no training study has grade severe" in capsys.readouterr().err
    with pytest.raises(UserError, match="no positive study has slice labels"):
        task(level="slice").check_labels(labels(bleed=[0, 1]))


def test_validation_labels_of_one_class_are_refused() -> None:
    of = task({"a": ["0", "1"], "b": ["0", "1"]}, kind="multi-label")
    of.check_validation(labels(a=[0, 0], b=[0, 1]))  # the one tells of the best epoch
    with pytest.raises(
        UserError, match=r"the 2 labelled validation studies are all of one class in a and b.*stratify a"
    ):
        of.check_validation(labels(a=[0, 0, NAN], b=[NAN, 0, NAN]))
