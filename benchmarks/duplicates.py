"""How well near-duplicates are told from other patients, and what hashing and searching cost.

    python benchmarks/duplicates.py      # about 1 minute on one quiet core; times are of the processor

All volumes are simulated heads at 3 mm; simulated patients may be more alike, or less, than real ones.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from volssl.data.checks import foreground
from volssl.data.duplicates import BITS, RADIUS, RADIUS_OTHER_PATIENT, near_pairs, perceptual_hash
from volssl.simulate.head_ct import simulate_head

SPACING_MM = (3.0, 3.0, 3.0)
SECOND = 100_000  # added to a patient's seed: the same anatomy at another pose, with other lesions, dose and noise

Variant = tuple[np.ndarray, tuple[float, float, float]]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--patients", type=int, default=420)
    options.add_argument("--varied", type=int, default=40, help="patients of whom variants are made")
    options.add_argument("--hashes", type=int, default=25_000, help="random hashes to search; a million takes minutes")
    chosen = options.parse_args()
    first = [head(seed) for seed in range(chosen.patients)]
    hashes = np.array([bits(hu, SPACING_MM) for hu in first])
    report_patients(hashes)
    report_second_scans(hashes[:60])
    report_variants(first[: chosen.varied], hashes)
    time_hash()
    time_search(chosen.hashes)


def head(seed: int, patient: int | None = None) -> np.ndarray:
    site = "AB"[(seed if patient is None else patient) % 2]
    return simulate_head(seed, site=site, spacing_mm=3.0, slice_mm=3.0, patient_seed=patient).hu


def bits(hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    text = perceptual_hash(hu, spacing_mm, foreground(hu, "CT"), "CT")
    if text is None:
        raise RuntimeError("a simulated head has no hash")
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))


def report_patients(hashes: np.ndarray) -> None:
    """Print how far different patients are, and how many pairs of them the radius would join."""
    ones = hashes.astype(np.float32)
    apart = ones @ (1 - ones).T
    pairs = (apart + apart.T)[np.triu_indices(len(hashes), 1)].astype(int)
    tail = ", ".join(f"{share:g}: {np.quantile(pairs, share):.0f}" for share in (1e-5, 1e-4, 1e-3))
    print(f"{len(pairs):,} pairs of {len(hashes)} different simulated patients, {BITS} bits, radius {RADIUS}:")
    print(f"  nearest {pairs.min()}, mean {pairs.mean():.0f}, share of pairs within ({tail}) bits")
    print(f"  false pairs: {(pairs <= RADIUS).sum()}")


def report_second_scans(hashes: np.ndarray) -> None:
    """Print how far a second scan of a patient, some degrees and mm away, is from the first."""
    apart = [int((bits(head(SECOND + i, patient=i), SPACING_MM) != first).sum()) for i, first in enumerate(hashes)]
    print(f"{len(apart)} second scans of a patient: nearest {min(apart)}, median {np.median(apart):.0f} bits; ", end="")
    print(f"{sum(bit <= RADIUS for bit in apart)} taken for the same acquisition")


def report_variants(first: list[np.ndarray], hashes: np.ndarray) -> None:
    """Print for each kind of variant the bits that differ and the share found."""
    apart: dict[str, list[int]] = defaultdict(list)
    for seed, hu in enumerate(first):
        for name, (array, spacing_mm) in variants(hu, seed).items():
            apart[name].append(int((bits(array, spacing_mm) != hashes[seed]).sum()))
    for name, values in apart.items():
        found, strict = (np.mean(np.array(values) <= limit) for limit in (RADIUS, RADIUS_OTHER_PATIENT))
        print(f"  {name:<32} mean {np.mean(values):5.1f}, most {max(values):3d} bits, found {found:.0%}", end="")
        print(f" ({strict:.0%} where two patients are named)")
    pooled = np.concatenate([np.array(values) for values in apart.values()])
    print(f"variants found: {(pooled <= RADIUS).mean():.1%} of {len(pooled)}")


def variants(hu: np.ndarray, seed: int) -> dict[str, Variant]:
    """The same acquisition as other reconstructions and exports would have it, each with its voxel size."""
    rng, image = np.random.RandomState(seed), hu.astype(np.float32)
    r, a, s = SPACING_MM
    even = image[:, :, : hu.shape[2] // 2 * 2]
    blurred, wide = (ndimage.gaussian_filter(image, [voxels, voxels, 0]) for voxels in (0.6, 0.8))
    made = {
        "kernel: softer, noise 5 HU": noisy(blurred, rng, 5),
        "kernel: sharper, noise 20 HU": noisy(2 * image - blurred, rng, 20),
        "kernel: much sharper, 20 HU": noisy(2.5 * image - 1.5 * wide, rng, 20),
        "export: rounded by 1 HU": noisy(image, rng, 0.6),
        "export: moved by half a voxel": noisy(
            ndimage.shift(image, rng.uniform(-0.5, 0.5, 3), order=1, mode="nearest"), rng, 0
        ),
        "tilted by 1 degree": noisy(tilted(image, 1.0), rng, 0),
        "padded by air": np.pad(hu, ((10, 6), (3, 12), (2, 3)), constant_values=-1024),
    }
    for percent in (3, 5, 8):
        i, j, k = (max(1, round(n * percent / 100)) for n in hu.shape)
        made[f"cropped in plane, {percent} % a side"] = hu[i:-i, j:-j]
        made[f"cropped below, {percent} %"] = hu[:, :, k:]
        made[f"cropped below and above, {percent} %"] = hu[:, :, k:-k]
    scaled = {name: (array, SPACING_MM) for name, array in made.items()}
    scaled["thickness: 6 mm"] = (noisy((even[:, :, ::2] + even[:, :, 1::2]) / 2, rng, 8), (r, a, 2 * s))
    thick = ndimage.zoom(image, (1, 1, 0.6), order=1, grid_mode=True, mode="nearest")
    scaled["thickness: 5 mm"] = (noisy(thick, rng, 8), (r, a, s * hu.shape[2] / thick.shape[2]))
    fine = ndimage.zoom(image, (1.31, 1.31, 1), order=1, grid_mode=True, mode="nearest")
    scaled["matrix: 1.31 times as fine"] = (
        noisy(fine, rng, 10),
        (r * hu.shape[0] / fine.shape[0], a * hu.shape[1] / fine.shape[1], s),
    )
    return scaled


def noisy(image: np.ndarray, rng: np.random.RandomState, std_hu: float) -> np.ndarray:
    return np.clip(np.rint(image + rng.normal(0, std_hu, image.shape)), -1024, 3071).astype(np.int16)


def tilted(image: np.ndarray, degrees: float) -> np.ndarray:
    turn = Rotation.from_euler("x", degrees, degrees=True).as_matrix()
    center = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(image, turn, center - turn @ center, order=1, mode="nearest")


def time_hash() -> None:
    """Print the median time of one hash on one thread."""
    array = np.random.RandomState(0).randint(-1000, 300, (512, 512, 108)).astype(np.int16)
    for spacing_mm in ((0.45, 0.45, 1.5), (0.9, 0.9, 3.0)):
        seconds = []
        for _ in range(9):
            start = time.process_time()
            perceptual_hash(array, spacing_mm, ((0, 512), (0, 512), (0, 108)), "CT")
            seconds.append(time.process_time() - start)
        print(f"hashing 512×512×108 voxels of {spacing_mm[0]} mm: {1000 * np.median(seconds):.0f} ms")


def time_search(count: int) -> None:
    """Print the time to search random hashes, as sparse as those of heads, by both ways, and for ten that are added."""
    words = np.packbits(np.random.RandomState(0).rand(count, BITS) < 0.25, axis=1).view(np.uint64)
    everyone, ten = np.ones(count, bool), np.arange(count) < 10
    for name, wanted, scan_max in (("bands", everyone, 0), ("one by one", everyone, 10**15), ("ten new", ten, 10**15)):
        if name == "one by one" and count > 50_000:
            continue
        start = time.process_time()
        near_pairs(words, wanted, RADIUS, scan_max=scan_max)
        print(f"searching {count:,} random hashes, {name}: {time.process_time() - start:.2f} s")


if __name__ == "__main__":
    main()
