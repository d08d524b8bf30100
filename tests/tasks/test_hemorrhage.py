from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.scans import ArrayScan
from volssl.encoders import PaperDenseNet
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.tasks.hemorrhage import TYPES, Hemorrhage
from volssl.transforms.head_box import BoxInfo

NAN = float("nan")
GRID = (48, 56, 4)
INFO = BoxInfo(((0, 48), (0, 56), (0, 8)), GRID, (48, 56, 8), (3.5, 3.5, 17.5))  # two slices of the scan to one


def row(hemorrhage: float, types: tuple[float, ...] = (0, 0, 0, 0, 0), slices: Any = None) -> pd.Series:
    return pd.Series({"hemorrhage": hemorrhage, **dict(zip(TYPES, types, strict=True)), "slice_indices": slices})


def targets(of: pd.Series, info: BoxInfo = INFO, **options: Any) -> list[float]:
    values = Hemorrhage(grid=GRID, **options).targets(of, info)
    assert values.dtype == torch.float32
    return values.tolist()


def test_columns_are_the_volume_the_types_and_the_slices_from_inferior() -> None:
    assert targets(row(1, (0, 1, 0, 0, 1), [2, 7])) == [1, 0, 1, 0, 0, 1, 0, 1, 0, 1]


def test_a_negative_volume_is_negative_everywhere() -> None:
    assert targets(row(0, (NAN, 0, NAN, 0, 0))) == [0.0] * 10


def test_a_positive_volume_without_slice_labels_has_unknown_slices() -> None:
    for blank in (None, NAN, []):
        values = targets(row(1, (0, NAN, 0, 0, 1), blank))
        assert values[:2] == [1, 0]
        assert np.isnan([values[2], *values[6:]]).all()


def test_an_unlabelled_volume_with_slice_labels_keeps_them() -> None:
    values = targets(row(NAN, slices=[0]))
    assert np.isnan(values[0])
    assert values[6:] == [1, 0, 0, 0]


def test_slices_of_the_grid_outside_of_the_scan_are_unknown() -> None:
    above = BoxInfo(((0, 48), (0, 56), (4, 12)), GRID, (48, 56, 8), (3.5, 3.5, 17.5))
    assert targets(row(0), above)[6:8] == [0, 0]
    assert np.isnan(targets(row(0), above)[8:]).all()


@pytest.mark.parametrize(
    ("options", "columns", "names"),
    [
        ({"types": False, "slices": False}, 1, ("hemorrhage",)),
        ({"slices": False}, 6, ("hemorrhage", *TYPES)),
        ({"types": False}, 5, ("hemorrhage", "slices")),
        ({}, 10, ("hemorrhage", *TYPES, "slices")),
    ],
)
def test_the_network_the_targets_and_the_predictions_agree_in_every_row_of_table_5(
    options: dict[str, bool], columns: int, names: tuple[str, ...]
) -> None:
    task = Hemorrhage(grid=GRID, **options)
    network = TaskNetwork(PaperDenseNet(), **task.head_sizes).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 1, *GRID))
    goal = torch.stack([task.targets(row(1, slices=[2]), INFO), task.targets(row(0), INFO)])
    assert logits.shape == goal.shape == (2, columns)
    answer = task.predictions(logits)
    assert tuple(answer) == task.output_names == names
    assert torch.equal(answer["hemorrhage"], torch.sigmoid(logits[:, 0]))
    if "slices" in names:
        assert torch.equal(answer["slices"], torch.sigmoid(logits[:, -4:]))
    if "epidural" in names:
        assert torch.equal(answer["epidural"], torch.sigmoid(logits[:, 3]))
    losses = task.loss(logits, goal)
    expected = {"loss", "loss_volume"} | {f"loss_{kind}" for kind in ("types", "slices") if options.get(kind, True)}
    assert set(losses) == expected


