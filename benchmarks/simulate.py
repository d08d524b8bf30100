"""Time to simulate a head, and how far five simple rules and the paper's network get on the default cohort.

    python benchmarks/simulate.py      # about 7 minutes on two quiet cores

The cohort is meant to be hard for a threshold and learnable by a network: the best rule must stay under an AUC of .75,
the network trained from scratch on 800 volumes must reach .85 on 1,000 fresh ones, and clearly less on 80.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from volssl.encoders import PaperDenseNet
from volssl.heads import TaskNetwork
from volssl.simulate.head_ct import TYPES, Head, simulate_head
from volssl.tasks.hemorrhage import Hemorrhage
from volssl.transforms.head_box import head_box

TASK = Hemorrhage(grid=(48, 56, 20), extent_mm=(168.0, 196.0, 140.0), weights=(1.0, 1.0, 2.0))
RULES = ("maximum", "voxels over 50 HU", "voxels over 60 HU", "voxels over 70 HU", "largest part over 55 HU")
MARGINS_MM = (0.0, 3.0, 6.0)  # how far from the bone a rule looks; the margin that suits it best is taken
FRESH = 1_000_000  # the seed of the first test volume; those of training start at 0


@dataclass(frozen=True)
class Study:
    """What is kept of a simulated volume: the network's input, its targets, and the rules' scores."""

    image: Tensor  # (1, *grid), uint8
    targets: Tensor  # (1 + 5 + slices,)
    scores: np.ndarray  # (2 * margins, rules)
    seconds: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--train", type=int, default=800, help="labelled volumes of the larger training set")
    options.add_argument("--few", type=int, default=80, help="labelled volumes of the smaller one")
    options.add_argument("--test", type=int, default=1000, help="fresh volumes")
    options.add_argument("--steps", type=int, default=2400, help="with all labels; a third of it with few")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--spacing", type=float, default=3.0, help="mm in plane of the simulated volumes")
    options.add_argument("--slice", type=float, default=6.5, help="their slice thickness in mm")
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args()
    keep_memory()
    time_volumes()
    start = time.perf_counter()
    make = partial(study, spacing_mm=chosen.spacing, slice_mm=chosen.slice)
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        training = pool.map(make, range(chosen.train), chunksize=8)
        fresh = pool.map(make, range(FRESH, FRESH + chosen.test), chunksize=8)
    print(f"simulated {len(training) + len(fresh)} volumes in {time.perf_counter() - start:.0f} s")
    report_rules(fresh)
    torch.set_num_threads(chosen.workers)
    for count, steps in ((chosen.train, chosen.steps), (chosen.few, chosen.steps // 3)):
        report_network(training[:count], fresh, steps=steps, batch=chosen.batch)


def keep_memory() -> None:
    """Have glibc keep freed memory: fetching fresh pages for every layer takes a third of a step on some machines."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def time_volumes() -> None:
    """Print the time a volume on one core, at the paper's grid and at the demo's."""
    for name, spacing_mm, slice_mm in (("paper's", 0.875, 3.5), ("demo's", 3.5, 7.0), ("default", 0.9, None)):
        seconds = []
        for seed in range(6):
            start = time.process_time()
            head = simulate_head(seed, spacing_mm=spacing_mm, slice_mm=slice_mm)
            seconds.append(time.process_time() - start)
        shape = "×".join(str(n) for n in head.hu.shape)
        print(f"time a volume, {name} spacing ({shape}): {np.median(seconds):.2f} s on one core")


def study(seed: int, *, spacing_mm: float, slice_mm: float) -> Study:
    """Simulate one volume of the default cohort and keep what the two contests need."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    head = simulate_head(seed, spacing_mm=spacing_mm, slice_mm=slice_mm)
    seconds = time.perf_counter() - start
    image, info = head_box(
        head.hu[None], head.spacing_mm, grid=TASK.grid, extent_mm=TASK.extent_mm, window_hu=TASK.window_hu
    )
    labels = {"hemorrhage": int(bool(head.types)), **{kind: int(kind in head.types) for kind in TYPES}}
    targets = TASK.targets(pd.Series({**labels, "slice_indices": head.slices or None}), info)
    scores = np.array([rules(head, inside) for inside in insides(head)])
    return Study((image * 255).round().to(torch.uint8), targets, scores, seconds)


def insides(head: Head) -> list[np.ndarray]:
    """The inside of the skull, from the truth and from the image's own bone, each at three distances from the bone."""
    bone = head.hu > 250
    reach = max(1, round(4 / head.spacing_mm[0]))
    padded = np.pad(bone, ((reach, reach), (reach, reach), (0, 0)))
    disk = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), reach)[:, :, None]
    closed = ndimage.binary_closing(padded, disk)[reach:-reach, reach:-reach]
    filled = np.stack([ndimage.binary_fill_holes(closed[:, :, s]) for s in range(bone.shape[2])], axis=2)
    found = filled & ~ndimage.binary_dilation(bone, np.ones((3, 3, 1)))
    places = []
    for inside in (head.cavity, found):
        for margin_mm in MARGINS_MM:
            steps = round(margin_mm / head.spacing_mm[0])
            places.append(ndimage.binary_erosion(inside, np.ones((3, 3, 1)), iterations=steps) if steps else inside)
    return places


