"""The network of a bundle as TorchScript, ONNX and torch.export: what is kept answers as the network, where it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from monai.networks.nets import DenseNet121 as StockDenseNet121
from monai.networks.nets import SwinUNETR as StockSwinUNETR
from torch import Tensor, nn

import volssl.bundle.artefacts as artefacts
from tests.bundle.conftest import GRID, Line
from volssl.bundle.artefacts import FORMATS, Artefact, write_artefact
from volssl.bundle.export import export_run
from volssl.bundle.stock import export_stock
from volssl.contract import InputContract
from volssl.encoders import DenseNet121, Encoder, PaperDenseNet, SwinUNETR, save_encoder
from volssl.errors import UserError
from volssl.heads import TaskNetwork
from volssl.slabs import SlabNetwork, SuspectNetwork

TINY = (32, 36, 8)


class Toy(nn.Module):
    """Answers with the mean of a volume, times a size that tracing takes for fixed; TorchScript cannot read it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.encoder.strides = ((2, 2, 1),)  # type: ignore[assignment]
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        size = sum(int(n) for n in tuple(x.shape[2:]))
        return self.weight * size * x.mean(dim=(2, 3, 4))


def contract(grid: tuple[int, int, int]) -> InputContract:
    return InputContract(modality="CT", window_hu=(55, 200), spacing_mm=(1, 1, 1), grid=grid)


def network_of(encoder: Encoder, *, slices: int = 0, flips: bool = False) -> TaskNetwork:
    torch.manual_seed(0)
    return TaskNetwork(encoder, slices=slices, flips=flips).eval()


def written(name: str, network: nn.Module, grid: tuple[int, int, int], folder: Path) -> tuple[Artefact, Path]:
    file, ways, read = FORMATS[name]
    return write_artefact(folder / file.name, network, contract(grid), ways, read), folder / file.name


