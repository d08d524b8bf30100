"""A bundle's network in other formats: TorchScript, ONNX, `torch.export`; each compared with the network as it is.

What is compared is the file as it was written and read again, at two sizes and two batch sizes where the format keeps
them free. A format is asked for the most freedom first, and what it does not keep is left out: a network that tracing
has fixed to one size answers otherwise at another, or not at all, and is then told to be of that one size.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volssl.bundle.card import with_formats
from volssl.bundle.metadata import METADATA, SECTION, read_metadata
from volssl.contract import InputContract
from volssl.encoders.base import Size
from volssl.errors import UserError
from volssl.files import write_text

SAME = 1e-4  # largest difference of an output from the eager network's
OPSET = 17  # of ONNX
LEAST_PARTS = 3  # strides along an axis from which `torch.export` keeps it free: from 1 to 2 parts its slices change
MOST = 1024  # voxels along an axis, and volumes of a batch, that `torch.export` is told of
FREEDOMS = (("RAS", True), ("RA", True), ("", True), ("", False))  # axes and batch, the most free first
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    AttributeError,
    LookupError,
    torch.jit.frontend.FrontendError,  # what TorchScript cannot read
)

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Artefact:
    """What metadata.json says of a file.

    Attributes:
        way: that it was made in: scripting, tracing or torch.export.
        free: the dimensions of the input, of B, R, A, S, that may differ from the grid's.
        compared_at: shapes (B, C, R, A, S) at which it answered as the eager network.
        largest_difference: of an output, over these.
        sha256: of the file.
    """

    way: str
    free: str
    compared_at: tuple[tuple[int, ...], ...]
    largest_difference: float
    sha256: str

    def sentence(self, name: str, output: str = "logits") -> str:
        """For the card."""
        free = f"free along {', '.join(self.free)}" if self.free else "of this size alone"
        grid = "×".join(map(str, self.compared_at[0]))
        return (
            f"`{name}`, by {self.way}: input (B, C, R, A, S) of {grid}, {free}; output: {output}, as the network's to "
            f"{self.largest_difference:.0e}"
        )


def add_artefacts(bundle: Path, network: nn.Module, contract: InputContract, names: Sequence[str]) -> list[str]:
    """Write the formats that are asked for into a bundle, with what metadata and card say of them.

    Args:
        bundle: a finished bundle.
        network: with an `encoder`, in evaluation mode; (B, C, R, A, S) to (B, columns).
        names: of `FORMATS`.

    Returns:
        A sentence for each format that was refused; nothing is left of it.
    """
    made: dict[str, Artefact] = {}
    refused = []
    for name in names:
        file, ways, read = FORMATS[name]
        try:
            made[str(file)] = write_artefact(bundle / file, network, contract, ways, read)
        except UserError as error:
            refused.append(str(error))
    metadata = read_metadata(bundle)
    metadata[SECTION]["artefacts"] = {name: asdict(artefact) for name, artefact in made.items()}
    write_text(bundle / METADATA, json.dumps(metadata, indent=2) + "\n")
    if made:
        card = bundle / "docs" / "README.md"
        output = "features" if metadata[SECTION]["dim"] else "logits"
        lines = [f"- {artefact.sentence(name, output)}" for name, artefact in made.items()]
        write_text(card, with_formats(card.read_text(), lines))
    return refused


def write_artefact(
    path: Path,
    network: nn.Module,
    contract: InputContract,
    ways: Sequence[tuple[str, Callable[..., None]]],
    read: Callable[[Path], Network],
) -> Artefact:
    """Write one file, with as much freedom as it keeps.

    Raises:
        UserError: where it answers nowhere as the network does; the file is removed.
    """
    reason = ""
    for way, write in ways:
        for axes, batch in FREEDOMS:
            shapes = list(compared_shapes(network, contract, axes, batch))
            try:
                with quiet():
                    write(path, network, contract, axes, batch)
                    difference = largest_difference(read(path), network, shapes)
            except FAILURES as error:
                reason = reason or f"{way}: {str(error).strip().splitlines()[0][:200]}" if str(error).strip() else way
                continue
            if difference <= SAME:
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                return Artefact(way, "B" * batch + axes, tuple(shapes), difference, sha256)
            reason = f"{way}: it differs by {difference:.1e} from the network"
    path.unlink(missing_ok=True)
    raise UserError(f"{path.name}: not kept, {reason}")


def compared_shapes(
    network: nn.Module, contract: InputContract, axes: str, batch: bool
) -> Iterator[tuple[int, int, int, int, int]]:
    """The grid first, then with one deepest stride more along the free axes; each as one volume and as two."""
    stride = deepest_stride(network)
    grid = contract.grid
    r, a, s = (n + step * (axis in axes) for n, step, axis in zip(grid, stride, "RAS", strict=True))
    for size in dict.fromkeys((grid, (r, a, s))):
        for volumes in (1, 2) if batch else (1,):
            yield (volumes, fed_channels(network, contract), *size)


def fed_channels(network: nn.Module, contract: InputContract) -> int:
    """Of the network's input: those of the contract, twice where it joins two series."""
    return contract.channels * (2 if getattr(network, "join", None) else 1)


