"""SwAV against the trajectories of its authors' training loop, and what hangs on the order of things."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders import PaperDenseNet
from volssl.errors import UserError
from volssl.losses import swav_loss
from volssl.methods import Progress, SwAV


class TwoLayers(nn.Module):
    """The reference's encoder: Linear, ReLU, Linear, normalised."""

    dim = 8

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
        with torch.no_grad():
            for parameter, weight in zip(self.net.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(weight))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [functional.normalize(self.net(x), dim=1)]

    def pool(self, pyramid: list[Tensor]) -> Tensor:
        return pyramid[-1]


def no_views(scan: object, rng: object) -> dict[str, Tensor]:
    return {}


@pytest.mark.parametrize("name", ["no_queue", "queue"])
def test_training_follows_the_authors_trajectory(shared_reference: Path, name: str) -> None:
    file = np.load(shared_reference / "swav_trajectories.npz")
    ref = {key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(f"{name}/")}
    method = SwAV(
        TwoLayers([ref[f"encoder{i}"] for i in range(4)]),  # type: ignore[arg-type]
        views=no_views,
        prototypes=10,
        feature_dim=8,
        temperature=float(ref["temperature"]),
        epsilon=float(ref["epsilon"]),
        iterations=int(ref["iterations"]),
        assigned=[int(i) for i in ref["assign"]],
        queue_length=int(ref["queue_length"]),
        queue_start_epoch=int(ref["epoch_queue_starts"]),
        freeze_steps=int(ref["freeze_prototypes_niters"]),
    )
    method.projector = nn.Identity()
    with torch.no_grad():
        method.prototypes.copy_(torch.from_numpy(ref["prototypes"]))
    momentum, decay = float(ref["momentum"]), float(ref["weight_decay"])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=momentum, weight_decay=decay)
    batches, losses = torch.from_numpy(ref["batches"]), []
    for step in range(15):
        optimizer.param_groups[0]["lr"] = float(ref["lr"][step])
        crops = batches[step // 5, step % 5]
        loss = method({f"crop{c}": crops[c] for c in range(4)} | {"modality": torch.zeros(4, dtype=torch.int64)})[
            "loss"
        ]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.on_step_end(Progress(step=step + 1, steps_per_epoch=5, total_steps=15))
        losses.append(float(loss))
    np.testing.assert_allclose(losses, ref["out_losses"], atol=1e-5)
    np.testing.assert_allclose(method.prototypes[0].detach().numpy(), ref["out_prototypes"], atol=1e-5)
    if name == "queue":
        for mine, theirs in zip(method.queue[0].numpy(), ref["out_queue"], strict=True):
            np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(theirs, axis=0), atol=1e-5)


def small(**options: object) -> SwAV:
    torch.manual_seed(0)
    settings = {"prototypes": 6, "feature_dim": 8, "hidden_dim": 16, "queue_length": 0, "freeze_steps": 0}
    return SwAV(PaperDenseNet(init_features=4, growth=2, compress=2), **(settings | options))  # type: ignore[arg-type]


