"""What a pretraining says its crops are, in voxels or in mm: the crops, the contract and `encoder.pt` agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from tests.tiny import CROPS, TINY
from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved
from volssl.bundle.embed import middle_crop
from volssl.bundle.shipped import PRETRAINING, train_configs
from volssl.bundle.workflow import pretrain
from volssl.data import Store
from volssl.encoders import load_encoder
from volssl.errors import UserError

IN_MM = ["unit=mm", "spacing_mm=[7.0, 7.0, 14.0]", "crop_size=[168, 196, 112]", "small_crop_size=[110, 112, 60.5]"]
LARGE, SMALL = (24, 28, 8), (16, 16, 4)  # the same over the spacing; 110 / 7 = 15.7, 60.5 / 14 = 4.3
SQUARE = ["crop_size=[168, 168, 112]"]


def built(name: str, words: Sequence[str], store: Path, tmp_path: Path, *, preset: str = "single") -> Any:
    """The contract, the method and the crops of its first sample, as the command line's words make them."""
    values = read_config(bundle_config(PRETRAINING, name, preset=preset))
    given = {"dataset_dir": str(store), "output_dir": str(tmp_path / "run"), "network": "PaperDenseNet"}
    parser = ConfigParser(resolved(values, given | parse_overrides(values, words)))
    method = parser.get_parsed_content("method")
    shapes = {
        key: tuple(v.shape) for key, v in parser.get_parsed_content("train::dataset")[0, 0].items() if v.ndim == 4
    }
    return parser.get_parsed_content("contract"), method, shapes


@pytest.mark.parametrize(
    ("name", "preset", "crops"),
    [
        ("swav", "single", {"crop0": LARGE, "crop1": LARGE, "crop2": SMALL, "crop3": SMALL}),
        ("swav", "generic_views", {"crop0": LARGE, **dict.fromkeys(("crop1", "crop2", "crop3", "crop4"), SMALL)}),
        ("restoration", "single", {"input": LARGE, "target": LARGE}),
    ],
)
def test_crops_in_mm_are_voxels_of_the_spacing_and_so_is_the_contracts_grid(
    name: str, preset: str, crops: dict[str, tuple[int, ...]], store: Path, tmp_path: Path
) -> None:
    contract, _, shapes = built(name, IN_MM, store, tmp_path, preset=preset)
    assert contract.grid == LARGE
    assert contract.spacing_mm == (7.0, 7.0, 14.0)
    assert shapes == {key: (1, *size) for key, size in crops.items()}


@pytest.mark.parametrize("name", sorted({*train_configs(PRETRAINING)} - {"hybrid"}))  # which reads labels
def test_every_method_takes_crops_in_mm(name: str, store: Path, tmp_path: Path) -> None:
    words = [*IN_MM, *(SQUARE if name in ("rotation", "swin_unetr") else [])]
    contract, method, _ = built(name, words, store, tmp_path)
    large = (24, 24, 8) if name in ("rotation", "swin_unetr") else LARGE
    assert contract.grid == large
    assert {cropper.size for cropper in method.views.croppers} <= {large, SMALL}


def test_what_is_embedded_is_what_was_trained_on(store: Path, tmp_path: Path) -> None:
    pretrain("swav", store=store, out=tmp_path / "run", words=[*TINY, *IN_MM, "method::prototypes=6"])
    _, contract = load_encoder(tmp_path / "run")
    assert contract.grid == LARGE
    opened = Store.open(store)
    image, _ = middle_crop(contract).make(opened.scan(opened.rows["id"][0].as_py()))
    assert tuple(image.shape) == (1, *LARGE)


def test_crops_of_another_size_than_the_contract_says_are_refused(store: Path, tmp_path: Path) -> None:
    words = [*TINY, *CROPS, "method::views::crops::size=[16, 16, 8]"]
    with pytest.raises(UserError, match=r"crops of 16×16×8 voxels, and encoder.pt would say 24×28×8: set crop_size"):
        pretrain("restoration", store=store, out=tmp_path / "run", words=words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("preset", ["paper", "paper_views"])
def test_the_papers_rescaling_takes_no_millimetres(preset: str, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a crop of .* mm: under the paper's rescaling a voxel has no millimetres"):
        pretrain("swav", store=store, out=tmp_path / "run", preset=preset, words=[*TINY, *IN_MM])
