"""Runs a function in several processes that train together, as `torchrun` would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def on_ranks(function: Callable[..., Any], folder: Path, *arguments: Any, ranks: int = 2, seconds: float = 120) -> list:
    """What `function(rank, *arguments)` returns on each of `ranks` processes; both must be picklable.

    Fails where a process does, or takes longer than `seconds`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_work, args=(function, rank, ranks, port, folder, arguments), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * ranks
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(ranks)]


def _work(function: Callable[..., Any], rank: int, ranks: int, port: int, folder: Path, arguments: tuple) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(value) for name, value in (address | places).items()})
    torch.set_num_threads(1)
    torch.save(function(rank, *arguments), folder / f"rank{rank}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()