def onnx_answer(path: Path, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answer: Any = session.run(None, {"image": image.numpy()})[0]
    return torch.from_numpy(answer)


def test_the_papers_network_becomes_torchscript_by_scripting_free_in_every_size(tmp_path: Path) -> None:
    network = network_of(PaperDenseNet(), slices=8, flips=True)
    artefact, path = written("torchscript", network, TINY, tmp_path)
    assert (artefact.way, artefact.free, artefact.largest_difference) == ("scripting", "BRAS", 0.0)
    assert artefact.compared_at == ((1, 1, 32, 36, 8), (2, 1, 32, 36, 8), (1, 1, 48, 52, 12), (2, 1, 48, 52, 12))
    assert artefact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    image = torch.rand(3, 1, 37, 51, 9)
    with torch.no_grad():
        assert torch.equal(torch.jit.load(path)(image), network(image))


@pytest.mark.parametrize(("slices", "free"), [(8, "BRA"), (0, "BRAS")])
def test_onnx_is_free_in_plane_and_with_a_head_for_slices_of_their_number(
    slices: int, free: str, tmp_path: Path
) -> None:
    network = network_of(PaperDenseNet(), slices=slices)
    artefact, path = written("onnx", network, TINY, tmp_path)
    assert (artefact.way, artefact.free) == ("tracing", free)
    assert 0 < artefact.largest_difference < 1e-5
    image = torch.rand(3, 1, 37, 51, 8)
    with torch.no_grad():
        torch.testing.assert_close(onnx_answer(path, image), network(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_a_network_that_joins_series_keeps_what_it_says_of_one_series_alone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TaskNetwork(PaperDenseNet(init_features=4, growth=2, compress=8), slices=8, join="mean").eval()
    artefact, path = written(name, network, TINY, tmp_path)
    assert artefact.compared_at[0] == (1, 2, *TINY)
    image = torch.rand(2, 2, *TINY)
    image[1, 1] = 0
    with torch.no_grad():
        torch.testing.assert_close(FORMATS[name][2](path)(image), network(image), rtol=0, atol=1e-5)
        torch.testing.assert_close(network(image)[1], network(image[1:, :1])[0], rtol=0, atol=1e-5)


def test_a_trace_that_fixed_the_size_is_told_to_be_of_that_size(tmp_path: Path) -> None:
    artefact, path = written("torchscript", Toy(), (8, 8, 4), tmp_path)
    assert (artefact.way, artefact.free) == ("tracing", "B")
    assert artefact.compared_at == ((1, 1, 8, 8, 4), (2, 1, 8, 8, 4))
    assert float(torch.jit.load(path)(torch.ones(1, 1, 10, 10, 4))) == 60  # of a size that it was not made for: not 72
    assert "free along B;" in artefact.sentence("model.ts")


def test_torch_export_of_a_size_that_the_code_reads_is_of_that_size(tmp_path: Path) -> None:
    artefact, path = written("torch-export", Toy(), (8, 8, 4), tmp_path)
    assert (artefact.way, artefact.free) == ("torch.export", "B")
    assert float(torch.export.load(path).module()(torch.ones(1, 1, 8, 8, 4))) == 60


def test_a_file_that_answers_otherwise_is_removed_and_refused_in_one_line(tmp_path: Path) -> None:
    def exchanged(path: Path, network: nn.Module, *others: object) -> None:
        torch.jit.save(torch.jit.trace(Shifted(network), torch.rand(1, 1, 8, 8, 4)), path)

    with pytest.raises(UserError, match=r"^model.ts: not kept, tracing: it differs by 2.0e-04 from the network$"):
        write_artefact(
            tmp_path / "model.ts", Toy(), contract((8, 8, 4)), [("tracing", exchanged)], FORMATS["torchscript"][2]
        )
    assert list(tmp_path.iterdir()) == []


class Shifted(nn.Module):
    """A network whose answers are a little off."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x) + 2e-4
        return answer


def test_an_answer_that_is_no_number_differs(tmp_path: Path) -> None:
    assert artefacts.largest_difference(lambda x: x.mean(dim=(2, 3, 4)) / 0, Toy(), [(1, 1, 8, 8, 4)]) == float("inf")


def test_an_exported_bundle_holds_what_was_asked_for_and_says_how_it_was_made(line: Line, tmp_path: Path) -> None:
    files = export_run(line.run, tmp_path / "out", formats=["torchscript", "onnx"])
    assert {"model.pt", "model.ts", "model.onnx"} <= {path.name for path in files if path.is_file()}
    told = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["volssl"]["artefacts"]
    assert {name: (each["way"], each["free"]) for name, each in told.items()} == {
        "models/model.ts": ("scripting", "BRAS"),
        "models/model.onnx": ("tracing", "BRA"),
    }
    assert told["models/model.onnx"]["compared_at"][3] == [2, 1, GRID[0] + 16, GRID[1] + 16, GRID[2]]
    card = (tmp_path / "out" / "docs" / "README.md").read_text()
    assert "- `models/model.onnx`, by tracing: input (B, C, R, A, S) of 1×1×32×36×12, free along B, R, A;" in card


def test_a_bundle_is_written_without_the_format_that_is_refused(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, *others: object) -> None:
        path.write_bytes(b"half a file")
        raise RuntimeError("no such operator")

    file, _, read = FORMATS["torchscript"]
    monkeypatch.setitem(FORMATS, "torchscript", (file, (("scripting", broken),), read))
    with pytest.raises(UserError, match=r"out: written, but for model.ts: not kept, scripting: no such operator$"):
        export_run(line.run, tmp_path / "out", formats=["torchscript"])
    assert [path.name for path in (tmp_path / "out" / "models").glob("model.*")] == ["model.pt"]
    assert json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())["volssl"]["artefacts"] == {}


STOCK = {
    "SwinUNETR": (
        lambda: SwinUNETR(feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        lambda: StockSwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        "swinViT.",
    ),
    "DenseNet121": (
        lambda: DenseNet121(init_features=4, growth=2),
        lambda: StockDenseNet121(3, 1, 2, init_features=4, growth_rate=2),
        "features.",
    ),
}


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_network_misses_no_key_of_an_exported_encoder(name: str, tmp_path: Path) -> None:
    ours, stock, part = STOCK[name]
    encoder, network = ours(), stock()
    save_encoder(tmp_path / "encoder.pt", encoder, contract=contract((32, 32, 32)), patients=[], method="SwAV")
    file = export_stock(tmp_path, tmp_path / "stock.pt")
    found = network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    assert found.unexpected_keys == []
    assert [key for key in found.missing_keys if key.startswith(part)] == []
    assert len(found.missing_keys) > 0  # the head or the decoder, which is not ours to write
    states = network.state_dict(), encoder.state_dict()
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_an_encoder_that_monai_does_not_have_is_refused(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder.pt", PaperDenseNet(), contract=contract(TINY), patients=[], method="SwAV")
    with pytest.raises(UserError, match="MONAI has no PaperDenseNet"):
        export_stock(tmp_path, tmp_path / "stock.pt")
    assert not (tmp_path / "stock.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "way", "free"),
    [("torchscript", "scripting", "BRAS"), ("onnx", "tracing", "BRAS"), ("torch-export", "torch.export", "B")],
)
@pytest.mark.parametrize("flips", [False, True])
def test_the_network_of_slabs_in_every_format(name: str, way: str, free: str, flips: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SlabNetwork(PaperDenseNet(), SuspectNetwork(), flips=flips).eval()
    artefact, _ = written(name, network, (32, 32, 16), tmp_path)
    assert (artefact.way, artefact.free) == (way, free)
    assert artefact.largest_difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchscript", "onnx", "torch-export"])
def test_swin_is_of_one_size_in_every_format(name: str, tmp_path: Path) -> None:
    network = network_of(SwinUNETR(feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)), slices=32)
    artefact, _ = written(name, network, (32, 32, 32), tmp_path)
    assert artefact.way == ("torch.export" if name == "torch-export" else "tracing")
    assert artefact.free == "B"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchscript", "onnx", "torch-export"])
def test_densenet121_in_every_format(name: str, tmp_path: Path) -> None:
    artefact, _ = written(name, network_of(DenseNet121(init_features=4, growth=2)), (32, 32, 32), tmp_path)
    assert artefact.free.startswith("B")


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "free"), [((48, 64, 12), "BRA"), ((32, 36, 12), "B")])
def test_torch_export_keeps_whole_strides_free(grid: tuple[int, int, int], free: str, tmp_path: Path) -> None:
    artefact, _ = written("torch-export", network_of(PaperDenseNet(), slices=12), grid, tmp_path)
    assert artefact.free == free
