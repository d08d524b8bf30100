"""encoder.pt and stock weights: what was saved comes back, what is loaded is told, what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121 as StockDenseNet121

import volssl
from volssl.contract import InputContract
from volssl.encoders import DenseNet121, PaperDenseNet, build_encoder, labelled_patients, save_encoder, start_from
from volssl.encoders.file import read_encoder_file
from volssl.errors import UserError
from volssl.seen import Seen
from volssl.tensors import load_tensors, save_tensors

CT = InputContract("CT", (55.0, 200.0), (3.5, 3.5, 7.0), (48, 56, 20))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = PaperDenseNet(growth=3).eval()
    save_encoder(tmp_path / "encoder.pt", encoder, contract=CT, patients={"b", "a"}, method="SwAV")
    return tmp_path


def test_a_saved_encoder_comes_back_with_its_contract(saved: Path) -> None:
    torch.manual_seed(0)
    original = PaperDenseNet(growth=3).eval()
    encoder, contract = volssl.load_encoder(saved)
    x = torch.rand(1, 1, 16, 16, 4)
    assert torch.equal(encoder.pooled(x), original.pooled(x))
    assert contract == CT
    assert read_encoder_file(saved).patients == {"a", "b"}


def test_whose_labels_trained_it_is_told_and_an_older_file_that_does_not_say_still_loads(tmp_path: Path) -> None:
    file, encoder = tmp_path / "encoder.pt", PaperDenseNet(growth=3)
    save_encoder(file, encoder, contract=CT, patients={"b", "a"}, labelled={"b"}, method="Combined")
    assert read_encoder_file(file).labelled == {"b"}
    assert labelled_patients(file, ["c"]) == {"b", "c"}
    assert labelled_patients("", ["c"]) == {"c"}
    save_tensors(file, {key: value for key, value in load_tensors(file).items() if key != "labelled"})
    assert read_encoder_file(file).labelled == set()
    save_tensors(file, {key: value for key, value in load_tensors(file).items() if key != "keys"})
    assert read_encoder_file(file).seen == Seen(frozenset("ab"), frozenset([""]))
    assert read_encoder_file(file).patients == {"a", "b"}


def test_the_weights_and_patients_of_an_earlier_run_are_taken_over(saved: Path) -> None:
    encoder = PaperDenseNet(growth=3)
    assert start_from(encoder, saved, CT).patients == {"a", "b"}
    assert torch.equal(
        encoder.state_dict()["stem.0.weight"], volssl.load_encoder(saved)[0].state_dict()["stem.0.weight"]
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (InputContract("MR", (55.0, 200.0), (3.5, 3.5, 7.0), (48, 56, 20)), "modality CT"),
        (InputContract("CT", (40.0, 80.0), (3.5, 3.5, 7.0), (48, 56, 20)), "window_hu"),
        (InputContract("CT", (55.0, 200.0), (0.9, 3.5, 7.0), (48, 56, 20)), "along R"),
    ],
)
def test_another_input_is_refused(saved: Path, other: InputContract, words: str) -> None:
    with pytest.raises(UserError, match=words):
        start_from(PaperDenseNet(growth=3), saved, other)


def test_what_was_loaded_is_told_on_both_ways(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = len(PaperDenseNet(growth=3).state_dict())
    volssl.load_encoder(saved)
    assert f"weights: {tensors} tensors loaded (100%)" in capsys.readouterr().err
    start_from(PaperDenseNet(growth=3, compress=8), saved, CT)
    told = capsys.readouterr().err
    assert f"weights: {tensors - 2} tensors loaded (98%)\n  2 of another shape: compress.bias, compress.weight" in told
    assert "  built otherwise: compress 8 here, 64 in the file" in told


@pytest.mark.parametrize("settings", [{"growth": 3, "width": 2}, {"growth": "much"}])
def test_an_encoder_of_another_version_is_refused_in_one_line(saved: Path, settings: dict[str, object]) -> None:
    values = torch.load(saved / "encoder.pt", weights_only=True)
    torch.save(values | {"settings": {"in_channels": 1, **settings}}, saved / "encoder.pt")
    with pytest.raises(UserError, match=r"encoder\.pt: PaperDenseNet: .*another version of volssl"):
        volssl.load_encoder(saved)


def test_one_window_becomes_three_and_equal_channels_give_the_same_features(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = replace(CT, window_hu=((40.0, 80.0), (55.0, 200.0), (300.0, 2000.0)), channels=3)
    encoder = PaperDenseNet(3, growth=3).eval()
    assert start_from(encoder, saved, three).patients == {"a", "b"}
    assert "stem.0.weight: made for 1 channel, repeated for 3 and divided by 3" in capsys.readouterr().err
    x = torch.rand(2, 1, 32, 16, 8)
    original = volssl.load_encoder(saved)[0]
    with torch.no_grad():
        torch.testing.assert_close(encoder.pooled(x.expand(-1, 3, -1, -1, -1)), original.pooled(x))
        assert not torch.allclose(encoder.pooled(x * torch.tensor([1, 0, 0]).view(1, 3, 1, 1, 1)), original.pooled(x))


def test_three_windows_become_one_that_gives_what_equal_ones_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    three = PaperDenseNet(3, growth=3).eval()
    contract = replace(CT, window_hu=((40.0, 80.0), (55.0, 200.0), (300.0, 2000.0)), channels=3)
    save_encoder(tmp_path / "encoder.pt", three, contract=contract, patients=[], method="SwAV")
    encoder = PaperDenseNet(growth=3).eval()
    start_from(encoder, tmp_path, CT)
    assert "stem.0.weight: made for 3 channels, summed to 1" in capsys.readouterr().err
    x = torch.rand(2, 1, 32, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(encoder.pooled(x), three.pooled(x.expand(-1, 3, -1, -1, -1)))


def test_two_windows_for_three_are_refused(tmp_path: Path) -> None:
    two = replace(CT, window_hu=((40.0, 80.0), (55.0, 200.0)), channels=2)
    save_encoder(tmp_path / "encoder.pt", PaperDenseNet(2, growth=3), contract=two, patients=[], method="SwAV")
    three = replace(CT, window_hu=((40.0, 80.0), (55.0, 200.0), (300.0, 2000.0)), channels=3)
    with pytest.raises(UserError, match="window_hu"):
        start_from(PaperDenseNet(3, growth=3), tmp_path, three)


@pytest.fixture(scope="module")
def stock_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a stock network as a user may have them."""
    torch.manual_seed(1)
    stock = StockDenseNet121(spatial_dims=3, in_channels=1, out_channels=2, init_features=8, growth_rate=2)
    path = tmp_path_factory.mktemp("stock") / "weights.pt"
    torch.save(stock.state_dict(), path)
    return path