def test_the_loss_is_the_weighted_sum_of_its_groups() -> None:
    # Logits of 0 cost ln 2 each; a positive volume counts twice: 3 * 2 ln 2 + .5 ln 2 + .25 ln 2.
    task = Hemorrhage(grid=GRID, weights=(3, 0.5, 0.25), positive_weights=(2, 1, 1))
    losses = task.loss(torch.zeros(1, 10), task.targets(row(1, slices=[2]), INFO)[None])
    assert losses["loss"].item() == pytest.approx(6.75 * np.log(2), abs=1e-5)
    assert losses["loss_volume"].item() == pytest.approx(2 * np.log(2), abs=1e-5)
    assert losses["loss_slices"].item() == pytest.approx(np.log(2), abs=1e-5)


def test_unknown_targets_leave_the_network_alone() -> None:
    task = Hemorrhage(grid=GRID)
    logits = torch.ones(1, 10, requires_grad=True)
    task.loss(logits, task.targets(row(1, (1, NAN, 0, 0, 0)), INFO)[None])["loss"].backward()
    assert logits.grad is not None
    assert logits.grad[0, [2, 6, 7, 8, 9]].abs().sum() == 0
    assert (logits.grad[0, [0, 1, 3, 4, 5]] != 0).all()


def test_a_tensor_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="the task has 10 columns, the tensor 26"):
        Hemorrhage(grid=GRID).predictions(torch.zeros(1, 26))


def test_the_contract_states_window_and_voxels() -> None:
    contract = Hemorrhage(grid=(48, 56, 20)).contract
    assert (contract.modality, contract.window_hu, contract.spacing_mm) == ("CT", (55.0, 200.0), (3.5, 3.5, 7.0))
    assert Hemorrhage().contract.spacing_mm == (0.875, 0.875, 3.5)


def test_an_mr_is_refused() -> None:
    scan = ArrayScan(np.zeros((8, 8, 8), np.int16), modality="MR")
    with pytest.raises(ValueError, match="read from CT, this scan is MR"):
        Hemorrhage(grid=GRID).preprocess(scan)


def test_a_task_travels_to_workers() -> None:
    task = pickle.loads(pickle.dumps(Hemorrhage(grid=[48, 56, 4])))  # type: ignore[arg-type]
    assert task.grid == GRID
    assert task.contract == Hemorrhage(grid=GRID).contract


def table(*rows: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(list(rows), index=[f"scan{i}" for i in range(len(rows))])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (table(row(1, slices=[1]), row(2)), "hemorrhage holds 2"),
        (table(row(1, slices=[1]), row(0, (0, 0.5, 0, 0, 0))), "subdural holds 0.5"),
        (table(row(1, slices=[1]), row(1, slices=[1])), "2 training studies .* all of one class"),
        (table(row(1, slices=[1]), row(0, (0, 0, 1, 0, 0))), "1 studies with hemorrhage 0 have epidural 1"),
        (table(row(1), row(0)), "no positive study has slice labels"),
        (table(row(1, slices=[1]), row(0, slices=[3])), "hemorrhage 0 has positive slices"),
    ],
)
def test_labels_that_cannot_train_are_one_clear_line(labels: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Hemorrhage(grid=GRID).check_labels(labels)
    assert "\n" not in str(caught.value)


def test_a_task_that_segments_asks_for_a_mask_and_one_that_does_not_for_none() -> None:
    labels = table(row(1, slices=[1]), row(0))
    Hemorrhage(grid=GRID).check_labels(labels)
    assert Hemorrhage(grid=GRID).masks(labels, "labels.csv") is None
    with pytest.raises(UserError, match=r"labels: no column mask; .* or leave task::segment out"):
        Hemorrhage(grid=GRID, segment=True).check_labels(labels)
    assert (Hemorrhage().segment_weight, Hemorrhage(segment=True).segment_weight) == (0.0, 1.0)


def test_an_unknown_way_to_join_is_refused() -> None:
    with pytest.raises(UserError, match="task::join=sum: unknown; choose mean or max"):
        Hemorrhage(join="sum")


def test_good_labels_pass_and_slices_are_not_asked_for_where_they_are_off() -> None:
    Hemorrhage(grid=GRID).check_labels(table(row(1, slices=[1]), row(1), row(0), row(NAN)))
    Hemorrhage(grid=GRID, slices=False).check_labels(table(row(1), row(0)))
