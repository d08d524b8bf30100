"""Headers of many slices in little memory: pickled together, so that what they share is there once, and compressed.

A header takes 1300 bytes as an object and 60 packed: an archive of a million slices fits into a process beside its
volumes.
"""

from __future__ import annotations

import pickle
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from volssl.data.dicom.headers import Header

LOOSE_MAX = 20_000  # headers that are kept as they are: 30 MB
Key = tuple[str, ...]


def pack(headers: Sequence[Header]) -> bytes:
    """Headers as bytes, which a process may hand to another one."""
    return zlib.compress(pickle.dumps(headers, pickle.HIGHEST_PROTOCOL), 1)


def unpack(packed: bytes) -> tuple[Header, ...]:
    """The headers that `pack` was given."""
    return tuple(pickle.loads(zlib.decompress(packed)))


class Piles:
    """Headers laid on piles, one a key; taken back pile by pile."""

    def __init__(self, *, loose_max: int = LOOSE_MAX) -> None:
        self._loose: dict[Key, list[Header]] = defaultdict(list)
        self._packed: dict[Key, list[bytes]] = defaultdict(list)
        self._room, self._loose_max = loose_max, loose_max

    def lay(self, key: Key, header: Header) -> None:
        """Put a header on its pile."""
        self._loose[key].append(header)
        self._room -= 1
        if self._room <= 0:
            for one, headers in self._loose.items():
                self._packed[one].append(pack(headers))
            self._loose.clear()
            self._room = self._loose_max

    def take(self) -> Iterator[list[Header]]:
        """Every pile in the order of the keys, its headers in the order in which they came; none is kept."""
        for key in sorted({*self._loose, *self._packed}):
            packed = self._packed.pop(key, [])
            yield [*(header for part in packed for header in unpack(part)), *self._loose.pop(key, [])]
