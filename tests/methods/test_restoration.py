"""Restoration: what the loss is, that everything is trained, and what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image as matplotlib_image
from torch import Tensor, nn

from volssl.encoders import PaperDenseNet, SwinUNETR, UNETRDecoder
from volssl.engine.pictures import SavePictures, save_pictures, slices
from volssl.methods import Combined, Restoration, Rotation
from volssl.methods.base import Method


def small(**options: str) -> Restoration:
    torch.manual_seed(0)
    return Restoration(PaperDenseNet(init_features=4, growth=2, compress=2), **options)  # type: ignore[arg-type]


def batch_of(size: tuple[int, int, int] = (24, 24, 8), samples: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(samples, 1, *size, generator=generator)
    corrupted = target.clone()
    corrupted[:, :, :12] = torch.rand(samples, 1, 12, *size[1:], generator=generator)
    return {"input": corrupted, "target": target}


class Answers(nn.Module):
    """A decoder that answers what it was told."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, pyramid: list[Tensor]) -> Tensor:
        return self.answer


@pytest.mark.parametrize(("error", "power"), [("mse", 2), ("l1", 1)])
@pytest.mark.parametrize("over", ["all", "changed"])
def test_the_loss_is_the_mean_over_samples_of_each_one_s_error(error: str, power: int, over: str) -> None:
    method, batch = small(error=error, over=over), batch_of()
    batch["input"][0] = batch["target"][0]
    batch["input"][0, 0, 0, 0, 0] += 0.25  # one voxel of the first sample was changed
    answer = torch.rand(4, 1, 24, 24, 8, generator=torch.Generator().manual_seed(2))
    method.decoder = Answers(answer)
    x, y, z = (v.numpy().astype(np.float64) for v in (batch["input"], answer, batch["target"]))
    rows = [
        (np.abs(y[i] - z[i]) ** power)[(x[i] != z[i]) if over == "changed" else np.ones_like(x[i], bool)].mean()
        for i in range(4)
    ]
    embedded = method.embed(batch)
    np.testing.assert_allclose(embedded["error"].detach().numpy(), rows, rtol=1e-5)
    assert float(method(batch)["loss"]) == pytest.approx(np.mean(rows), rel=1e-5)


def test_undone_is_one_for_the_target_and_zero_for_the_input_given_back() -> None:
    method, batch = small(), batch_of()
    for answer, undone in ((batch["target"], 1.0), (batch["input"], 0.0)):
        method.decoder = Answers(answer)
        assert float(method(batch)["undone"]) == pytest.approx(undone, abs=1e-6)


@pytest.mark.parametrize("over", ["all", "changed"])
def test_every_weight_of_encoder_and_decoder_is_trained(over: str) -> None:
    method = small(over=over)
    method(batch_of())["loss"].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_pooled_feature_takes_part_in_what_is_restored() -> None:
    method, batch = small().eval(), batch_of()
    before = method.restored(batch["input"])
    with torch.no_grad():
        method.encoder.compress.weight.mul_(2)  # only pooling uses it
    assert not torch.equal(method.restored(batch["input"]), before)


def test_parts_of_a_batch_give_the_rows_of_the_whole() -> None:
    method, batch = small(), batch_of()
    method.encoder.eval()  # batch normalisation alone sees the batch
    whole = method.embed(batch)["error"]
    parts = [method.embed({name: v[i : i + 2] for name, v in batch.items()})["error"] for i in (0, 2)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-5)