def test_stock_weights_are_a_start_whose_patients_nobody_knows(
    stock_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = build_encoder(path=stock_file)
    assert (type(encoder), encoder.settings["init_features"], encoder.settings["growth"]) == (DenseNet121, 8, 2)
    assert start_from(encoder, stock_file, CT) == Seen(keys=frozenset({""}))
    told = capsys.readouterr().err
    assert "weights of a stock DenseNet121; what they were fed and whose scans they saw is not known" in told
    assert f"weights: {len(encoder.state_dict())} tensors loaded (100%)\n  2 unexpected: class_layers.out.bias" in told
    held = torch.load(stock_file, weights_only=True)
    assert all(torch.equal(value, held[name]) for name, value in encoder.state_dict().items())


def test_stock_weights_for_one_channel_are_brought_to_two_windows_and_those_for_two_not_to_three(
    stock_file: Path, tmp_path: Path
) -> None:
    held = torch.load(stock_file, weights_only=True)
    encoder = build_encoder(in_channels=2, path=stock_file)
    start_from(encoder, stock_file, replace(CT, window_hu=((40.0, 80.0), (55.0, 200.0)), channels=2))
    half = held["features.conv0.weight"] / 2
    assert torch.equal(encoder.state_dict()["features.conv0.weight"], torch.cat([half, half], dim=1))
    torch.save(encoder.state_dict(), tmp_path / "two.pt")
    with pytest.raises(UserError, match="made for 2 input channels and would be fed 3"):
        start_from(build_encoder(in_channels=3, path=stock_file), tmp_path / "two.pt", CT)


def test_stock_weights_do_not_say_what_they_want_to_be_fed(stock_file: Path) -> None:
    with pytest.raises(UserError, match="go on training from them with --encoder"):
        volssl.load_encoder(stock_file)


def test_weights_of_some_other_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="not an encoder file of volssl, nor weights of MONAI's"):
        read_encoder_file(tmp_path / "x.pt")


def test_another_kind_of_encoder_than_the_files_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match="holds a PaperDenseNet, this run builds a DenseNet121"):
        start_from(build_encoder("DenseNet121", settings={"growth": 2}), saved, CT)


def test_another_architecture_is_refused_and_nothing_is_loaded(saved: Path) -> None:
    encoder = PaperDenseNet(growth=4)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(UserError, match="another architecture"):
        start_from(encoder, saved, CT)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (__import__, ("antigravity",))

    torch.save(Evil(), tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="not a readable weights file"):
        volssl.load_encoder(tmp_path)
