"""Several methods over one encoder: the weighted sum, who is given what, and labels for some of the rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from volssl.encoders import PaperDenseNet
from volssl.heads import TaskNetwork
from volssl.methods import Combined, Method, MoCo, Progress, Rotation, SimCLR, Supervised, SwAV
from volssl.methods.base import Batch, Losses
from volssl.tasks import Hemorrhage

GRID = (24, 24, 8)
TASK = Hemorrhage(grid=GRID)
NAN = math.nan


def no_views(scan: object, rng: object) -> dict[str, Tensor]:
    return {}


def encoder() -> PaperDenseNet:
    torch.manual_seed(0)
    return PaperDenseNet(init_features=4, growth=2, compress=2)


def supervised(own: PaperDenseNet, **options: object) -> Supervised:
    network = TaskNetwork(own, **TASK.head_sizes, dropout=0.0)
    return Supervised(network, task=TASK, views=no_views, **options)  # type: ignore[arg-type]


def swav(own: PaperDenseNet) -> SwAV:
    return SwAV(own, views=no_views, prototypes=6, feature_dim=8, hidden_dim=16, queue_length=4, queue_start_epoch=0, freeze_steps=0)  # noqa: E501  # fmt: skip


def hybrid(**options: object) -> Combined:
    own = encoder()
    return Combined(own, parts={"swav": swav(own), "supervised": supervised(own)}, **options)  # type: ignore[arg-type]


def batch(labelled: tuple[int, ...] = (1, 3), samples: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(samples, 1, *GRID, generator=generator) for _ in range(3)]
    target = torch.full((samples, 6 + GRID[2]), NAN)
    for row in labelled:
        target[row] = (torch.rand(target.shape[1], generator=generator) < 0.5).float()
    return {
        "swav/crop0": images[0],
        "swav/crop1": images[1],
        "supervised/image": images[2],
        "supervised/target": target,
        "index": torch.arange(samples),
        "modality": torch.zeros(samples, dtype=torch.int64),
    }


def part_of(given: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.split("/")[-1]: value for key, value in given.items() if "/" not in key or key.startswith(f"{name}/")}


def gradient(method: Method, given: Batch) -> Tensor:
    method.encoder.zero_grad()
    method.train()(given)["loss"].backward()
    return torch.cat([torch.zeros_like(p).ravel() if p.grad is None else p.grad.ravel() for p in method.encoder.parameters()])  # noqa: E501  # fmt: skip


def test_the_gradient_is_the_weighted_sum_of_the_parts_gradients() -> None:
    method, given = hybrid(weights={"swav": 0.5, "supervised": 3.0}), batch()
    alone = {name: gradient(part, part_of(given, name)) for name, part in method.methods().items()}
    together = gradient(method, given)
    torch.testing.assert_close(together, 0.5 * alone["swav"] + 3.0 * alone["supervised"], rtol=1e-4, atol=1e-6)
    assert min(float(g.norm()) for g in alone.values()) > 1e-3


def test_the_loss_is_the_weighted_sum_and_each_part_is_logged_unweighted() -> None:
    method = hybrid(weights={"supervised": 0.25})
    losses = method(batch())
    assert set(losses) >= {"loss", "swav_loss", "supervised_loss", "supervised_loss_volume"}
    expected = float(losses["swav_loss"]) + 0.25 * float(losses["supervised_loss"])
    assert float(losses["loss"].detach()) == pytest.approx(expected, rel=1e-6)
    assert [name for name, value in losses.items() if value.requires_grad] == ["loss"]


def test_unlabelled_rows_have_no_influence_on_the_supervised_term() -> None:
    method, given = hybrid(weights={"swav": 0.0}), batch(labelled=(1, 3))
    first = gradient(method, given)
    statistics = {n: b.clone() for n, b in method.encoder.named_buffers()}
    changed = dict(given) | {"supervised/image": given["supervised/image"].clone()}
    changed["supervised/image"][[0, 2]] = 1e6  # would blow up batch statistics, too
    fresh = hybrid(weights={"swav": 0.0})
    assert torch.equal(gradient(fresh, changed), first)
    assert all(torch.equal(b, statistics[n]) for n, b in fresh.encoder.named_buffers())
    fewer = {name: rows[[1, 3]] for name, rows in part_of(given, "supervised").items()}
    loss = hybrid().methods()["supervised"].train()(fewer)["loss"].detach()
    assert float(hybrid().train()(given)["supervised_loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_the_mean_is_over_labelled_rows_or_as_in_the_paper_over_all() -> None:
    given = part_of(batch(labelled=(0, 2, 3), samples=5), "supervised")
    labelled = supervised(encoder()).train()(given)
    everything = supervised(encoder(), average="all").train()(given)
    assert float(everything["loss"].detach()) == pytest.approx(float(labelled["loss"].detach()) * 3 / 5, rel=1e-6)
    assert float(everything["loss_volume"]) == float(labelled["loss_volume"])
    with pytest.raises(ValueError, match="labelled or all"):
        supervised(encoder(), average="some")


def test_a_batch_without_a_label_is_a_zero_with_gradients_for_every_parameter() -> None:
    method, given = hybrid(weights={"swav": 0.0}), batch(labelled=())
    losses = method.train()(given)
    assert float(losses["supervised_loss"]) == 0
    losses["loss"].backward()
    head = method.methods()["supervised"].parameters()
    assert all(p.grad is not None and not p.grad.any() for p in head)
    assert float(method(batch())["supervised_loss"]) > 0


def test_labels_of_parts_of_a_batch_give_the_loss_of_the_whole() -> None:
    method, given = hybrid().eval(), batch(labelled=(0, 1, 5), samples=6)
    parts = [method.embed({name: rows[i : i + 2] for name, rows in given.items()}) for i in (0, 2, 4)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    torch.testing.assert_close(method.losses(joined)["loss"], method(given)["loss"])


def test_a_run_that_is_stopped_and_goes_on_is_one_that_never_stopped() -> None:
    def made() -> Combined:
        own = encoder()
        moco = MoCo(own, views=no_views, feature_dim=8, hidden_dim=16, queue_length=6)
        return Combined(own, parts={"swav": swav(own), "moco": moco}, weights={"moco": 2.0})

    def step(method: Combined, number: int) -> Tensor:
        given = batch(seed=number)
        given |= {f"moco/crop{i}": given[f"swav/crop{i}"] for i in (0, 1)}
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        loss = method.train()(given)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.on_step_end(Progress(step=number + 1, steps_per_epoch=2, total_steps=8))
        return loss.detach()

    whole, first, second = made(), made(), made()
    expected = [float(step(whole, number)) for number in range(6)]
    for number in range(3):
        step(first, number)
    second.load_state_dict(first.state_dict())
    assert [float(step(second, number)) for number in (3, 4, 5)] == expected[3:]
    assert int(second.get_submodule("parts.swav").step) == 6  # type: ignore[arg-type]
    assert set(whole.diagnostics()) >= {"swav_feature_std", "moco_feature_std"}


def test_the_optimiser_is_given_the_encoder_once() -> None:
    method = hybrid()
    own = sum(p.numel() for part in method.methods().values() for p in part.parameters())
    shared = sum(p.numel() for p in method.encoder.parameters())
    assert sum(p.numel() for p in method.parameters()) == own - shared


def test_parts_over_another_encoder_and_settings_of_no_part_are_refused() -> None:
    own = encoder()
    with pytest.raises(ValueError, match="the part swav has an encoder of its own"):
        Combined(own, parts={"swav": swav(encoder())})
    with pytest.raises(ValueError, match="weights of swaw: there are the parts swav"):
        Combined(own, parts={"swav": swav(own)}, weights={"swaw": 1.0})
    with pytest.raises(ValueError, match="names of moco"):
        Combined(own, parts={"swav": swav(own)}, names={"moco": {"crop0": "crop1"}})


def test_the_samples_meet_where_those_of_a_part_do() -> None:
    own = encoder()
    assert hybrid().couples_samples
    assert not Combined(own, parts={"rotation": Rotation(own, views=no_views)}).couples_samples


class Restored(Method):
    """A stand-in for restoration: the mean of the finest level is to be that of the target."""

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        level = self.encode(batch["input"])[0]
        return {"error": (level.mean(dim=(1, 2, 3, 4)) - batch["target"].mean(dim=(1, 2, 3, 4))).abs()}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        return {"loss": embedded["error"].mean()}


NAMES = {
    "restoration": {"input": ["crop0", "crop1"], "target": ["target0", "target1"]},
    "rotation": {"rotated": ["crop0", "crop1"], "turns": ["turns0", "turns1"]},
}


def shared_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(3, 1, *GRID, generator=generator) for name in ("crop0", "crop1", "target0", "target1")}
    return images | {"turns0": torch.tensor([0, 1, 2]), "turns1": torch.tensor([3, 3, 0]), "index": torch.arange(3)}


def on_common_crops(**options: object) -> Combined:
    own = encoder()
    parts = {
        "contrast": SimCLR(own, views=no_views, feature_dim=8, hidden_dim=16),
        "restoration": Restored(own, views=no_views),
        "rotation": Rotation(own, views=no_views),
    }
    return Combined(own, parts=parts, **options)  # type: ignore[arg-type]


def test_heads_on_common_crops_cost_one_pass_of_the_encoder() -> None:
    method, passes = on_common_crops(names=NAMES), []
    method.encoder.register_forward_hook(lambda module, inputs, output: passes.append(inputs[0].shape))
    method(shared_batch())
    assert passes == [(6, 1, *GRID)]
    method(shared_batch())
    assert len(passes) == 2  # nothing is kept from one step to the next


def test_one_pass_gives_the_losses_and_the_gradient_of_three() -> None:
    given, once, thrice = shared_batch(), on_common_crops(names=NAMES), on_common_crops()
    doubled = {
        f"{part}/{mine}": torch.cat([given[name] for name in theirs])
        for part, names in NAMES.items()
        for mine, theirs in names.items()
    }
    apart = doubled | {f"contrast/{name}": given[name] for name in ("crop0", "crop1")} | {"index": given["index"]}
    passes: list[int] = []
    thrice.encoder.register_forward_hook(lambda module, inputs, output: passes.append(1))
    losses, wanted = once.train()(given), thrice.train()(apart)
    assert len(passes) == 3
    for name in wanted:
        torch.testing.assert_close(losses[name], wanted[name])
    mine, theirs = gradient(once, given), gradient(thrice, apart)
    assert (mine - theirs).norm() < 1e-4 * theirs.norm()


def test_other_values_of_the_same_shape_are_another_pass() -> None:
    method, passes, given = on_common_crops(names=NAMES), [], shared_batch()
    method.encoder.register_forward_hook(lambda module, inputs, output: passes.append(1))
    names = NAMES | {"rotation": {"rotated": ["crop0", "target1"], "turns": ["turns0", "turns1"]}}
    method.names = names
    method(given)
    assert len(passes) == 2
