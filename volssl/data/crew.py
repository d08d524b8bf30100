"""Work in parallel processes, in order, in bounded memory, and outliving a worker that a damaged file kills."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import SimpleITK

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # items a worker may be ahead of the one whose result is awaited


class CrashError(Exception):
    """A worker process died over an item, twice."""


class Crew:
    """Processes that map a function over items; with no worker, the caller's own process does it."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | CrashError]:
        """Yield the results in the order of the items; a `CrashError` where an item kills whoever works on it."""
        if not self._workers:
            for item in items:
                yield function(item)
            return
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, self._submit(function, item)))
            if len(pending) >= AHEAD * self._workers:
                outcome = self._next(function, pending)
                yield outcome
        while pending:
            outcome = self._next(function, pending)
            yield outcome

    def close(self) -> None:
        """Let the workers end what they are at, and go."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, function: Callable[[T], R], item: T) -> Future[R]:
        for _ in range(2):
            self._pool = self._pool or _pool(self._workers)
            try:
                return self._pool.submit(function, item)
            except BrokenProcessPool:
                self._pool = None
        raise CrashError("worker processes die before they begin")

    def _next(self, function: Callable[[T], R], pending: deque[tuple[T, Future[R]]]) -> R | CrashError:
        item, future = pending.popleft()
        try:
            return future.result()
        except BrokenProcessPool:  # this item or one beside it: alone it will show
            with _pool(1) as alone:
                try:
                    return alone.submit(function, item).result()
                except BrokenProcessPool:
                    return CrashError("the process that read it died")


@contextmanager
def crew(workers: int) -> Iterator[Crew]:
    """A crew of `workers` processes, sent home at the end."""
    one = Crew(workers)
    try:
        yield one
    finally:
        one.close()


def quiet_libraries() -> None:
    """One thread, and no warnings on the terminal: they hold paths, and a line a file."""
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)


def _pool(workers: int) -> ProcessPoolExecutor:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["volssl.data.preparation"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """In a worker: leave an interrupt to the parent, and go when the parent is gone, even killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_go_with_parent, daemon=True).start()
    quiet_libraries()


def _go_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
