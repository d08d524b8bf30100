"""SwAV against the trajectories of its authors' training loop, and what hangs on the order of things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from volssl.encoders import PaperDenseNet
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

    def pooled(self, x: Tensor) -> Tensor:
        return functional.normalize(self.net(x), dim=1)


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
        method.prototypes.weight.copy_(torch.from_numpy(ref["prototypes"]))
    momentum, decay = float(ref["momentum"]), float(ref["weight_decay"])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=momentum, weight_decay=decay)
    batches, losses = torch.from_numpy(ref["batches"]), []
    for step in range(15):
        optimizer.param_groups[0]["lr"] = float(ref["lr"][step])
        crops = batches[step // 5, step % 5]
        loss = method({f"crop{c}": crops[c] for c in range(4)})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.on_step_end(Progress(step=step + 1, steps_per_epoch=5, total_steps=15))
        losses.append(float(loss))
    np.testing.assert_allclose(losses, ref["out_losses"], atol=1e-5)
    np.testing.assert_allclose(method.prototypes.weight.detach().numpy(), ref["out_prototypes"], atol=1e-5)
    if name == "queue":
        for mine, theirs in zip(method.queue.numpy(), ref["out_queue"], strict=True):
            np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(theirs, axis=0), atol=1e-5)


def small(**options: object) -> SwAV:
    torch.manual_seed(0)
    settings = {"prototypes": 6, "feature_dim": 8, "hidden_dim": 16, "queue_length": 0, "freeze_steps": 0}
    return SwAV(PaperDenseNet(init_features=4, growth=2, compress=2), **(settings | options))  # type: ignore[arg-type]


def batch(samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    large = torch.rand(samples, 1, 24, 24, 8, generator=generator)
    return {"crop0": large, "crop1": large[..., 2:18, 2:18, :4].clone(), "crop2": large[..., 6:22, 6:22, 4:].clone()}


def test_gradients_reach_every_parameter() -> None:
    method = small()
    method(batch())["loss"].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []


def test_frozen_prototypes_keep_their_direction_under_decay_and_momentum() -> None:
    method = small(freeze_steps=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    directions = []
    for step in range(5):
        loss = method(batch(seed=step))["loss"]
        directions.append(method.prototypes.weight.detach().clone())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.on_step_end(Progress(step=step + 1, steps_per_epoch=5, total_steps=5))
    torch.testing.assert_close(directions[3], directions[0])
    assert (directions[4] - directions[0]).abs().max() > 1e-4


def test_queue_is_filled_late_newest_first_and_used_once_full() -> None:
    method = small(queue_length=8, queue_start_epoch=1)
    method(batch())
    assert int(method.queue_filled) == 0
    method.on_step_end(Progress(step=1, steps_per_epoch=1, total_steps=9))
    method(batch(seed=1))
    first = method.queue[0, :4].clone()
    assert method.queue_scores() is None
    method(batch(seed=2))
    torch.testing.assert_close(method.queue[0, 4:], first)
    scores = method.queue_scores()
    assert scores is not None
    torch.testing.assert_close(scores[0], method.queue[0] @ method.prototypes.weight.detach().T)


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
    same = {name: value[:1].expand(4, *value.shape[1:]) for name, value in batch().items()}
    method(same)
    assert method.diagnostics()["feature_std"] < 1e-3
