"""encoder.pt: what was saved comes back, and what does not fit is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import volssl
from volssl.contract import InputContract
from volssl.encoders import PaperDenseNet, save_encoder, start_from
from volssl.encoders.file import load_weights, read_encoder_file
from volssl.errors import UserError

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


def test_the_weights_and_patients_of_an_earlier_run_are_taken_over(saved: Path) -> None:
    encoder = PaperDenseNet(growth=3)
    assert start_from(encoder, saved, CT) == {"a", "b"}
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


def test_another_architecture_is_refused_and_nothing_is_loaded(saved: Path) -> None:
    encoder = PaperDenseNet(growth=4)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(UserError, match="another architecture"):
        start_from(encoder, saved, CT)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_the_report_names_what_fits_and_what_does_not() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3))
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.weight": torch.ones(4, 2), "x": torch.ones(1)}
    report = load_weights(network, state, source="f", least=0.5)
    assert (report.loaded, report.missing) == (["0.bias", "0.weight"], ["1.bias"])
    assert (report.wrong_shape, report.unexpected) == (["1.weight"], ["x"])
    assert report.share == 0.5


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (__import__, ("antigravity",))

    torch.save(Evil(), tmp_path / "encoder.pt")
    with pytest.raises(UserError, match="not a readable weights file"):
        volssl.load_encoder(tmp_path)
