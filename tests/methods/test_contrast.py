"""SimCLR, MoCo and rotation prediction: what they compute of a batch, and what outlives a step."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders import PaperDenseNet
from volssl.losses import nt_xent, queue_loss
from volssl.methods import Method, MoCo, Progress, Rotation, SimCLR
from volssl.methods.simclr import is_kin


def encoder() -> PaperDenseNet:
    torch.manual_seed(0)
    return PaperDenseNet(init_features=4, growth=2, compress=2)


def simclr(**options: object) -> SimCLR:
    return SimCLR(encoder(), **{"feature_dim": 8, "hidden_dim": 16, **options})  # type: ignore[arg-type]


def moco(**options: object) -> MoCo:
    return MoCo(encoder(), **{"feature_dim": 8, "hidden_dim": 16, "queue_length": 12, **options})  # type: ignore[arg-type]


def batch(samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    crops = [torch.rand(samples, 1, 24, 24, 8, generator=generator) for _ in range(2)]
    return {"crop0": crops[0], "crop1": crops[1], "index": torch.arange(samples), "modality": torch.zeros(samples)}


def after(step: int) -> Progress:
    return Progress(step=step, steps_per_epoch=5, total_steps=100)


def test_simclr_contrasts_the_projected_crops_of_one_pass() -> None:
    method, given = simclr(temperature=0.3), batch()
    pooled = method.encoder.pooled(torch.cat([given["crop0"], given["crop1"]]))
    first, second = method.projector(pooled).chunk(2)
    torch.testing.assert_close(method(given)["loss"], nt_xent(first, second, temperature=0.3))


def test_samples_that_might_have_been_paired_do_not_repel_unless_asked() -> None:
    kin = torch.tensor([[0, 0, 2], [1, 0, 2], [2, 2, 3], [3, 3, 4]])  # 0 and 1 are of one patient
    for repel, same in ((True, True), (False, False)):
        method = simclr(repel_kin=repel)
        losses = method(batch())["loss"], method(batch() | {"kin": kin})["loss"]
        assert torch.equal(*losses) == same
    near = is_kin(kin, kin[:, 0])
    assert near.tolist() == [[True, True, False, False]] * 2 + [
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_simclr_s_loss_of_a_batch_in_parts_is_that_of_the_whole() -> None:
    method, given = simclr().eval(), batch(6)
    parts = [method.embed({name: rows[i : i + 2] for name, rows in given.items()}) for i in (0, 2, 4)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    torch.testing.assert_close(method.losses(joined)["loss"], method(given)["loss"])


def test_moco_s_loss_is_that_of_its_queries_keys_and_full_queue() -> None:
    method, given = moco(temperature=0.4).train(), batch()
    for seed in (1, 2, 3):
        method(batch(seed=seed) | {"index": torch.arange(4) + 4 * seed})
    method.on_step_end(after(5))
    queue = method.queue.clone()
    assert not method.key_encoder.training
    keys = functional.normalize(method.key_projector(method.key_encoder.pooled(given["crop1"])), dim=1)
    loss = method(given)["loss"]
    queries = method.projector(method.encoder.pooled(given["crop0"]))
    # Its own key is no negative of a query: of the queue's 12 rows 11 are left, and count for 12.
    rows = torch.cat([keys, queue[:8]])
    scores = functional.normalize(queries, dim=1) @ rows.T / 0.4
    own = scores.diagonal()
    negatives = scores.masked_fill(torch.eye(4, 12, dtype=torch.bool), -torch.inf).logsumexp(dim=1) + math.log(12 / 11)
    torch.testing.assert_close(loss, (torch.logaddexp(own, negatives) - own).mean())


def test_moco_s_keys_join_the_queue_newest_first_and_only_in_training() -> None:
    method = moco().train()
    method.on_step_end(after(1))
    rows = [method.embed(batch(seed=seed))["keys"] for seed in (1, 2)]
    for seed in (1, 2):
        method(batch(seed=seed))
    torch.testing.assert_close(method.queue, torch.cat([rows[1], rows[0], torch.zeros(4, 8)]))
    assert method.queue_places.tolist() == [0, 1, 2, 3] * 2 + [-1] * 4
    method.eval()(batch(seed=3))
    torch.testing.assert_close(method.queue[:4], rows[1])


def test_what_of_the_queue_is_empty_or_one_s_own_does_not_repel() -> None:
    method, given = moco().train(), batch()
    method(given)
    method.on_step_end(after(1))
    embedded = method.embed(given)  # the queue holds these four samples' older keys, and eight empty rows
    others = [torch.cat([rows[:i], rows[i + 1 :]]) for i in range(4) for rows in (embedded["keys"], method.queue[:4])]
    each = [
        queue_loss(
            embedded["queries"][i : i + 1],
            embedded["keys"][i : i + 1],
            torch.cat(others[2 * i : 2 * i + 2]).repeat(2, 1),  # six rows count for twelve
            temperature=method.temperature,
        )
        for i in range(4)
    ]
    torch.testing.assert_close(method.eval().losses(embedded)["loss"], torch.stack(each).mean())


def test_the_first_step_s_statistics_are_taken_over_whole() -> None:
    method, given = moco().train(), batch()
    method(given)
    layer = next(m for m in method.encoder.modules() if isinstance(m, nn.BatchNorm3d))
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].mean(dim=(0, 2, 3, 4))))
    before = layer.running_mean.clone()  # type: ignore[union-attr]
    method.encoder(given["crop0"])
    torch.testing.assert_close(before, seen[0].detach())
    assert layer.momentum == 0.1


def test_the_key_encoder_follows_by_the_momentum_weights_and_running_statistics_alike() -> None:
    method = moco(momentum=0.9).train()
    method(batch())
    method.on_step_end(after(500))
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in method.key_encoder.state_dict().items()}
    method.on_step_end(after(501))
    for name, slow in method.key_encoder.state_dict().items():
        fast = method.encoder.state_dict()[name]
        wanted = 0.9 * before[name] + 0.1 * fast if slow.is_floating_point() else fast
        torch.testing.assert_close(slow, wanted)
    assert any("running_var" in name for name in before)


def test_in_the_first_step_it_follows_by_nine_tenths() -> None:
    method = moco().train()
    method(batch())
    with torch.no_grad():
        next(method.encoder.parameters()).zero_()
    before = next(method.key_encoder.parameters()).clone()
    method.on_step_end(after(1))
    torch.testing.assert_close(next(method.key_encoder.parameters()), before / 10)


def test_weights_read_into_the_encoder_after_it_was_copied_make_the_first_keys() -> None:
    method = moco().train()
    with torch.no_grad():
        next(method.encoder.parameters()).mul_(3)
    method.embed(batch())
    assert torch.equal(next(method.key_encoder.parameters()), next(method.encoder.parameters()))


def test_an_optimiser_moves_no_key_encoder() -> None:
    method = moco().train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.5)
    method(batch())["loss"].backward()
    before = [p.clone() for p in (*method.key_encoder.parameters(), *method.key_projector.parameters())]
    optimizer.step()
    after_step = [*method.key_encoder.parameters(), *method.key_projector.parameters()]
    assert all(torch.equal(*both) for both in zip(before, after_step, strict=True))


@pytest.mark.parametrize("made", [simclr, moco])
def test_gradients_reach_the_encoder_and_the_projector(made: Callable[[], SimCLR | MoCo]) -> None:
    method = made().train()
    method(batch())["loss"].backward()
    trained = [*method.encoder.named_parameters(), *method.projector.named_parameters()]
    assert [name for name, p in trained if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("made", [simclr, moco])
def test_a_run_that_is_stopped_and_goes_on_is_one_that_never_stopped(made: Callable[[], Method]) -> None:
    def step(method: Method, number: int) -> Tensor:
        loss = method.train()(batch(seed=number))["loss"]
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.on_step_end(after(number + 1))
        return loss.detach()

    whole, first, second = made(), made(), made()
    expected = [step(whole, number) for number in range(4)][2:]
    for number in range(2):
        step(first, number)
    second.load_state_dict(first.state_dict())
    assert [float(step(second, number)) for number in (2, 3)] == [float(loss) for loss in expected]


def test_features_that_are_all_the_same_show_in_the_diagnostics() -> None:
    given = batch()
    same = {name: rows[:1].expand_as(rows) if rows.ndim == 5 else rows for name, rows in given.items()}
    for method in (simclr(), moco()):
        method(given)
        assert method.diagnostics()["feature_std"] > 0.05
        method.eval()(same)
        assert method.diagnostics()["feature_std"] < 1e-3


def test_rotation_is_the_cross_entropy_of_a_linear_head() -> None:
    method = Rotation(encoder())
    turned = {"rotated": torch.rand(4, 1, 24, 24, 8), "turns": torch.tensor([0, 3, 1, 2])}
    scores = method.head(method.encoder.pooled(turned["rotated"]))
    losses = method(turned)
    torch.testing.assert_close(losses["loss"], functional.cross_entropy(scores, turned["turns"]))
    assert float(losses["accuracy"]) == float((scores.argmax(dim=1) == turned["turns"]).float().mean())
    assert isinstance(method.head, nn.Linear)
    assert method.head.out_features == 4
