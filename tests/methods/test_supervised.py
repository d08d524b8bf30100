"""Fine-tuning: what each mode trains, at which rate, and how much each sample counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from volssl.encoders import Encoder, PaperDenseNet, build_encoder
from volssl.engine.accumulate import backward
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.methods import Supervised
from volssl.tasks import Hemorrhage, Task

SMALL: dict[str, dict[str, Any]] = {
    "PaperDenseNet": {"growth": 2, "init_features": 4, "compress": 2},
    "DenseNet121": {"init_features": 8, "growth": 2},
    "SwinUNETR": {"feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [3, 3, 3, 3], "window_size": 3},
}
TASK = Hemorrhage(grid=(32, 32, 8), types=False, slices=False)


def no_views(scan: object, rng: object) -> dict[str, Tensor]:
    return {}


def supervised(encoder: Encoder | None = None, task: Task = TASK, **options: Any) -> Supervised:
    torch.manual_seed(0)
    encoder = encoder or PaperDenseNet(init_features=4, growth=2, compress=2)
    network = TaskNetwork(encoder, volume=1, types=0, slices=0, dropout=0.0)
    return Supervised(network, task=task, views=no_views, **options)


def batch(labels: list[float]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(len(labels), 1, 32, 32, 8, generator=generator)
    return {"image": image, "target": torch.tensor(labels)[:, None], "index": torch.arange(len(labels))}


def step(method: Supervised, rows: dict[str, Tensor]) -> set[str]:
    """Names of the encoder's tensors, statistics too, that a step moves."""
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(method.parameter_groups(0.1))
    method.train()(rows)["loss"].backward()
    optimizer.step()
    after = method.encoder.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("levels", "trained"), [(1, ("blocks.4", "compress")), (2, ("blocks.3", "blocks.4", "compress"))]
)
def test_the_last_levels_are_trained_and_nothing_else_of_the_encoder(levels: int, trained: tuple[str, ...]) -> None:
    method = supervised(mode="last", last_levels=levels)
    moved = step(method, batch([0.0, 1.0]))
    names = set(method.encoder.state_dict())
    assert moved == {name for name in names if name.startswith(trained)}
    assert any("running_mean" in name for name in moved)


def test_frozen_moves_nothing_of_the_encoder_and_full_all_of_it() -> None:
    assert step(supervised(mode="frozen"), batch([0.0, 1.0])) == set()
    full = supervised()
    assert step(full, batch([0.0, 1.0])) == set(full.encoder.state_dict())


@pytest.mark.parametrize("levels", [0, 7])
def test_more_levels_than_there_are_is_an_error_that_counts_them(levels: int) -> None:
    with pytest.raises(UserError, match=f"last_levels={levels}: a PaperDenseNet has 1 to 6"):
        supervised(mode="last", last_levels=levels)
    with pytest.raises(UserError, match=r"mode probe: .*--mode"):
        supervised(mode="probe")


@pytest.mark.parametrize("name", list(SMALL))
def test_each_stage_has_its_own_rate_from_the_deepest_to_the_stem(name: str) -> None:
    encoder = build_encoder(name, settings=SMALL[name])
    method = supervised(encoder)
    groups = method.parameter_groups(0.2, encoder_factor=0.5, layer_decay=0.1)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(method.parameters())) == sum(len(group["params"]) for group in groups)
    assert {rates[id(p)] for p in method.network.labels.parameters()} == {0.2}
    for depth, stage in enumerate(reversed(encoder.stages())):
        for part in stage:
            for p in part.parameters():
                assert rates[id(p)] == pytest.approx(0.1 * 0.1**depth)


def test_without_decay_the_encoder_is_one_group_and_a_decay_above_one_is_refused() -> None:
    assert [group["lr"] for group in supervised().parameter_groups(0.2, encoder_factor=0.5)] == [0.2, 0.1]
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match=f"layer_decay={wrong}"):
            supervised().parameter_groups(0.2, layer_decay=wrong)


def test_of_a_frozen_encoder_with_decay_only_what_is_trained_has_a_group() -> None:
    groups = supervised(mode="last").parameter_groups(1.0, layer_decay=0.5)
    assert [group["lr"] for group in groups] == [1.0, 1.0]  # the head, and the deepest stage


