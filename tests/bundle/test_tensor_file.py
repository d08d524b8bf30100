"""A bundle's tensors: those that torch reads, and nothing of a file that claims more than it has."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from volssl.bundle.tensor_file import largest_file, read_tensors
from volssl.encoders import PaperDenseNet, SwinUNETR
from volssl.errors import UserError
from volssl.tensors import save_tensors


def read(path: Path, **options: Any) -> dict[str, torch.Tensor]:
    return read_tensors(path, hashlib.sha256(path.read_bytes()).hexdigest(), **options)


def archive(path: Path, pickled: bytes, numbers: bytes = bytes(4)) -> Path:
    """An archive as torch writes it, of a pickle that torch would not write."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": sys.byteorder.encode(),
            "data/0": numbers,
            "version": b"3\n",
        }.items():
            file.writestr(f"archive/{name}", content)
    return path


def pickled(size: int, shape: tuple[int, ...]) -> bytes:
    """What torch writes of a tensor of a shape on a storage that is said to have a size, under the name `w`."""
    content = io.BytesIO()
    torch.save({"w": torch.zeros(size).as_strided(shape, (1,) * len(shape))}, content)
    with zipfile.ZipFile(content) as file:
        return file.read("archive/data.pkl")


@pytest.mark.parametrize("network", [PaperDenseNet(), SwinUNETR(feature_size=12)])
def test_what_torch_reads_is_read_and_is_no_larger_than_the_network_says(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    save_tensors(path, dict(network.state_dict()))
    most, size = largest_file(network), path.stat().st_size
    found, known = read(path, most=most), torch.load(path, weights_only=True)
    assert list(found) == list(known)
    assert all(torch.equal(found[name], known[name]) and found[name].dtype == known[name].dtype for name in known)
    assert size < most < 1.2 * size + 2**17
    with pytest.raises(UserError, match=f"has {size} bytes, the network of the config {size - 1} at most"):
        read(path, most=size - 1)


def test_views_of_one_storage_and_other_types_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    values = {
        "whole": whole,
        "turned": whole.T,
        "last": whole[2, 1:],
        "half": torch.tensor([1.5]).half(),
        "long": torch.tensor(7),
    }
    save_tensors(tmp_path / "x.pt", values)
    found = read(tmp_path / "x.pt")
    assert found["turned"].tolist() == whole.T.tolist()
    assert found["last"].tolist() == [9.0, 10.0, 11.0]
    assert (found["half"].dtype, found["half"].item(), found["long"].item()) == (torch.float16, 1.5, 7)


def test_the_archive_of_these_tests_is_read(tmp_path: Path) -> None:
    assert read(archive(tmp_path / "x.pt", pickled(1, (1,)), numbers=b"\0\0\x80?"))["w"].tolist() == [1.0]


GLOBAL = b"\x80\x02c__builtin__\nbytearray\n"
HOSTILE = {
    "a storage longer than its part of the archive": pickled(1000, (1000,)),
    "a tensor beyond its storage": pickled(1000, (1000,)).replace(b"M\xe8\x03tq", b"K\x01tq"),
    "an array of 400 MB that torch would make": GLOBAL + b"J" + (400_000_000).to_bytes(4, "little") + b"\x85R0}.",
    "a name that is a tuple, of twice a tuple, fifty times": (
        b"\x80\x02})" + b"q\x00h\x00\x86" * 50 + pickled(1, (1,))[3:-2].partition(b"X\x01\x00\x00\x00w")[2] + b"s."
    ),
    "another protocol": pickle.dumps({"w": 1}, protocol=4),
    "a number under a name": b"\x80\x02}X\x01\x00\x00\x00wK\x01s.",
    "no dictionary": b"\x80\x02K\x01.",
    "nothing": b".",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_that_torch_does_not_write_gives_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="holds something other than tensors"):
        read(archive(tmp_path / "x.pt", HOSTILE[name]))


def test_an_older_file_of_torch_with_an_archive_behind_it_is_none(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as file:
        file.writestr("x", "y")
    with pytest.raises(UserError, match="holds something other than tensors"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    save_tensors(tmp_path / "x.pt", {"good": torch.ones(2), "bad": torch.tensor([1.0, value])})
    with pytest.raises(UserError, match="bad has values that are no numbers"):
        read(tmp_path / "x.pt")
