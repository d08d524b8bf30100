"""Contrastive losses where they can be worked out by hand, and against numbers of lightly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from volssl.losses import contrastive_loss, nt_xent, queue_loss


def rows(n: int, factor: float) -> Tensor:
    return torch.from_numpy(np.sin(np.arange(n * 4.0).reshape(n, 4) * factor).astype(np.float32))


def test_two_samples_whose_crops_are_equal_and_whose_features_are_orthogonal() -> None:
    features = torch.eye(2)  # one partner at similarity 1, two others at 0
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert nt_xent(features, features, temperature=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_collapsed_features_give_the_logarithm_of_the_number_of_others() -> None:
    same = torch.ones(3, 8)
    assert nt_xent(same, same, temperature=0.1).item() == pytest.approx(math.log(5), rel=1e-6)
    assert queue_loss(same, same, torch.ones(7, 8), temperature=0.1).item() == pytest.approx(math.log(8), rel=1e-6)


@pytest.mark.parametrize(("temperature", "theirs"), [(0.1, 7.828561782836914), (0.5, 2.692873954772949)])
def test_nt_xent_is_that_of_lightly(temperature: float, theirs: float) -> None:
    # lightly 1.6.0: NTXentLoss(temperature)(rows(6, 1.0), rows(6, 1.3))
    assert nt_xent(rows(6, 1.0), rows(6, 1.3), temperature=temperature).item() == pytest.approx(theirs, rel=1e-6)


def test_the_loss_with_a_queue_is_that_of_lightly() -> None:
    # lightly 1.6.0: NTXentLoss(0.2, memory_bank_size=(8, 4)), its bank set to these rows
    bank = functional.normalize(rows(8, 0.7) + 0.1, dim=1)
    loss = queue_loss(rows(6, 1.0), rows(6, 1.3), bank, temperature=0.2)
    assert loss.item() == pytest.approx(4.628480911254883, rel=1e-6)


def test_the_loss_is_the_sum_over_all_pairs_that_chen_et_al_write_down() -> None:
    a, b = rows(5, 0.9).double().numpy(), rows(5, 2.1).double().numpy()
    z = np.empty((10, 4))
    z[0::2], z[1::2] = a, b  # as in the paper's algorithm 1: neighbours belong together
    similarity = z @ z.T / np.outer(np.linalg.norm(z, axis=1), np.linalg.norm(z, axis=1))

    def term(i: int, j: int) -> float:
        others = [np.exp(similarity[i, k] / 0.3) for k in range(10) if k != i]
        return float(-np.log(np.exp(similarity[i, j] / 0.3) / np.sum(others)))

    expected = sum(term(2 * k, 2 * k + 1) + term(2 * k + 1, 2 * k) for k in range(5)) / 10
    assert nt_xent(rows(5, 0.9), rows(5, 2.1), temperature=0.3).item() == pytest.approx(expected, rel=1e-5)


def test_several_positives_count_by_their_mean_and_anchors_without_one_not_at_all() -> None:
    scores = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.5, 0.5], [9.0, 1.0, 3.0]])
    positives = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    first = np.log(np.exp([1.0, 0.0, 2.0]).sum()) - (1.0 + 2.0) / 2
    third = np.log(np.exp([9.0, 1.0, 3.0]).sum()) - 1.0
    assert contrastive_loss(scores, positives).item() == pytest.approx((first + third) / 2, rel=1e-6)
    assert contrastive_loss(scores, torch.zeros_like(positives)).item() == 0


def test_what_is_ignored_has_no_influence_and_no_gradient() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0]], requires_grad=True)
    positives, ignored = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    loss = contrastive_loss(scores, positives, ignored=ignored)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(math.exp(1) + math.exp(2)) - 1, rel=1e-6)
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert (scores.grad[0, [0, 2]] != 0).all()


def test_kin_do_not_repel_but_a_pair_still_attracts() -> None:
    first, second = rows(4, 1.0), rows(4, 1.3)
    kin = torch.eye(4, dtype=torch.bool)
    assert torch.equal(nt_xent(first, second, temperature=0.2, kin=kin), nt_xent(first, second, temperature=0.2))
    kin[0, 1] = kin[1, 0] = True
    z = functional.normalize(torch.cat([first, second]), dim=1)
    scores, left_out = (z @ z.T / 0.2).exp(), {0: (0, 1, 5), 1: (1, 0, 4), 4: (4, 5, 1), 5: (5, 4, 0)}
    terms = []
    for i in range(8):
        others = [scores[i, k] for k in range(8) if k not in left_out.get(i, (i,))]
        terms.append(-(scores[i, (i + 4) % 8] / torch.stack(others).sum()).log())
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(nt_xent(first, second, temperature=0.2, kin=kin), expected)


def test_rows_of_the_queue_that_are_ignored_are_counted_for_by_the_others() -> None:
    queries, keys, queue = rows(3, 1.0), rows(3, 1.3), rows(6, 0.4)
    ignored = torch.zeros(3, 6, dtype=torch.bool)
    torch.testing.assert_close(
        queue_loss(queries, keys, queue, temperature=0.2, ignored=ignored),
        queue_loss(queries, keys, queue, temperature=0.2),
    )
    ignored[:, 2:] = True
    torch.testing.assert_close(  # two rows stand for six
        queue_loss(queries, keys, queue, temperature=0.2, ignored=ignored),
        queue_loss(queries, keys, queue[:2].repeat(3, 1), temperature=0.2),
    )
    everything = queue_loss(queries, keys, queue, temperature=0.2, ignored=torch.ones_like(ignored))
    assert everything.item() == 0  # no negative: nothing to tell apart


def test_keys_and_queue_carry_no_gradient_to_the_key_s_encoder() -> None:
    queries, keys = rows(3, 1.0).requires_grad_(), rows(3, 1.3).requires_grad_()
    queue_loss(queries, keys, rows(5, 0.4), temperature=0.2).backward()
    assert keys.grad is None
    assert queries.grad is not None
    assert queries.grad.abs().sum() > 0


def test_half_precision_does_not_reach_the_similarities() -> None:
    first, second = rows(6, 1.0), rows(6, 1.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nt_xent(first, second, temperature=0.1), queue_loss(first, second, rows(8, 0.7), temperature=0.1)
    assert torch.equal(inside[0], nt_xent(first, second, temperature=0.1))
    assert torch.equal(inside[1], queue_loss(first, second, rows(8, 0.7), temperature=0.1))