def test_thirty_steps_undo_some_of_the_damage() -> None:
    method, batch = small(), batch_of()
    batch["target"] = torch.nn.functional.avg_pool3d(batch["target"], 5, 1, 2)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-3)
    undone = []
    for _ in range(30):
        losses = method(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        undone.append(float(losses["undone"]))
    assert undone[-1] > 0.7 > undone[0]


def test_swin_unetr_is_restored_by_its_own_decoder_and_others_are_refused() -> None:
    encoder = SwinUNETR(feature_size=12, depths=(1, 1, 1, 1))
    method = Restoration(encoder, decoder="unetr")
    assert isinstance(method.decoder, UNETRDecoder)
    method(batch_of((64, 32, 32), samples=1))["loss"].backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    with pytest.raises(ValueError, match="PaperDenseNet"):
        small(decoder="unetr")


@pytest.mark.parametrize("option", ["decoder", "error", "over"])
def test_an_unknown_choice_is_refused_with_those_there_are(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is one of"):
        small(**{option: "none"})


def test_pictures_are_the_batch_and_what_was_made_of_it_and_leave_the_method_as_it_was() -> None:
    method, batch = small().train(), batch_of()
    state = {key: value.clone() for key, value in method.state_dict().items()}
    shown = method.pictures(batch)
    assert list(shown) == ["input", "output", "target", "error"]
    assert torch.equal(shown["input"], batch["input"])
    assert torch.equal(shown["error"], (shown["output"] - batch["target"]).abs())
    assert 0 <= float(shown["output"].min()) <= float(shown["output"].max()) <= 1
    assert method.training
    assert method.encoder.training
    assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())


def test_slices_are_shown_as_radiologists_do() -> None:
    volume = np.zeros((4, 5, 6))
    volume[3, :, :] += 1  # the patient's right
    volume[:, 4, :] += 10  # anterior
    volume[:, :, 5] += 100  # superior
    (axial, axial_aspect), (coronal, coronal_aspect) = slices(volume, (1.0, 2.0, 3.0))
    assert axial.shape == (5, 4)
    assert axial[0].tolist() == [11, 10, 10, 10], "anterior up, right on the left"
    assert axial[1].tolist() == [1, 0, 0, 0]
    assert coronal.shape == (6, 4)
    assert coronal[0].tolist() == [101, 100, 100, 100], "superior up, right on the left"
    assert (axial_aspect, coronal_aspect) == (2.0, 3.0)


def test_the_picture_has_a_column_a_name_in_the_voxel_s_proportions(tmp_path: Path) -> None:
    volumes = {name: torch.full((2, 1, 30, 40, 10), value) for name, value in (("a", 0.0), ("b", 1.0), ("c", 0.5))}
    save_pictures(volumes, tmp_path / "x.png", spacing_mm=(1.0, 1.0, 4.0), title="t")
    picture = matplotlib_image.imread(tmp_path / "x.png")[..., 0]
    gray = np.isclose(picture, 0.5, atol=0.02)  # the third column: two axial slices 30 × 40, two coronal ones 30 × 40
    assert gray.sum(axis=0).max() / gray.sum(axis=1).max() == pytest.approx(4 * 40 / 30, rel=0.05)


def pictured(method: Method, batch: Mapping[str, object], run: Path, *, samples: int = 3) -> Path:
    """Where the picture of a method's batch would stand after an epoch."""

    class Engine:
        run_dir = run

        class state:  # noqa: N801
            device, epoch = torch.device("cpu"), 2

    Engine.method, Engine.state.batch = method, batch  # type: ignore[attr-defined]
    SavePictures(spacing_mm=(3.5, 3.5, 7.0), samples=samples)(Engine())  # type: ignore[arg-type]
    return run / "figures" / "last_batch.png"


def test_a_method_without_pictures_is_left_alone(tmp_path: Path) -> None:
    method = Rotation(small().encoder, turns=2)
    assert not pictured(method, {"rotated": batch_of()["input"]}, tmp_path).exists()
    assert not list(tmp_path.iterdir())


def test_the_run_has_a_picture_after_each_epoch(tmp_path: Path) -> None:
    path = pictured(small(), batch_of() | {"name": "no tensor"}, tmp_path)
    assert matplotlib_image.imread(path).shape[0] > 300


def test_a_combined_method_shows_what_its_parts_do_and_no_more_of_a_sample_than_one_row(tmp_path: Path) -> None:
    restoration, batch = small(), batch_of()
    turned = {"crop0": batch["input"], "crop1": batch["input"].flip(2), "target0": batch["target"], "target1": batch["target"].flip(2)}  # noqa: E501  # fmt: skip
    parts = {"restoration": restoration, "rotation": Rotation(restoration.encoder, turns=2)}
    names = {"restoration": {"input": ["crop0", "crop1"], "target": ["target0", "target1"]}}
    both = Combined(restoration.encoder, parts=parts, names=names)
    shown = both.pictures(turned)
    alone = restoration.pictures(batch)
    assert list(shown) == [f"restoration/{name}" for name in alone]
    n = len(batch["input"])
    for name, volumes in alone.items():
        torch.testing.assert_close(shown[f"restoration/{name}"][:n], volumes)
    one = matplotlib_image.imread(pictured(both, turned, tmp_path / "both", samples=1))
    own = matplotlib_image.imread(pictured(restoration, batch, tmp_path / "own", samples=1))
    assert one.shape[0] == pytest.approx(own.shape[0], rel=0.05)
