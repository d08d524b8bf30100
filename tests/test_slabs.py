"""Slabs of image and suspicion against their definition; what a step scores, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from volssl.encoders import DenseNet121, PaperDenseNet
from volssl.methods.segmentation import Segmentation
from volssl.slabs import HeldOut, SlabNetwork, SuspectNetwork, with_highest
from volssl.views.base import Scan

SHAPE = (2, 1, 16, 20, 7)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> SlabNetwork:
    torch.manual_seed(0)
    return SlabNetwork(PaperDenseNet(), SuspectNetwork(features=(4,) * 6), scored=3).eval()


def test_a_slab_is_the_slice_with_two_on_each_side_and_nothing_beyond_the_ends(network: SlabNetwork) -> None:
    volume = torch.arange(7.0).expand(2, 1, 16, 20, 7)
    slabs = network.slabs(volume, torch.tensor([[3, 0], [6, 5]]))
    assert slabs.shape == (4, 1, 16, 20, 5)
    assert slabs[:, 0, 0, 0].tolist() == [[1, 2, 3, 4, 5], [0, 0, 0, 1, 2], [4, 5, 6, 0, 0], [3, 4, 5, 6, 0]]


def test_an_encoder_that_needs_more_slices_has_empty_ones_around_the_slab() -> None:
    network = SlabNetwork(DenseNet121(init_features=8, growth=4), SuspectNetwork())
    slabs = network.slabs(torch.ones(1, 2, 32, 32, 9), torch.tensor([[4]]))
    assert slabs.shape == (1, 2, 32, 32, 29)
    assert slabs[0, 0, 0, 0].tolist() == [0.0] * 12 + [1.0] * 5 + [0.0] * 12


def test_a_slice_is_scored_as_the_encoder_scores_the_sum_of_its_image_and_suspicion(
    network: SlabNetwork, image: Tensor
) -> None:
    with torch.no_grad():
        summed = image + torch.sigmoid(network.suspects.voxels(image))
        expected = network.score(network.encoder.pooled(summed[1:, ..., 1:6]))[0, 0]
        assert network(image)[1, 1 + 3] == pytest.approx(float(expected), abs=1e-5)


def test_a_volume_has_the_score_of_its_highest_slice_and_no_other_volume_has_a_say(
    network: SlabNetwork, image: Tensor
) -> None:
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (2, 8)
        assert torch.equal(logits[:, 0], logits[:, 1:].max(dim=1).values)
        assert torch.allclose(network(image[1:]), logits[1:], atol=1e-6)


def test_a_step_scores_some_slices_of_each_volume_and_trains_all_but_the_suspects(
    network: SlabNetwork, image: Tensor
) -> None:
    logits = network.train()(image)
    assert (~torch.isnan(logits[:, 1:])).sum(dim=1).tolist() == [3, 3]
    assert torch.isnan(logits[:, 0]).all()
    assert not network.suspects.training
    torch.where(torch.isnan(logits), 0.0, logits).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in network.suspects.parameters())
    grads = [p.grad for part in (network.mix, network.score) for p in part.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


def test_mirrored_scans_have_the_same_answer_with_flips(image: Tensor) -> None:
    torch.manual_seed(0)
    network = SlabNetwork(PaperDenseNet(), SuspectNetwork(features=(4,) * 6), flips=True).eval()
    with torch.no_grad():
        assert torch.allclose(network(image), network(image.flip(2)), atol=1e-5)


def test_suspects_have_a_logit_for_each_voxel_and_their_highest_for_slices_and_volume(image: Tensor) -> None:
    network = SuspectNetwork(features=(4,) * 6).eval()
    with torch.no_grad():
        voxels, logits = network.voxels(image), network(image)
    assert voxels.shape == SHAPE
    assert logits[0, 1 + 5] == voxels[0, 0, :, :, 5].max()
    assert logits[1, 0] == voxels[1].max()


def test_suspects_begin_dark_and_learn_to_mark_what_shines() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 32, 32, 16) * 0.4
    mask = torch.zeros_like(image)
    mask[0, :, 8:12, 20:24, 6:9] = mask[1, :, 20:23, 5:9, 2:5] = 1
    image += 0.5 * mask
    method = Segmentation(SuspectNetwork(), views=no_views)
    assert torch.sigmoid(method.network.voxels(image)).mean() < 0.02
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        method({"image": image, "mask": mask})["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    marked = torch.sigmoid(method.network.voxels(image)) > 0.5
    dice = 2 * (marked * mask).sum() / (marked.sum() + mask.sum())
    assert dice > 0.8


def no_views(scan: Scan, rng: np.random.RandomState) -> dict[str, Tensor]:
    raise AssertionError


def test_the_highest_of_slices_of_which_one_is_unknown_is_unknown() -> None:
    highest = with_highest(torch.tensor([[1.0, 3.0], [2.0, torch.nan]]))
    assert highest[0].tolist() == [3.0, 1.0, 3.0]
    assert torch.isnan(highest[1, 0])


def test_an_even_slab_or_an_encoder_of_several_channels_is_refused() -> None:
    encoders: list[tuple[int, nn.Module]] = [(4, PaperDenseNet()), (5, PaperDenseNet(in_channels=2))]
    for slab, encoder in encoders:
        with pytest.raises(ValueError, match="odd number of slices and its encoder one channel"):
            SlabNetwork(encoder, SuspectNetwork(), slab=slab)  # type: ignore[arg-type]


def test_training_samples_are_marked_by_networks_that_have_not_seen_them(network: SlabNetwork, image: Tensor) -> None:
    others = [SuspectNetwork(features=(4,) * 6).eval() for _ in range(2)]
    for brighter, other in enumerate(others, start=1):  # before training all of them see next to nothing anywhere
        other.unet.final_conv.bias.data += 3.0 * brighter
    network.suspects.held_out = HeldOut(others, torch.tensor([1, 0, 1]))
    index = torch.tensor([1, 2])  # samples of the networks 0 and 1
    chosen = torch.arange(7).expand(2, 7)
    with torch.no_grad():
        for row, other in enumerate(others):
            part = image[row : row + 1]
            suspicion = torch.sigmoid(other.voxels(part))
            slabs = network.slabs(torch.cat([part, suspicion], dim=1), chosen[row : row + 1])
            expected = network.score(network.encoder.pooled(network.mix(slabs)))[:, 0]
            found = network.logits(image, chosen, index)[row]
            assert torch.allclose(found, expected, atol=1e-5)
            assert not torch.allclose(found, network.logits(image, chosen)[row], atol=1e-5)
        scored = network.train()(image, index)
    assert scored.shape == (2, 8)
    assert not any("held_out" in name for name in network.state_dict())


def test_suspects_learnt_on_crops_are_marked_alike_in_a_volume_that_is_mostly_air() -> None:
    torch.manual_seed(0)
    network = SuspectNetwork().train()
    crops = torch.rand(4, 1, 48, 48, 48)
    middle = (0, 0, *(slice(20, 28),) * 3)
    with torch.no_grad():
        for _ in range(30):  # as long as running averages need
            network.voxels(crops)
        network.eval()
        crop = network.voxels(crops[:1])[middle]
        volume = nn.functional.pad(crops[:1], [32] * 6)
        whole = network.voxels(volume)[:, :, 32:-32, 32:-32, 32:-32][middle]
    assert float((whole - crop).abs().mean() / crop.std()) < 0.05  # 1.7 where groups of a volume are normalised
