"""The gradient of a batch, of all ranks, also where its parts run through the network one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from volssl.engine.distributed import gather_rows, own_rows
from volssl.methods.base import Batch, Losses, Method

Autocast = Callable[[], AbstractContextManager[object]]
Scale = Callable[[Tensor], Tensor]


def backward(method: Method, batch: Batch, *, parts: int, autocast: Autocast, scale: Scale) -> Losses:
    """Add the gradient of the batch's loss to the parameters'.

    Where samples are independent, the loss is the mean of the parts' losses, each by its number of samples. Where they
    meet in the loss, it is that of the whole batch, of all ranks: what one pass over it would give, but for batch
    statistics, which are of a part, and for what is drawn while embedding, such as dropout.

    Args:
        method: in training mode.
        batch: (B, ...) each, on the method's device.
        parts: how many the batch is cut into; memory for one part is needed at a time.
        autocast: makes the context of every pass of the network.
        scale: of the loss before its gradient is taken.

    Returns:
        The losses, without gradient; on each rank its own where samples are independent.
    """
    pieces = split(batch, parts)
    if not method.couples_samples:
        return _one_after_the_other(method, pieces, autocast, scale)
    if parts == 1:
        return _at_once(method, batch, autocast, scale)
    return _in_two_passes(method, pieces, autocast, scale)


def split(batch: Batch, parts: int) -> list[dict[str, Tensor]]:
    """A batch cut into parts of equal size, or nearly."""
    cut = {name: torch.tensor_split(value, parts) for name, value in batch.items()}
    return [{name: pieces[part] for name, pieces in cut.items()} for part in range(parts)]


def _one_after_the_other(method: Method, pieces: Sequence[Batch], autocast: Autocast, scale: Scale) -> Losses:
    total, mean = sum(map(samples, pieces)), Losses()
    for piece in pieces:
        with autocast():
            losses = method(piece)
        share = samples(piece) / total
        torch.autograd.backward(scale(losses["loss"] * share))
        mean = {name: mean.get(name, 0) + value.detach() * share for name, value in losses.items()}
    return mean


def _at_once(method: Method, batch: Batch, autocast: Autocast, scale: Scale) -> Losses:
    with autocast():
        losses = method.losses({name: gather_rows(rows) for name, rows in method.embed(batch).items()})
    torch.autograd.backward(scale(losses["loss"]))
    return detached(losses)


def _in_two_passes(method: Method, pieces: Sequence[Batch], autocast: Autocast, scale: Scale) -> Losses:
    """The gradient on all rows first, then that of the network, a part at a time (GradCache, Gao et al. 2021).

    The second pass draws what the first drew, and batch statistics are counted in the second alone.
    """
    device = next(iter(pieces[0].values())).device
    draws, made = [], []
    with torch.no_grad(), unchanged_statistics(method):
        for piece in pieces:
            draws.append(random_state(device))
            with autocast():
                made.append(method.embed(piece))
    rows = {name: torch.cat([part[name] for part in made]) for name in made[0]}
    joined = {name: gather_rows(value).detach() for name, value in rows.items()}
    leaves = {name: value.requires_grad_(value.is_floating_point()) for name, value in joined.items()}
    with autocast():
        losses = method.losses(leaves)
    torch.autograd.backward(scale(losses["loss"]))
    after = random_state(device)
    slopes = {name: own_rows(leaf.grad, rows[name]) for name, leaf in leaves.items() if leaf.grad is not None}
    cut = {name: torch.split(slope, [len(part[name]) for part in made]) for name, slope in slopes.items()}
    for place, piece in enumerate(pieces):
        set_random_state(device, draws[place])
        with autocast():
            again = method.embed(piece)
        names = [name for name in cut if again[name].requires_grad]
        torch.autograd.backward([again[name] for name in names], [cut[name][place] for name in names])
    set_random_state(device, after)
    return detached(losses)


def samples(batch: Batch) -> int:
    """How many there are in a batch."""
    return len(next(iter(batch.values())))


def detached(losses: Mapping[str, Tensor]) -> Losses:
    """The losses without gradient."""
    return {name: value.detach() for name, value in losses.items()}


@contextmanager
def unchanged_statistics(network: nn.Module) -> Iterator[None]:
    """Put the running statistics of normalisation layers back to what they were before."""
    layers = [module for module in network.modules() if isinstance(module, _NormBase)]
    buffers = [buffer for layer in layers for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    yield
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Of torch's generators, on the CPU and on a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    """Draw from here on as from where `random_state` was asked."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
