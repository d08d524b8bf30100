"""How one volume lies on the disk: compressed, in a file of its own, of which only the blocks asked for are decoded.

How volumes are laid out was chosen with `python benchmarks/layouts.py`, on noisy CT of 512×512×108 and noisy MR:

- **LZ4 with bitshuffle** decodes a 96³ crop of CT in 0.6 and of MR in 0.4 of the time that zstd takes, and packs
  faster, for 3 to 9 % more disk: 37 to 53 % of the bytes of noisy CT. Higher levels only write slower.
- **Blocks of 32×32×16** are what one decompression yields. Longer ones along S read cubes a tenth faster and five
  slices half as fast; flatter ones the other way round.
- **Chunks of 128×128×32** are what blosc2 handles at once. Those of 64×64×32 take longer to write, larger ones gain
  nothing, and a reader needs room for one.
"""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path

import blosc2
import numpy as np

from volssl.errors import UserError
from volssl.files import write_bytes

VOLUMES = "volumes"  # the folder of a store that holds them
CHUNK_VOXELS = (128, 128, 32)
BLOCK_VOXELS = (32, 32, 16)
OPEN_FILES = 64  # in each process; they are mapped, so they take addresses and no memory
CPARAMS = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 1,
    "filters": [blosc2.Filter.BITSHUFFLE],
    "filters_meta": [0],
    "nthreads": 1,  # the same bytes each time
}
# What blosc2 raises for a file that is cut or overwritten, by where the damage lies.
DAMAGE = (RuntimeError, ValueError, KeyError, TypeError, SyntaxError, OverflowError, OSError)


def volume_path(store: Path, volume_id: str) -> Path:
    """Where a volume lies in its store."""
    return store / VOLUMES / f"{volume_id}.b2nd"


def write_volume(store: Path, volume_id: str, array: np.ndarray, *, affine: np.ndarray, modality: str) -> None:
    """Compress (R, A, S) into the store: a file that is there is whole.

    It is not synced: `Ledger.fold` does that for all, when most are on the disk already, and after a power cut looks
    which are whole.

    Raises:
        UserError: the disk is full; nothing is left behind.
    """
    write_bytes(volume_path(store, volume_id), packed(array, affine=affine, modality=modality), sync=False)


def open_volume(path: Path) -> blosc2.NDArray:
    """A volume's file, mapped; decoding runs on one thread, as beside it other workers decode.

    The last files stay open: opening costs a quarter of a crop, and views read several boxes of one volume. Each thread
    of each process has its own, and a replaced file is another one.

    Raises:
        DAMAGE: one of these, where the file is missing or damaged.
    """
    found = path.stat()
    return _mapped(str(path), (found.st_dev, found.st_ino, found.st_mtime_ns, os.getpid(), threading.get_ident()))


def is_whole(path: Path) -> bool:
    """Whether a volume's file is there and ends as it should; its voxels are not looked at."""
    try:
        open_volume(path)
    except DAMAGE:
        return False
    return True


def unreadable(path: Path, error: Exception) -> UserError:
    """What to tell of a volume's file that could not be read."""
    if isinstance(error, FileNotFoundError):
        found = "missing"
    else:
        found = f"not readable ({error.strerror})" if isinstance(error, OSError) else "damaged"
    return UserError(f"{path.stem}: its file is {found}; `volssl check {path.parent.parent}` names every such volume")


def packed(array: np.ndarray, *, affine: np.ndarray, modality: str) -> bytes:
    """The bytes of a volume's file, the same each time: (R, A, S) compressed.

    Affine, spacing and modality stand in the file as well (`vlmeta`), so that it can be read alone.
    """
    chunks = fitted(array.shape, CHUNK_VOXELS)
    volume = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=chunks,
        blocks=fitted(chunks, BLOCK_VOXELS),
        cparams=CPARAMS,
        contiguous=False,  # a frame that grows with each chunk is moved in memory again and again
    )
    volume.schunk.vlmeta["affine"] = affine.ravel().tolist()
    volume.schunk.vlmeta["spacing_mm"] = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    volume.schunk.vlmeta["modality"] = modality
    frame: bytes = volume.to_cframe()
    return frame


def fitted(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    """Parts of nearly the target's size that divide each axis evenly, so that no thin rest is left."""
    return tuple(-(-n // max(1, round(n / size))) for n, size in zip(shape, target, strict=True))


@lru_cache(maxsize=OPEN_FILES)
def _mapped(path: str, whose: tuple[int, ...]) -> blosc2.NDArray:  # noqa: ARG001 - keeps files and threads apart
    stored = blosc2.open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
    if type(stored) is not blosc2.NDArray:  # some of its other kinds of file compute what they hold
        raise ValueError(f"{path} holds no array")
    return stored
