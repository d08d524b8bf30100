from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from volssl.tasks.base import masked_bce

NAN = float("nan")


def test_on_known_targets_it_is_the_cross_entropy_of_torch() -> None:
    logits, targets = torch.tensor([[2.0, -1.0, 0.3], [0.5, 4.0, -2.0]]), torch.tensor([[1.0, NAN, 0], [NAN, 0, 1]])
    known = ~targets.isnan()
    expected = functional.binary_cross_entropy_with_logits(logits[known], targets[known])
    assert masked_bce(logits, targets).item() == pytest.approx(expected.item(), abs=1e-6)


def test_by_hand() -> None:
    # ln 2 for a logit of 0; a positive counts three times: (3 ln 2 + ln 2) / 2.
    ln2 = 0.693147
    assert masked_bce(torch.zeros(2), torch.tensor([1.0, 0.0])).item() == pytest.approx(ln2, abs=1e-6)
    weighted = masked_bce(torch.zeros(3), torch.tensor([1.0, 0.0, NAN]), positive_weight=3.0)
    assert weighted.item() == pytest.approx(2 * ln2, abs=1e-6)


def test_unknown_targets_have_no_gradient_and_known_ones_that_of_torch() -> None:
    logits = torch.tensor([1.0, -3.0, 0.0], requires_grad=True)
    masked_bce(logits, torch.tensor([1.0, NAN, 0.0])).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([(0.731059 - 1) / 2, 0.0, 0.25], abs=1e-6)


def test_nothing_known_gives_zero_and_no_gradient() -> None:
    logits = torch.ones(4, requires_grad=True)
    loss = masked_bce(logits, torch.full((4,), NAN))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0
