"""Work in parallel processes, in order, in bounded memory, outliving a worker that a damaged file kills or hangs."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import SimpleITK

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4  # items a worker may be ahead of the one whose result is awaited
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
LIMIT_S = 900.0  # after which an item is given up: far more than the largest volume takes from a slow network drive


class CrashError(Exception):
    """A worker process died over an item, twice, or did not come to an end with it."""


@dataclass(frozen=True)
class Timed(Generic[T, R]):
    """A function whose process is ended when it takes too long: no library's loop can hold up the rest."""

    function: Callable[[T], R]
    limit_s: float

    def __call__(self, item: T) -> R:
        # A thread of C ends the process: it needs no lock, so no loop in a library can keep it from that.
        faulthandler.dump_traceback_later(self.limit_s, exit=True, file=_nowhere())
        try:
            return self.function(item)
        finally:
            faulthandler.cancel_dump_traceback_later()


class Crew:
    """Processes that map a function over items; with no worker, the caller's own process does it.

    Args:
        workers: processes; 0 for none.
        limit_s: seconds an item may take, before its process is ended and it counts as crashed; not held without
            workers.
    """

    def __init__(self, workers: int, *, limit_s: float = LIMIT_S) -> None:
        self._workers, self._limit_s = workers, limit_s
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | CrashError]:
        """Yield the results in the order of the items; a `CrashError` where an item kills whoever works on it."""
        if not self._workers:
            for item in items:
                yield function(item)
            return
        timed = Timed(function, self._limit_s)
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, self._submit(timed, item)))
            if len(pending) >= AHEAD * self._workers:
                outcome = self._next(timed, pending)  # a type of its own: mypy widens R in a yield
                yield outcome
        while pending:
            outcome = self._next(timed, pending)
            yield outcome

    def close(self) -> None:
        """Let the workers end what they are at, and go."""
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, function: Callable[[T], R], item: T) -> Future[R]:
        for _ in range(2):
            self._pool = self._pool or _pool(self._workers)
            try:
                with _without_main():
                    return self._pool.submit(function, item)
            except BrokenProcessPool:
                self._pool = None
        raise CrashError("worker processes die before they begin")

    def _next(self, function: Callable[[T], R], pending: deque[tuple[T, Future[R]]]) -> R | CrashError:
        item, future = pending.popleft()
        try:
            return future.result()
        except BrokenProcessPool:  # this item or one beside it: alone it will show
            start = time.monotonic()
            with _pool(1) as alone, _without_main():
                try:
                    return alone.submit(function, item).result()
                except BrokenProcessPool:
                    if time.monotonic() - start < self._limit_s:
                        return CrashError("the process that read it died")
                    return CrashError(f"it was not done after {self._limit_s:g} seconds")


@contextmanager
def crew(workers: int, *, limit_s: float = LIMIT_S) -> Iterator[Crew]:
    """A crew of `workers` processes, sent home at the end."""
    one = Crew(workers, limit_s=limit_s)
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


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the caller's script: what they run is volssl's own.

    A script without `if __name__ == "__main__":` would else run anew in each of them.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def _begin() -> None:
    """In a worker: leave an interrupt to the parent, go when the parent is gone, even killed, and print nothing.

    C libraries write to the terminal what they think of a damaged file, its path among it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(_nowhere(), 2)
    threading.Thread(target=_go_with_parent, daemon=True).start()
    quiet_libraries()
    _keep_memory()
    gc.freeze()  # what was imported is never garbage


def _keep_memory() -> None:
    """What one volume frees the next one takes: memory that the kernel clears anew costs a quarter of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of the GNU C library, which alone has it
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


@cache
def _nowhere() -> int:
    """A descriptor that swallows what is written to it."""
    return os.open(os.devnull, os.O_WRONLY)


def _go_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
