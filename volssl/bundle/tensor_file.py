"""A bundle's file of tensors: read by the few words of pickle that torch writes into one, so that nothing else happens.

`torch.load(weights_only=True)` runs nothing either, but makes what a file asks for, however large, takes a tensor's
word for the length of what it stands on, and may find another archive in a file than Python does. Here a file gives
its tensors or nothing.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volssl.errors import UserError

STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch BoolStorage": torch.bool,
}
VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
AROUND, EACH = 2**16, 2**10  # bytes that a file may have beyond its numbers, and beyond those of each tensor


def largest_file(network: nn.Module) -> int:
    """How many bytes a file with a network's tensors has at most."""
    tensors: list[Tensor] = list(network.state_dict().values())
    return AROUND + sum(EACH + value.numel() * value.element_size() for value in tensors)


def read_tensors(path: Path, wanted: str, *, most: int | None = None) -> dict[str, Tensor]:
    """A bundle's tensors by name; what is hashed is what is read, and nothing in it can run.

    Args:
        wanted: SHA-256 of the file.
        most: bytes that it may have; None for as many as it has.

    Raises:
        UserError: where the file is missing, is too large, is not the one that the metadata name, or holds more than
            tensors of numbers.
    """
    try:
        if most is not None and (found := path.stat().st_size) > most:
            raise UserError(f"{path}: has {found} bytes, the network of the config {most} at most; it was not loaded")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: no weights there ({type(error).__name__}); write the bundle with `volssl export`"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != wanted:
        raise UserError(
            f"{path}: SHA-256 {digest[:12]}… is not the {wanted[:12]}… of metadata.json; the weights were exchanged"
        )
    try:
        state = TensorReader(members_of(content, path)).state
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: holds something other than tensors ({type(error).__name__}); it was not loaded"
        ) from error
    if sum(value.numel() * value.element_size() for value in state.values()) > len(content):
        raise UserError(f"{path}: its tensors are larger than the file; it was not loaded")
    if strange := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise UserError(f"{path}: {strange[0]} has values that are no numbers; export the bundle again")
    return state


def members_of(content: bytes, path: Path) -> dict[str, bytes]:
    """The parts of torch's archive, by their names below its folder; torch compresses none.

    Raises:
        UserError: for an archive that grows when it is unpacked.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > len(content):
            raise UserError(f"{path}: is compressed, or claims more bytes than it has; it was not loaded")
        return {member.filename.partition("/")[2]: archive.read(member) for member in members}


class TensorReader:
    """Walks through the pickle of a state dict.

    Args:
        members: of the archive.

    Attributes:
        state: the tensors by name.

    Raises:
        ArithmeticError, LookupError, RuntimeError, TypeError, ValueError: for anything else.
    """

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members
        self.storages: dict[str, Tensor] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        if members.get("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
            raise ValueError("numbers of another byte order")
        for word, value, _ in pickletools.genops(members["data.pkl"]):
            self.take(word.name, value)
        (state,) = self.stack
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__}")
        self.state: dict[str, Tensor] = state

    def take(self, word: str, value: Any) -> None:
        """One word of the pickle."""
        if word in VALUES:
            self.stack.append(value)
        elif word in ("NEWFALSE", "NEWTRUE"):
            self.stack.append(word == "NEWTRUE")
        elif word == "EMPTY_DICT":
            self.stack.append({})
        elif word == "EMPTY_TUPLE":
            self.stack.append(())
        elif word in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self.pop(int(word[-1]))))
        elif word == "TUPLE":
            self.stack.append(tuple(self.pop_marked()))
        elif word == "MARK":
            self.marks.append(len(self.stack))
        elif word in ("BINPUT", "LONG_BINPUT"):
            self.memo[value] = self.stack[-1]
        elif word in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[value])
        elif word == "GLOBAL":
            self.stack.append(GLOBALS[value])
        elif word == "BINPERSID":
            self.stack.append(self.storage(*self.pop(1)[0]))
        elif word == "REDUCE":
            self.stack.append(made(*self.pop(2)))
        elif word in ("SETITEM", "SETITEMS"):
            self.enter(self.pop(2) if word == "SETITEM" else self.pop_marked())
        elif word not in ("PROTO", "STOP"):
            raise ValueError(word)

    def pop(self, count: int) -> list[Any]:
        """The last values of the stack."""
        taken = self.stack[len(self.stack) - count :]
        if len(taken) != count:
            raise IndexError(count)
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_marked(self) -> list[Any]:
        """The values since the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def enter(self, pairs: list[Any]) -> None:
        """Names and tensors, into the dictionary below them."""
        target = self.stack[-1]
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Of other keys the hash alone could take for ever: a tuple of twice a tuple of twice a tuple
            if not (isinstance(target, dict) and isinstance(name, str) and isinstance(value, Tensor)):
                raise TypeError(f"a {type(value).__name__} under a {type(name).__name__}")
            target[name] = value

    def storage(self, kind: Any, dtype: Any, key: Any, place: Any, count: Any) -> Tensor:
        """The numbers of a part of the archive, of the length that the pickle names."""
        del place  # all are read to the CPU
        if not (isinstance(kind, str) and isinstance(dtype, torch.dtype) and isinstance(key, str)) or kind != "storage":
            raise TypeError("no storage")
        part = self.members[f"data/{key}"]
        if type(count) is not int or len(part) != count * dtype.itemsize:
            raise ValueError(f"{key} has {len(part)} bytes")
        if key not in self.storages:
            self.storages[key] = torch.frombuffer(bytearray(part), dtype=dtype)
        if self.storages[key].dtype != dtype:
            raise TypeError(f"{key} of two types")
        return self.storages[key]


def made(function: Any, arguments: Any) -> Any:
    """What torch lets a pickle call: a tensor, or the empty dictionary of its hooks."""
    if function is OrderedDict and arguments == ():
        return {}
    if function is rebuilt and isinstance(arguments, tuple):
        return rebuilt(*arguments)
    raise TypeError("another call")


def rebuilt(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any) -> Tensor:
    """A tensor on a storage, as `torch._utils._rebuild_tensor_v2` makes it; torch looks that it lies within."""
    del requires_grad, hooks
    if not isinstance(storage, Tensor):
        raise TypeError("no storage")
    return storage.as_strided(size, stride, offset)


GLOBALS: dict[str, Any] = {
    "collections OrderedDict": OrderedDict,
    "torch._utils _rebuild_tensor_v2": rebuilt,
    **STORAGES,
}