def batch(samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large = torch.rand(samples, 1, 24, 24, 8, generator=generator)
    crops = {"crop0": large, "crop1": large[..., 2:18, 2:18, :4].clone(), "crop2": large[..., 6:22, 6:22, 4:].clone()}
    return crops | {"modality": torch.zeros(samples, dtype=torch.int64)}


def test_gradients_reach_every_parameter() -> None:
    method = small()
    method(batch())["loss"].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []


def test_frozen_prototypes_stay_under_decay_and_momentum() -> None:
    method = small(freeze_steps=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    directions = []
    for step in range(5):
        loss = method(batch(seed=step))["loss"]
        directions.append(method.prototypes.detach().clone())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # A gradient of zero, in the place of none, would let decay shrink them: along themselves, so that their
        # directions alone would not tell.
        assert torch.equal(method.prototypes, directions[step]) == (step < 3)
        method.on_step_end(Progress(step=step + 1, steps_per_epoch=5, total_steps=5))
    torch.testing.assert_close(directions[3], directions[0])
    assert (directions[4] - directions[0]).abs().max() > 1e-4


def test_queue_is_filled_late_newest_first() -> None:
    method = small(queue_length=8, queue_start_epoch=1)
    method(batch())
    assert method.queue_filled.tolist() == [0]
    method.on_step_end(Progress(step=1, steps_per_epoch=1, total_steps=9))
    features = method.embed(batch(seed=1))
    method.losses(features)
    torch.testing.assert_close(method.queue[0, :, :4], torch.stack([features["crop0"], features["crop1"]]))
    method(batch(seed=2))
    torch.testing.assert_close(method.queue[0, 0, 4:], features["crop0"])
    assert method.queue_filled.tolist() == [8]


def test_the_queue_counts_once_it_is_full_and_never_holds_its_own_batch() -> None:
    method = small(queue_length=8, queue_start_epoch=0, assigned=[0])
    rows = [{k: v.detach() for k, v in method.embed(batch(seed=seed)).items()} for seed in range(3)]
    losses = [float(method.losses(one)["loss"].detach()) for one in rows]
    directions = method.prototypes[0].detach()
    queue = torch.cat([rows[1]["crop0"], rows[0]["crop0"]])
    for seed, earlier in ((1, None), (2, [queue @ directions.T])):
        scores = [rows[seed][f"crop{c}"] @ directions.T for c in range(3)]
        expected = swav_loss(scores, assigned=[0], queue_scores=earlier, temperature=0.1, epsilon=0.03, iterations=3)
        assert losses[seed] == pytest.approx(float(expected), abs=1e-5)


def mixed(seed: int = 0) -> dict[str, Tensor]:
    """Four CT and two MR samples, mingled."""
    return batch(6, seed) | {"modality": torch.tensor([0, 1, 0, 0, 1, 0])}


def test_each_modality_has_its_own_prototypes_and_codes() -> None:
    method = small(modalities=["MR", "CT"])
    rows = method.embed(mixed())
    loss = method.losses(rows)["loss"]
    expected = []
    for place, members in ((0, [1, 4]), (1, [0, 2, 3, 5])):
        scores = [rows[f"crop{c}"][members] @ method.prototypes[place].T for c in range(3)]
        expected.append(swav_loss(scores, assigned=[0, 1], temperature=0.1, epsilon=0.03, iterations=3))
    torch.testing.assert_close(loss, (expected[0] + expected[1]) / 2)
    loss.backward()
    assert method.prototypes.grad is not None
    assert method.prototypes.grad.flatten(1).norm(dim=1).min() > 1e-3


def test_each_modality_fills_its_own_queue() -> None:
    method = small(modalities=["CT", "MR"], queue_length=4, queue_start_epoch=0)
    rows = method.embed(mixed())
    method.losses(rows)
    assert method.queue_filled.tolist() == [4, 2]
    torch.testing.assert_close(method.queue[0, 1], rows["crop1"][[0, 2, 3, 5]])
    torch.testing.assert_close(method.queue[1, 0, :2], rows["crop0"][[1, 4]])
    method.losses(method.embed(batch(seed=1)))  # a batch of CT alone
    assert method.queue_filled.tolist() == [8, 2]


def test_one_modality_among_two_has_the_loss_of_a_method_for_it_alone() -> None:
    alone, both = small(), small(modalities=["CT", "MR"])
    both.projector.load_state_dict(alone.projector.state_dict())
    with torch.no_grad():
        both.prototypes[0].copy_(alone.prototypes[0])
    torch.testing.assert_close(both(batch())["loss"], alone(batch())["loss"])


def test_a_modality_without_prototypes_is_refused() -> None:
    with pytest.raises(UserError, match=r"CT, MR are given, and SwAV has prototypes for CT: set .*=\[CT,MR\]"):
        small()(mixed())
    with pytest.raises(UserError, match="each once"):
        small(modalities=["CT", "CT"])


def test_an_assigned_crop_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"assigned crops \[0, 3\] of 3"):
        small(assigned=[0, 3])(batch())
    with pytest.raises(UserError, match="each once"):
        small(assigned=[1, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_float32_under_autocast(dtype: torch.dtype) -> None:
    method = small(queue_length=4, queue_start_epoch=0)
    method(batch())
    rows = method.embed(batch(seed=1))
    state = {k: v.clone() for k, v in method.state_dict().items()}
    in_full = method.losses(rows)["loss"]
    method.load_state_dict(state)
    with torch.autocast("cpu", dtype=dtype):
        loss = method.losses(rows)["loss"]
    assert torch.equal(loss, in_full)
    method.load_state_dict(state)
    with torch.autocast("cpu", dtype=dtype):
        features = method.embed(batch(seed=1))["crop0"]
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


def test_crops_are_taken_in_the_order_of_their_numbers() -> None:
    method = small(assigned=[10])
    crops = {f"crop{i}": torch.rand(2, 1, 16, 16, 4) for i in range(12)} | {"modality": torch.zeros(2).long()}
    rows = method.embed(crops)
    assert [*rows] == [*(f"crop{i}" for i in range(12)), "modality"]
    shuffled = {name: rows[name] for name in sorted(rows)}
    torch.testing.assert_close(method.losses(shuffled)["loss"], method.losses(rows)["loss"])


def test_all_state_is_in_the_state_dict() -> None:
    method = small(queue_length=4, queue_start_epoch=0)
    method(batch())
    method.on_step_end(Progress(step=7, steps_per_epoch=2, total_steps=9))
    other = small(queue_length=4)
    other.load_state_dict(method.state_dict())
    assert int(other.step) == 7
    assert int(other.epoch) == 3
    assert torch.equal(other.queue, method.queue)
    torch.testing.assert_close(other.eval()(batch(seed=5))["loss"], method.eval()(batch(seed=5))["loss"])


def test_a_collapsed_encoder_shows_in_the_diagnostics() -> None:
    method = small()
    method(batch())
    assert method.diagnostics()["feature_std"] > 0.05
    assert method.diagnostics()["loss_floor"] == pytest.approx(math.log(6))
    same = {name: value[:1].expand(4, *value.shape[1:]) for name, value in batch().items()}
    method(same)
    assert method.diagnostics()["feature_std"] < 1e-3
