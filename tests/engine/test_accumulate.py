"""A batch whose parts run one after the other has the codes, loss and gradient of one that runs at once."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import TinyEncoder, guess, swav, tiny_batch, trainer_of
from volssl.engine.accumulate import backward
from volssl.errors import UserError
from volssl.methods.base import Method


def gradients(method: Method, parts: int, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    method.zero_grad()
    losses = backward(method.train(), batch, parts=parts, autocast=nullcontext, scale=lambda loss: loss * 8)
    return float(losses["loss"]), {n: p.grad.clone() / 8 for n, p in method.named_parameters() if p.grad is not None}


def same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[n], b[n], atol=atol, rtol=0) for n in a)


@pytest.mark.parametrize("parts", [2, 4, 6])
@pytest.mark.parametrize("modalities", [(0,), (0, 1)])
def test_codes_loss_gradient_and_queue_are_those_of_one_large_batch(parts: int, modalities: tuple[int, ...]) -> None:
    batch = tiny_batch(6, modalities)
    options = {"modalities": ["CT", "MR"][: len(modalities)], "queue_length": 3, "freeze_steps": 0}
    whole, cut = swav(**options), swav(**options)
    for _ in range(2):  # the second with a full queue
        expected, slopes = gradients(whole, 1, batch)
        loss, got = gradients(cut, parts, batch)
        assert loss == pytest.approx(expected, abs=1e-6)
        assert same(got, slopes)
        assert max(float(slope.abs().max()) for slope in slopes.values()) > 1e-2
        torch.testing.assert_close(cut.queue, whole.queue, atol=1e-6, rtol=0)
    assert int(cut.queue_filled[0]) == int(whole.queue_filled[0]) > 0


def test_the_gradient_equals_plain_differentiation_of_the_method() -> None:
    batch, method = tiny_batch(), swav(freeze_steps=0, queue_length=0)
    method(batch)["loss"].backward()
    expected = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    assert same(gradients(method, 3, batch)[1], expected)


def test_frozen_prototypes_have_no_gradient_in_two_passes_either() -> None:
    method = swav(freeze_steps=1)
    gradients(method, 2, tiny_batch())
    assert method.prototypes.grad is None


def test_independent_samples_have_the_mean_of_the_parts() -> None:
    batch = tiny_batch(7)
    expected, slopes = gradients(guess(), 1, batch)
    loss, got = gradients(guess(), 3, batch)  # parts of 3, 2 and 2
    assert loss == pytest.approx(expected, abs=1e-6)
    assert same(got, slopes)


def test_the_second_pass_drops_what_the_first_dropped() -> None:
    """With other draws in the second pass the gradient would be that of other features than those of the loss."""
    batch = tiny_batch()
    method = swav(TinyEncoder(dropout=0.5), freeze_steps=0, queue_length=0)
    torch.manual_seed(1)
    loss, got = gradients(method, 2, batch)
    after = torch.rand(3)

    torch.manual_seed(1)
    made = [method.embed({name: value[part] for name, value in batch.items()}) for part in (slice(3), slice(3, 6))]
    method.zero_grad()
    losses = method.losses({name: torch.cat([rows[name] for rows in made]) for name in made[0]})
    losses["loss"].backward()
    assert loss == pytest.approx(float(losses["loss"].detach()), abs=1e-6)
    assert same(got, {n: p.grad for n, p in method.named_parameters() if p.grad is not None})
    assert torch.equal(torch.rand(3), after)  # and the draws that follow are those that would have followed


def test_batch_statistics_are_counted_once() -> None:
    batch, method, plain = tiny_batch(), swav(batch_norm=True), swav(batch_norm=True)
    gradients(method, 2, batch)
    for part in (slice(3), slice(3, 6)):
        plain.train().embed({name: value[part] for name, value in batch.items()})
    norms = [module for module in method.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    twins = [module for module in plain.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm, twin in zip(norms, twins, strict=True):
        assert int(norm.num_batches_tracked) == int(twin.num_batches_tracked) > 0
        torch.testing.assert_close(norm.running_mean, twin.running_mean)
        torch.testing.assert_close(norm.running_var, twin.running_var)


def test_two_passes_under_autocast_have_the_gradient_of_one() -> None:
    """Casts of weights that autocast keeps from the pass without gradient would leave the weights without one."""
    batch = tiny_batch()

    def slopes(parts: int) -> dict[str, Tensor]:
        method = swav(freeze_steps=0)
        backward(
            method,
            batch,
            parts=parts,
            autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
            scale=lambda loss: loss,
        )
        return {n: p.grad for n, p in method.named_parameters() if p.grad is not None}

    whole, cut = slopes(1), slopes(3)
    assert whole.keys() == cut.keys() == dict(swav().named_parameters()).keys()
    assert all((whole[n] - cut[n]).norm() <= 0.03 * whole[n].norm() for n in whole)


def test_a_run_in_parts_ends_as_one_at_once(tmp_path: Path) -> None:
    ends = []
    for parts in (1, 2):
        trainer = trainer_of(swav(), tmp_path / f"{parts}", accumulate=parts)
        trainer.run()
        ends.append({n: p.detach() for n, p in trainer.method.named_parameters()})
    assert same(*ends, atol=1e-5)
    assert all(math.isfinite(float(p.sum())) for p in ends[0].values())


def test_more_parts_than_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accumulate 5: a batch of 4 is cut into 1 to 4 parts"):
        trainer_of(swav(), tmp_path, accumulate=5)
