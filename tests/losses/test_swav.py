"""The swapped prediction against a loop written from the equation, gradients included."""

from __future__ import annotations

import math

import pytest
import torch

from volssl.losses import sinkhorn, swav_loss

OPTIONS = {"temperature": 0.1, "epsilon": 0.05, "iterations": 3}


def crops(count: int, samples: int = 6, prototypes: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.rand(samples, prototypes, generator=generator) * 2 - 1).double() for _ in range(count)]


def by_hand(scores: list[torch.Tensor], assigned: list[int], queue: list[torch.Tensor] | None) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for n, i in enumerate(assigned):
        rows = scores[i] if queue is None else torch.cat([queue[n], scores[i]])
        q = sinkhorn(rows, epsilon=0.05, iterations=3)[-len(scores[i]) :].double()
        for v in range(len(scores)):
            if v == i:
                continue
            p = (scores[v] / 0.1).exp()
            p = p / p.sum(dim=1, keepdim=True)
            total = total - (q * p.log()).sum() / len(q) / (len(scores) - 1) / len(assigned)
    return total


@pytest.mark.parametrize("assigned", [[0, 1], [0], [2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("with_queue", [False, True])
def test_loss_and_gradient_equal_the_equation(assigned: list[int], with_queue: bool) -> None:
    ours, theirs = ([s.clone().requires_grad_() for s in crops(4)] for _ in range(2))
    queue = crops(len(assigned), samples=9) if with_queue else None
    loss = swav_loss(ours, assigned=assigned, queue_scores=queue, **OPTIONS)
    expected = by_hand(theirs, assigned, queue)
    loss.backward()
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_the_loss_equals_that_of_another_toolkit() -> None:
    """What `lightly.loss.SwaVLoss` of lightly 1.6.0 gives for two large and two small crops, without and with queue."""
    i, j = torch.arange(4.0)[:, None], torch.arange(3.0)[None]
    scores = [torch.cos(i * i + 3 * j + v) for v in range(4)]
    queue = [torch.cos(j - i + v) for v in (5, 6)]
    assert float(swav_loss(scores, assigned=[0, 1], **OPTIONS)) == pytest.approx(8.1770546, abs=1e-5)
    assert float(swav_loss(scores, assigned=[0, 1], queue_scores=queue, **OPTIONS)) == pytest.approx(
        8.1358161, abs=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    scores, queue = [s.to(dtype) for s in crops(3)], [s.to(dtype) for s in crops(1, samples=9)]
    with torch.autocast("cpu", dtype=dtype):
        loss = swav_loss(scores, assigned=[1], queue_scores=queue, **OPTIONS)
    in_full = swav_loss([s.float() for s in scores], assigned=[1], queue_scores=[s.float() for s in queue], **OPTIONS)
    assert loss.dtype == torch.float32
    assert float(loss) == float(in_full)


def test_one_assigned_crop_gets_no_gradient_from_its_own_codes() -> None:
    scores = [s.requires_grad_() for s in crops(2)]
    swav_loss(scores, assigned=[0], **OPTIONS).backward()
    assert scores[0].grad is None
    assert scores[1].grad is not None


def test_collapsed_scores_cost_the_logarithm_of_the_prototypes() -> None:
    scores = [torch.zeros(4, 7) for _ in range(3)]
    assert float(swav_loss(scores, assigned=[0, 1], **OPTIONS)) == pytest.approx(math.log(7), abs=1e-6)


def test_an_assigned_crop_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="assigned"):
        swav_loss(crops(2), assigned=[2], **OPTIONS)