def rules(head: Head, inside: np.ndarray) -> list[float]:
    """The five rules' scores of one volume."""
    values = head.hu[inside]
    if not values.size:
        return [0.0] * len(RULES)
    parts, count = ndimage.label((head.hu > 55) & inside)
    largest = np.bincount(parts.ravel())[1:].max() if count else 0
    return [float(values.max()), *(float((values > hu).sum()) for hu in (50, 60, 70)), float(largest)]


def report_rules(fresh: list[Study]) -> None:
    """Print each rule's AUC, with the inside and the margin that suit it best."""
    truth = [float(item.targets[0]) for item in fresh]
    scores = np.stack([item.scores for item in fresh])  # (N, insides, rules)
    areas = [[roc_auc_score(truth, scores[:, i, k]) for i in range(scores.shape[1])] for k in range(len(RULES))]
    for name, values in zip(RULES, areas, strict=True):
        print(f"rule {name}: AUC {max(values):.3f}")
    print(f"best rule: AUC {np.max(areas):.3f} on {len(fresh)} fresh volumes, {np.mean(truth):.0%} of them positive")


def report_network(training: list[Study], fresh: list[Study], *, steps: int, batch: int) -> None:
    """Train the paper's network from scratch and print its AUC on the fresh volumes."""
    start = time.perf_counter()
    network = train(training, steps=steps, batch=batch)
    logits = predict(network, fresh)
    truth = torch.stack([item.targets for item in fresh])
    whole = roc_auc_score(truth[:, 0], logits[:, 0])
    types = ", ".join(f"{k} {roc_auc_score(truth[:, i], logits[:, i]):.2f}" for i, k in enumerate(TYPES, start=1))
    took = time.perf_counter() - start
    print(f"network, {len(training)} labels, {steps} steps of {batch}: AUC {whole:.3f} ({types}) in {took:.0f} s")


def train(training: list[Study], *, steps: int, batch: int, rate: float = 2.5e-3) -> nn.Module:
    """The multi-task network after `steps` of AdamW, warm-up and cosine, bfloat16, flips, shifts and contrast."""
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    network = TaskNetwork(PaperDenseNet(), **TASK.head_sizes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    images = torch.stack([item.image for item in training])
    targets = torch.stack([item.targets for item in training])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 200) * 0.5 * (1 + np.cos(np.pi * step / steps))
        chosen = rng.choice(len(images), batch, replace=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = TASK.loss(network(augment(images[chosen], rng)), targets[chosen])
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
    return network


def augment(images: Tensor, rng: np.random.RandomState) -> Tensor:
    """(B, 1, R, A, S) uint8 -> float32: mirrored left to right by chance, moved a little, another contrast."""
    batch = images.float() / 255
    mirrored = torch.from_numpy(rng.rand(len(batch)) < 0.5)
    batch[mirrored] = batch[mirrored].flip(2)
    batch = torch.roll(batch, (int(rng.randint(-2, 3)), int(rng.randint(-2, 3))), (2, 3))
    contrast, brightness = (torch.from_numpy(rng.uniform(-1, 1, (len(batch), 1, 1, 1, 1))).float() for _ in range(2))
    return (batch * (1 + 0.08 * contrast) + 0.02 * brightness).clamp(0, 1)


@torch.no_grad()
def predict(network: nn.Module, studies: list[Study]) -> Tensor:
    """Logits (N, 1 + 5 + slices)."""
    network.eval()
    images = torch.stack([item.image for item in studies])
    return torch.cat([network(part.float() / 255) for part in images.split(25)])


if __name__ == "__main__":
    main()