def deepest_stride(network: nn.Module) -> Size:
    """Voxels of the input in one of the deepest level, by which every network's input may grow."""
    strides: tuple[Size, ...] = network.encoder.strides  # type: ignore[union-attr, assignment]
    return strides[-1]


def largest_difference(artefact: Network, network: nn.Module, shapes: Sequence[tuple[int, ...]]) -> float:
    """Of any output, on noise of these shapes; infinite where one is no number.

    Where series are joined, also with a first volume that has no second one.
    """
    found = 0.0
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for shape in shapes:
            images = [torch.rand(shape, generator=draws)]
            if getattr(network, "join", None):
                images.append(images[0].clone())
                images[1][0, shape[1] // 2 :] = 0
            for image in images:
                theirs, ours = artefact(image), network(image)
                if theirs.shape != ours.shape or not torch.isfinite(theirs).all():
                    return float("inf")
                found = max(found, float((theirs - ours).abs().max()))
    return found


def example(network: nn.Module, contract: InputContract, batch: bool) -> Tensor:
    """What a format looks at: two volumes where the batch is free, for one is taken for a fixed size."""
    size = (1 + batch, fed_channels(network, contract), *contract.grid)
    return torch.rand(size, generator=torch.Generator().manual_seed(1))


def write_scripted(path: Path, network: nn.Module, contract: InputContract, axes: str, batch: bool) -> None:
    """TorchScript from the source: every size is free. Not for what MONAI's Swin transformer is written with."""
    del contract, axes, batch
    torch.jit.save(torch.jit.script(network), path)


def write_traced(path: Path, network: nn.Module, contract: InputContract, axes: str, batch: bool) -> None:
    """TorchScript from what the network does with one volume."""
    del axes
    traced = torch.jit.trace(network, example(network, contract, batch), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path)


def write_onnx(path: Path, network: nn.Module, contract: InputContract, axes: str, batch: bool) -> None:
    """ONNX from a trace, one file."""
    names = {index: axis for index, axis in enumerate("RAS", start=2) if axis in axes} | ({0: "B"} if batch else {})
    torch.onnx.export(
        network,
        (example(network, contract, batch),),
        path,
        input_names=["image"],
        output_names=["pred"],
        dynamic_axes={"image": names, "pred": {0: "B"} if batch else {}},
        opset_version=OPSET,
        # The exporter by torch.export gives up where parts of a free size are pooled.
        dynamo=False,
    )


def write_exported(path: Path, network: nn.Module, contract: InputContract, axes: str, batch: bool) -> None:
    """`torch.export`: free axes in whole deepest strides.

    Raises:
        ValueError: where the grid is not made of these, or of too few.
    """
    dims: dict[int, Any] = {0: torch.export.Dim("B", min=1, max=MOST)} if batch else {}
    for index, (axis, n, stride) in enumerate(zip("RAS", contract.grid, deepest_stride(network), strict=True), 2):
        if axis not in axes:
            continue
        if n % stride or n // stride < LEAST_PARTS:
            raise ValueError(f"axis {axis} has {n} voxels, no {LEAST_PARTS} or more times {stride}")
        dims[index] = stride * torch.export.Dim(axis, min=LEAST_PARTS, max=MOST // stride)
    program = torch.export.export(network, (example(network, contract, batch),), dynamic_shapes=(dims,))
    torch.export.save(program, path)


def read_torchscript(path: Path) -> Network:
    """The network of a file of TorchScript."""
    network: Network = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return network


def read_exported(path: Path) -> Network:
    """The network of a file of `torch.export`."""
    network: Network = torch.export.load(path).module()
    return network


def read_onnx(path: Path) -> Network:
    """A file of ONNX under onnxruntime, on one thread of the CPU."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as raised

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what stops it is raised
    errors = (raised.Fail, raised.InvalidArgument, raised.InvalidGraph, raised.NotImplemented, raised.RuntimeException)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except errors as error:
        raise RuntimeError(str(error)) from error

    def network(image: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])
        except errors as error:
            raise RuntimeError(str(error)) from error

    return network


class quiet(warnings.catch_warnings):  # noqa: N801 - used as a word, as `warnings.catch_warnings` is
    """Neither the tracer's warnings of what it takes for fixed, which is compared, nor the exporters' progress."""

    def __enter__(self) -> Any:
        logging.disable(logging.WARNING)
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered

    def __exit__(self, *raised: Any) -> None:
        logging.disable(logging.NOTSET)
        super().__exit__(*raised)


# Name on the command line -> file of the bundle, the ways to make it, the best first, and how it is read.
FORMATS: dict[str, tuple[Path, tuple[tuple[str, Callable[..., None]], ...], Callable[[Path], Network]]] = {
    "torchscript": (
        Path("models/model.ts"),
        (("scripting", write_scripted), ("tracing", write_traced)),
        read_torchscript,
    ),
    "onnx": (Path("models/model.onnx"), (("tracing", write_onnx),), read_onnx),
    "torch-export": (Path("models/model.pt2"), (("torch.export", write_exported),), read_exported),
}


def refuse_missing_packages(names: Sequence[str]) -> None:
    """Raise a UserError where a format needs packages that are not installed, before anything is made."""
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxruntime") if "onnx" in names and find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {' and '.join(missing)}: pip install '.[onnx]' in a clone of volssl")
