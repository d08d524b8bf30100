"""What the terminal shows while a command works: one progress bar at a time, and plain lines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
SAID = "VOLSSL_SAID"  # in the environment, which processes hand on: hashes of the lines that were said once

# Everything for people goes to stderr, so that `--json` on stdout stays clean.
console = Console(stderr=True, highlight=False, soft_wrap=True)


def is_first_process() -> bool:
    """Whether this process is alone, or the first of those that `torchrun` started; asked without loading torch."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, *, every_rank: bool = False) -> None:
    """Print one line for the user; brackets in it are text, not markup.

    Of several processes that `torchrun` started the first alone speaks, but for what must be heard from any.
    """
    if every_rank or is_first_process():
        console.print(text, markup=False)


def say_once(text: str) -> None:
    """Print a line that a command comes upon several times, in processes that it starts as well."""
    mark, said = hashlib.sha256(text.encode()).hexdigest()[:16], os.environ.get(SAID, "").split()
    if mark not in said:
        os.environ[SAID] = " ".join([*said, mark])
        say(text)


def counted(n: int, what: str) -> str:
    """`1 volume`, `2 volumes`, `2,000 studies`."""
    several = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{n:,} {what if n == 1 else several}"


def bar() -> Progress:
    """A progress bar with a count, the time gone by and the time left; hidden where the output is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `items` under a progress bar."""
    with bar() as progress:
        yield from progress.track(items, description=description, total=total)


def counting(items: Iterable[T], description: str) -> Iterator[T]:
    """Yield from `items`, of which nobody knows how many there are, under a spinner with a running count."""
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        for item in items:
            yield item
            progress.advance(task)
