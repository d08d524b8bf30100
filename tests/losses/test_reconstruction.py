"""The error of restored volumes, against torch's own and numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from volssl.losses.reconstruction import reconstruction_error


@pytest.mark.parametrize(("error", "theirs"), [("mse", functional.mse_loss), ("l1", functional.l1_loss)])
def test_the_mean_of_its_rows_is_torch_s_loss(error: str, theirs: object) -> None:
    output, target = torch.randn(2, 3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    rows = reconstruction_error(output, target, error=error)
    assert rows.shape == (3,)
    torch.testing.assert_close(rows.mean(), theirs(output, target))  # type: ignore[operator]
    torch.testing.assert_close(rows[1], theirs(output[1], target[1]))  # type: ignore[operator]


def test_only_the_voxels_that_count_enter_each_sample_by_itself() -> None:
    output = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]], requires_grad=True)
    where = torch.tensor([[True, False, True, False], [True, True, True, True], [False] * 4])
    rows = reconstruction_error(output, torch.zeros(3, 4), where=where)
    assert rows.tolist() == [(1 + 9) / 2, 1.0, 0.0]
    rows.sum().backward()
    assert output.grad is not None
    assert output.grad.tolist() == [[1.0, 0.0, 3.0, 0.0], [0.5] * 4, [0.0] * 4]


def test_half_precision_is_taken_in_float32() -> None:
    output, target = torch.full((1, 3), 300.0, dtype=torch.float16), torch.zeros(1, 3, dtype=torch.float16)
    assert reconstruction_error(output, target).tolist() == [90_000.0]  # beyond float16


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one of mse, l1"):
        reconstruction_error(torch.zeros(1, 2), torch.zeros(1, 2), error="l2")
    with pytest.raises(ValueError, match="differ in shape"):
        reconstruction_error(torch.zeros(2, 1), torch.zeros(2, 2))