def test_a_weighted_loss_is_the_weighted_mean_of_its_rows() -> None:
    weights = torch.tensor([0.5, 2.0, 0.5, 2.0, 9.0])
    method = supervised(row_weights=weights).eval()
    rows = batch([0.0, 1.0, 0.0, 1.0, torch.nan])
    with torch.no_grad():
        logits = method.network(rows["image"])[:4, 0]
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, rows["target"][:4, 0], reduction="none")
        assert float(method(rows)["loss"]) == pytest.approx(float((each * weights[:4]).sum() / 4), rel=1e-5)
        assert float(supervised().eval()(rows)["loss"]) == pytest.approx(float(each.mean()), rel=1e-5)
        shuffled = {name: value[[3, 0, 4, 1, 2]] for name, value in rows.items()}
        assert float(method(shuffled)["loss"]) == pytest.approx(float(method(rows)["loss"]), rel=1e-5)


def test_a_mirrored_answer_is_the_mean_of_both_and_training_sees_the_scan_as_it_lies() -> None:
    rows = batch([0.0, 1.0])
    plain, both = supervised().network.eval(), supervised().network.eval()
    both.flips = True
    with torch.no_grad():
        x = rows["image"]
        torch.testing.assert_close(both(x), (plain(x) + plain(x.flip(2))) / 2)
        torch.testing.assert_close(both(x), both(x.flip(2)))
        assert (plain(x) - plain(x.flip(2))).abs().min() > 1e-6
        assert torch.equal(both.train()(x), plain.train()(x))


MARKING = Hemorrhage(grid=(32, 32, 8), types=False, slices=False, segment=True, segment_weight=0.5)


def masked_batch() -> dict[str, Tensor]:
    """Four scans: a mask with a block in it, an empty one, none, and none of a scan without a label."""
    rows = batch([1.0, 0.0, 1.0, torch.nan])
    mask = torch.full((4, 1, 32, 32, 8), torch.nan)
    mask[:2] = 0
    mask[0, :, 8:16, 8:20, 2:5] = 1
    return rows | {"mask": mask}


def test_what_is_marked_costs_dice_and_cross_entropy_of_the_scans_that_have_a_mask() -> None:
    method = supervised(task=MARKING).eval()
    rows = masked_batch()
    with torch.no_grad():
        losses = method(rows)
        p = torch.sigmoid(method.voxels(rows["image"][:2])).double().numpy()
    y = rows["mask"][:2].double().numpy()
    cross_entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    dice = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)
    assert float(losses["loss_segment"]) == pytest.approx(dice + cross_entropy, rel=1e-4)
    assert float(losses["loss"]) == pytest.approx(float(losses["loss_volume"] + 0.5 * losses["loss_segment"]), rel=1e-5)
    rows["mask"][:] = torch.nan
    with torch.no_grad():
        assert float(method(rows)["loss"]) == pytest.approx(float(losses["loss_volume"]), rel=1e-5)


def test_marks_begin_dark_shape_the_encoder_and_are_no_part_of_the_network() -> None:
    method = supervised(task=MARKING)
    plain = supervised()
    assert all(torch.equal(a, b) for a, b in zip(method.network.parameters(), plain.network.parameters(), strict=True))
    assert torch.sigmoid(method.voxels(batch([1.0])["image"])).mean() < 0.02
    trained = {id(p) for group in method.parameter_groups(0.1) for p in group["params"]}
    assert trained == {id(p) for p in method.parameters()}
    rows = masked_batch()
    embedded = method.embed(rows)
    method.marks_loss(embedded["voxels"], rows["mask"]).backward()
    slopes = [p.grad for p in method.encoder.parameters() if p.grad is not None]
    assert max(float(slope.abs().max()) for slope in slopes) > 0
    assert method.network.labels.weight.grad is None


def test_a_batch_in_parts_has_the_gradient_of_the_whole_one() -> None:
    """Dice meets all scans of a batch."""
    slopes = []
    for parts in (1, 2):
        method = supervised(task=MARKING).eval()
        losses = backward(method, masked_batch(), parts=parts, autocast=nullcontext, scale=lambda x: x)
        slopes.append([p.grad for p in method.parameters() if p.grad is not None])
        assert losses["loss_segment"] > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*slopes, strict=True))


def test_a_batch_without_masks_leaves_the_decoder_gradients_of_zero() -> None:
    method = supervised(task=MARKING)
    method(masked_batch() | {"mask": torch.full((4, 1, 32, 32, 8), torch.nan)})["loss"].backward()
    assert method.decoder is not None
    assert all(p.grad is not None and not p.grad.any() for p in method.decoder.parameters())


def test_a_frozen_encoder_is_not_shaped_by_masks() -> None:
    with pytest.raises(UserError, match="mode frozen trains no encoder"):
        supervised(task=MARKING, mode="frozen")
