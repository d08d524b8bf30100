"""How a store might pack its volumes: codecs, filters, chunks and blocks, on noisy CT and MR, against the chosen ones.

    python benchmarks/layouts.py                       # about two minutes on two quiet cores
    python benchmarks/layouts.py --base SCAN.nii.gz    # on a volume of your own instead of the made CT

Each line is one layout: its share of the voxels' bytes, the time to pack a volume, and the time to open its file and
read a box at a random place, medians; all layouts take turns at every box. `volssl/data/stored_volume.py` says what was
chosen.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import blosc2
import nibabel as nib
import numpy as np
from made import noisy_ct, noisy_mr

from volssl.data.stored_volume import BLOCK_VOXELS, CHUNK_VOXELS, CPARAMS, fitted, open_volume

BOXES = ((96, 96, 96), (64, 64, 64), (192, 224, 40), (512, 512, 5))
Size = tuple[int, int, int]
Layout = tuple[dict[str, Any], Size, Size]
CODECS = (("ZSTD", 1), ("ZSTD", 3), ("ZSTD", 5), ("LZ4", 1), ("LZ4", 5), ("LZ4HC", 5), ("BLOSCLZ", 5))
FILTERS = (("SHUFFLE",), ("BITSHUFFLE",), ("SHUFFLE", "BYTEDELTA"))
BLOCKS = ((16, 16, 16), (32, 32, 8), (32, 32, 16), (32, 32, 32), (16, 16, 32), (64, 64, 16))
CHUNKS = ((64, 64, 32), (128, 128, 32), (128, 128, 128), (256, 256, 32), (512, 512, 128))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--base", type=Path, help="a CT volume to pack instead of the made one")
    options.add_argument("--boxes", type=int, default=20, help="random places a box size")
    chosen = options.parse_args()
    ct = noisy_ct()
    if chosen.base:
        ct = np.rint(np.asarray(nib.as_closest_canonical(nib.load(chosen.base)).dataobj)).astype(np.int16)
    compare("CT", ct, chosen.boxes, [*codecs(ct.itemsize), *shapes()])
    compare("MR", noisy_mr(), chosen.boxes, codecs(4))


def codecs(itemsize: int) -> list[Layout]:
    """The codecs with each filter, in the chosen chunks and blocks."""
    return [
        (packing(codec, level, filters, itemsize), CHUNK_VOXELS, BLOCK_VOXELS)
        for codec, level in CODECS
        for filters in FILTERS
    ]


def shapes() -> list[Layout]:
    """Chunks and blocks, with the chosen codec."""
    return [(CPARAMS, CHUNK_VOXELS, block) for block in BLOCKS] + [(CPARAMS, chunk, BLOCK_VOXELS) for chunk in CHUNKS]


def packing(codec: str, level: int, filters: tuple[str, ...], itemsize: int) -> dict[str, Any]:
    """Parameters of blosc2; its delta filter works on whole chunks alone, which a box does not read."""
    return {
        "codec": blosc2.Codec[codec],
        "clevel": level,
        "filters": [blosc2.Filter[name] for name in filters],
        "filters_meta": [itemsize if name == "BYTEDELTA" else 0 for name in filters],
        "nthreads": 1,
    }


def compare(name: str, array: np.ndarray, boxes: int, layouts: list[Layout]) -> None:
    """Print a line for each layout of one volume."""
    print(f"\n{name} {array.shape}, {array.dtype}; milliseconds, files in the page cache")
    sizes = "".join(f"{'×'.join(map(str, size)):>12}" for size in BOXES)
    print(f"{'codec':10} {'filters':18} {'chunk':>14} {'block':>13} {'bytes':>7} {'pack':>6}{sizes}")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.b2nd" for index in range(len(layouts))]
        packed = [pack(array, layout, file) for layout, file in zip(layouts, files, strict=True)]
        times = read(array, files, boxes)
    for (cparams, chunk, block), (share, pack_ms), read_ms in zip(layouts, packed, times, strict=True):
        filters = "+".join(one.name.lower() for one in cparams["filters"])
        mark = "*" if (cparams, chunk, block) == (CPARAMS, CHUNK_VOXELS, BLOCK_VOXELS) else " "
        codec = f"{cparams['codec'].name.lower()} {cparams['clevel']}{mark}"
        figures = f"{share:7.1%} {pack_ms:6.0f}" + "".join(f"{one:12.2f}" for one in read_ms)
        print(f"{codec:10} {filters:18} {'×'.join(map(str, chunk)):>14} {'×'.join(map(str, block)):>13} {figures}")


def pack(array: np.ndarray, layout: Layout, file: Path) -> tuple[float, float]:
    """Write a volume: its share of the bytes, and the median time in ms of three."""
    cparams, chunk, block = layout
    chunks = fitted(array.shape, chunk)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        data = blosc2.asarray(array, chunks=chunks, blocks=fitted(chunks, block), cparams=cparams).to_cframe()
        times.append(time.perf_counter() - start)
    file.write_bytes(data)
    return len(data) / array.nbytes, 1000 * statistics.median(times)


def read(array: np.ndarray, files: list[Path], boxes: int) -> list[list[float]]:
    """The median time in ms to read boxes of each size from each file."""
    rng = np.random.RandomState(0)
    medians: list[list[float]] = [[] for _ in files]
    for size in BOXES:
        times: list[list[float]] = [[] for _ in files]
        for _ in range(boxes):
            low = [rng.randint(max(1, n - side + 1)) for n, side in zip(array.shape, size, strict=True)]
            where = tuple(slice(a, min(a + side, n)) for a, side, n in zip(low, size, array.shape, strict=True))
            for file, mine in zip(files, times, strict=True):
                start = time.perf_counter()
                open_volume(file)[where]
                mine.append(time.perf_counter() - start)
        for median, mine in zip(medians, times, strict=True):
            median.append(1000 * statistics.median(mine))
    return medians


if __name__ == "__main__":
    main()
