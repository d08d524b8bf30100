"""A step in half precision, with clipping and with other layouts; and what it leaves when the loss is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import TinyData, TinyEncoder, guess, swav, tiny_batch, trainer_of
from volssl.engine import MethodTrainer
from volssl.engine.schedule import scaled_rate
from volssl.engine.step import NonFiniteLossError, train_step
from volssl.errors import UserError
from volssl.methods.base import Method


def step(method: Method, batch: dict[str, Tensor], **options: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """One step of plain SGD with rate 1: the losses, and how far each parameter went."""
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    settings = {"rate_factor": 1.0, "precision": "float32", "clip_norm": 0.0}
    losses = train_step(method, optimizer, batch, **(settings | options))
    return losses, {name: before[name] - p.detach() for name, p in method.named_parameters()}


def norm(moves: dict[str, Tensor]) -> float:
    return float(torch.cat([move.flatten() for move in moves.values()]).norm())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_goes_where_float32_goes(precision: str) -> None:
    batch = tiny_batch()
    losses, moves = step(swav(), batch)
    half, moved = step(swav(), batch, precision=precision, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert half["loss"] == pytest.approx(losses["loss"], rel=0.02)
    assert norm({name: moved[name] - moves[name] for name in moves}) < 0.1 * norm(moves)
    assert norm({name: moved[name] - moves[name] for name in moves}) > 0


def test_the_scale_of_the_loss_does_not_show_in_the_step() -> None:
    batch = tiny_batch()
    _, moves = step(guess(), batch, clip_norm=0.01)
    _, scaled = step(guess(), batch, clip_norm=0.01, scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    assert norm(moves) == pytest.approx(0.01, rel=1e-4)  # clipped after it was taken off
    assert all(torch.allclose(moves[name], scaled[name], atol=1e-7) for name in moves)


def test_a_gradient_that_overflows_leaves_the_step_out_and_lowers_the_scale() -> None:
    method, scaler = guess(), torch.amp.GradScaler("cpu", init_scale=2.0**127)
    losses, moves = step(method, {k: v * 100 for k, v in tiny_batch().items()}, scaler=scaler, clip_norm=1.0)
    assert losses["loss"] > 1
    assert norm(moves) == 0
    assert scaler.get_scale() == 2.0**126


def test_a_loss_that_is_no_number_stops_before_any_weight_changes() -> None:
    method, scaler = guess(), torch.amp.GradScaler("cpu", init_scale=8.0)
    before = [p.detach().clone() for p in method.parameters()]
    batch = tiny_batch()
    batch["crop0"][1] = torch.inf
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        step(method, batch, scaler=scaler, precision="float16", accumulate=2)
    assert all(torch.equal(p, q) for p, q in zip(method.parameters(), before, strict=True))
    assert scaler.get_scale() == 8.0


def weights(trainer: MethodTrainer) -> list[Tensor]:
    return [value.clone() for value in trainer.method.state_dict().values()]


class Stop:
    """Ends a run after its first epoch."""

    def attach(self, engine: MethodTrainer) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda trainer: trainer.terminate())


@pytest.mark.parametrize(
    "options", [{"precision": "float16"}, {"channels_last": True}, {"accumulate": 2}], ids=lambda o: next(iter(o))
)
def test_a_stopped_run_resumes_to_the_same_bits_also_with_dropout(tmp_path: Path, options: dict[str, Any]) -> None:
    def run(folder: str, **more: Any) -> MethodTrainer:
        torch.manual_seed(3)
        method = swav(TinyEncoder(dropout=0.3))
        trainer = trainer_of(method, tmp_path / folder, data=TinyData(12), **options, **more)
        trainer.run()
        return trainer

    whole = run("whole")
    stopped = run("stopped", train_handlers=[Stop()])
    assert stopped.state.iteration == 3
    torch.manual_seed(99)
    torch.rand(5)  # whatever was drawn in between
    resumed = run("stopped", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.grad_scaler.state_dict() == resumed.grad_scaler.state_dict()
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "stopped/metrics.jsonl").read_text()


def test_channels_last_changes_the_layout_and_not_the_numbers(tmp_path: Path) -> None:
    plain, last = (trainer_of(swav(), tmp_path / f"{on}", channels_last=on) for on in (False, True))
    for trainer in (plain, last):
        trainer.run()
    kernel = last.method.encoder.net[0].weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert last._moved(tiny_batch()["crop0"].expand(-1, 2, -1, -1, -1)).stride()[1] == 1
    for a, b in zip(weights(plain), weights(last), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_encoder_has_the_same_names_and_numbers(tmp_path: Path) -> None:
    plain, compiled = (trainer_of(guess(), tmp_path / f"{on}", compile=on) for on in (False, True))
    for trainer in (plain, compiled):
        trainer.run()
    assert plain.method.state_dict().keys() == compiled.method.state_dict().keys()
    for a, b in zip(weights(plain), weights(compiled), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    trainer_of(guess(), tmp_path).run()
    path = tmp_path / "checkpoints" / "last.pt"
    torch.save(torch.load(path) | {"format": 1}, path)
    with pytest.raises(UserError, match=r"written by another version of volssl.*begin the run anew"):
        trainer_of(guess(), tmp_path, resume=True).run()


def test_another_number_of_samples_a_step_is_refused_on_resume(tmp_path: Path) -> None:
    trainer_of(guess(), tmp_path).run()
    with pytest.raises(UserError, match="begun with samples a step 4, not 5"):
        trainer_of(guess(), tmp_path, resume=True, batch_size=5).run()


def test_batches_are_split_over_the_modalities_of_the_data(tmp_path: Path) -> None:
    data = TinyData(12, (0, 1))
    trainer_of(swav(modalities=["CT", "MR"]), tmp_path, data=data).run()
    for first in range(0, 24, 4):
        assert sum(data.strata[index] for _, index in data.served[first : first + 4]) == 2


def test_the_rate_grows_with_the_samples_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scaled_rate(0.6, 16) == pytest.approx(0.075)
    monkeypatch.setenv("WORLD_SIZE", "32")  # before the ranks have met
    assert scaled_rate(0.6, 4) == pytest.approx(0.6)
    assert scaled_rate(0.6, 8, reference=256) == pytest.approx(0.6)


def test_statistics_of_all_ranks_alone_are_plain_ones() -> None:
    from volssl.engine.batchnorm import RankBatchNorm

    torch.manual_seed(0)
    x, ours, theirs = torch.randn(5, 3, 4, 2, 2) * 3 + 1, RankBatchNorm(3), nn.BatchNorm3d(3)
    for layer in (ours, theirs):
        layer.eval()(x)
        layer.train()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(a), theirs(b)
    (y**3).sum().backward()
    (z**3).sum().backward()
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (1, "1 volume is fewer than one batch of 2; set batch_size=1, or prepare more volumes"),
        (2, "2 volumes are fewer than one batch of 3; set batch_size=2 or less, or prepare more volumes"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused_in_words(n: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        trainer_of(guess(), tmp_path, data=TinyData(n), batch_size=n + 1)
    assert str(refused.value) == said
