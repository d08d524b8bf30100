"""How many slices of the default brain MR cohort are positive, and how far simple rules and a small network get on it.

    python benchmarks/simulate_brain_mr.py      # about 25 minutes on two quiet cores

The cohort is meant to be hard for a threshold and learnable by a network: the best rule must stay under an AUC of .80
for slices and .70 for studies, and a small 2.5D segmentation network trained from scratch must be well above both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from volssl.simulate.brain_mr import BrainMR, simulate_brain_mr
from volssl.simulate.patient import Site

RULES = ("maximum", "over 1.3", "over 1.5", "over 1.75", "largest part", "parts", "brightest square")
MARGINS_MM = (0.0, 6.0, 12.0)  # from the skull, within which a rule looks; the one that suits it best is taken
BRIGHT = 1.45  # of the brain's median: what parts consist of
BOX_MM = (168.0, 204.0)  # around the cavity, which the network sees
FRESH = 1_000_000  # the seed of the first test study; those of training start at 0
SLAB = 5


@dataclass(frozen=True)
class Study:
    """What is kept of a simulated study."""

    image: Tensor  # (S, A, R) uint8, the median of the brain at 85
    mask: Tensor  # (S, A, R) bool
    slices: np.ndarray  # (S,) bool
    diameters_mm: list[float]
    scores: np.ndarray  # (margins, rules)
    slice_scores: np.ndarray  # (margins, S, rules)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--train", type=int, default=160, help="labelled studies of the larger training set")
    options.add_argument("--few", type=int, default=10, help="labelled studies of the smaller one")
    options.add_argument("--test", type=int, default=200, help="fresh studies")
    options.add_argument("--steps", type=int, default=900, help="of the network, for each training set")
    options.add_argument("--batch", type=int, default=24, help="patches a step")
    options.add_argument("--spacing", type=float, default=1.5, help="mm in plane")
    options.add_argument("--site", default="A", help="of the fresh studies")
    options.add_argument("--workers", type=int, default=2)
    chosen = options.parse_args()
    time_volumes()
    make = partial(study, spacing_mm=chosen.spacing)
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        fresh = pool.map(partial(make, site=chosen.site), range(FRESH, FRESH + chosen.test), chunksize=4)
        report_cohort(fresh)
        report_rules(fresh)
        training = pool.map(partial(make, ruled=False), range(chosen.train), chunksize=4)
    torch.set_num_threads(chosen.workers)
    for count in (chosen.train, chosen.few):
        if count:
            report_network(training[:count], fresh, steps=chosen.steps, batch=chosen.batch)


def time_volumes() -> None:
    """Print the time a study on one core."""
    for name, arguments in (
        ("default", {}),
        ("1 x 1 x 3 mm", {"slice_mm": 3.0}),
        ("1.5 mm, default slices", {"spacing_mm": 1.5}),
        ("1 x 1 x 1 mm", {"slice_mm": 1.0}),
    ):
        seconds = []
        for seed in range(4):
            start = time.process_time()
            scan = simulate_brain_mr(seed, **arguments)
            seconds.append(time.process_time() - start)
        shape = "×".join(str(n) for n in scan.signal.shape)
        print(f"time a study, {name} ({shape}): {np.median(seconds):.2f} s on one core", flush=True)


def study(seed: int, *, spacing_mm: float, site: Site = "A", ruled: bool = True) -> Study:
    """Simulate one study of the default cohort and keep what the contests need."""
    torch.set_num_threads(1)
    scan = simulate_brain_mr(seed, site=site, spacing_mm=spacing_mm)
    square = np.ones((3, 3, 1), bool)
    deep = ndimage.binary_erosion(scan.cavity, square, iterations=round(9 / spacing_mm))
    values = scan.signal / np.float32(np.median(scan.signal[deep]))
    opened = ndimage.grey_opening(values, size=(3, 3, 1))
    whole, by_slice = [], []
    for margin_mm in MARGINS_MM if ruled else ():
        steps = round(margin_mm / spacing_mm)
        inside = ndimage.binary_erosion(scan.cavity, square, iterations=steps) if steps else scan.cavity
        whole.append(rules(values, opened, inside))
        planes = ((values[:, :, k], opened[:, :, k], inside[:, :, k]) for k in range(values.shape[2]))
        by_slice.append([rules(*plane) for plane in planes])
    image, mask = boxed(scan, values)
    present = scan.mask.any(axis=(0, 1))
    sizes = [lesion.diameter_mm for lesion in scan.lesions]
    return Study(image, mask, present, sizes, np.array(whole), np.array(by_slice))


def rules(values: np.ndarray, opened: np.ndarray, inside: np.ndarray) -> list[float]:
    """The rules' scores of a volume or a slice."""
    if not inside.any():
        return [0.0] * len(RULES)
    chosen = values[inside]
    parts, count = ndimage.label((values > BRIGHT) & inside)
    largest = np.bincount(parts.ravel())[1:].max() if count else 0
    counts = [float((chosen > level).sum()) for level in (1.3, 1.5, 1.75)]
    return [float(chosen.max()), *counts, float(largest), float(count), float(opened[inside].max())]


def boxed(scan: BrainMR, values: np.ndarray) -> tuple[Tensor, Tensor]:
    """The box around the cavity's middle, (S, A, R): values as uint8, and the mask."""
    out = []
    middle = np.argwhere(scan.cavity.any(axis=2)).mean(axis=0)
    size = [8 * round(mm / scan.spacing_mm[0] / 8) for mm in BOX_MM]
    for array in (np.clip(values * 85, 0, 255).astype(np.uint8), scan.mask > 0):
        for axis in range(2):
            start = round(middle[axis] - size[axis] / 2)
            array = np.take(array, np.clip(np.arange(start, start + size[axis]), 0, array.shape[axis] - 1), axis)
        out.append(torch.from_numpy(np.ascontiguousarray(array.transpose(2, 1, 0))))
    return out[0], out[1]


def report_cohort(fresh: list[Study]) -> None:
    """Print the shares of positive studies and slices, and how many lesions there are, how large."""
    positive = [item for item in fresh if item.diameters_mm]
    slices = np.concatenate([item.slices for item in fresh])
    counts = [len(item.diameters_mm) for item in positive]
    sizes = np.concatenate([item.diameters_mm for item in positive])
    print(f"{len(fresh)} studies, {len(positive) / len(fresh):.1%} positive; {slices.mean():.1%} of slices positive")
    shares = ", ".join(f"{d:.1f}" for d in np.percentile(sizes, (5, 25, 50, 75, 95)))
    print(f"lesions of a positive study: median {np.median(counts):.0f}, mean {np.mean(counts):.1f}")
    print(f"their diameters, 5th to 95th percentile: {shares} mm", flush=True)


def report_rules(fresh: list[Study]) -> None:
    """Print each rule's AUC for studies and slices, with the margin that suits it best."""
    studies = [bool(item.diameters_mm) for item in fresh]
    slices = np.concatenate([item.slices for item in fresh])
    whole = np.stack([item.scores for item in fresh], axis=1)  # (margins, N, rules)
    planes = np.concatenate([item.slice_scores for item in fresh], axis=1)
    best = []
    for k, name in enumerate(RULES):
        truths = ((studies, whole), (slices, planes))
        pair = [max(roc_auc_score(t, s[m, :, k]) for m in range(len(MARGINS_MM))) for t, s in truths]
        print(f"rule {name}: AUC {pair[0]:.3f} of studies, {pair[1]:.3f} of slices")
        best.append(pair)
    print("best rule: AUC {:.3f} of studies, {:.3f} of slices".format(*np.max(best, axis=0)), flush=True)


def report_network(training: list[Study], fresh: list[Study], *, steps: int, batch: int) -> None:
    """Train the network from scratch and print its AUC on the fresh studies."""
    start = time.perf_counter()
    network = train(training, steps=steps, batch=batch)
    scores = [slice_scores(network, item) for item in fresh]
    slices = roc_auc_score(np.concatenate([item.slices for item in fresh]), np.concatenate(scores))
    studies = roc_auc_score([bool(item.diameters_mm) for item in fresh], [np.sort(s)[-2:].mean() for s in scores])
    took = time.perf_counter() - start
    print(f"network, {len(training)} labels, {steps} steps of {batch}: AUC {studies:.3f} of studies, "
          f"{slices:.3f} of slices in {took:.0f} s", flush=True)  # fmt: skip


class Segmenter(nn.Module):
    """Five slices in, logits of the middle one out: three levels, skips; (B, 5, A, R) -> (B, A, R)."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        self.down = nn.ModuleList([_block(SLAB, a), _block(a, b), _block(b, c)])
        self.up = nn.ModuleList([_block(b + c, b), _block(a + b, a)])
        self.out = nn.Conv2d(a, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](nn.functional.max_pool2d(first, 2))
        deep = self.down[2](nn.functional.max_pool2d(second, 2))
        for block, skip in zip(self.up, (second, first), strict=True):
            deep = block(torch.cat([skip, nn.functional.interpolate(deep, scale_factor=2.0)], dim=1))
        return self.out(deep)[:, 0]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
    return nn.Sequential(*layers)


def train(training: list[Study], *, steps: int, batch: int, rate: float = 3e-3, side: int = 56) -> nn.Module:
    """The network after `steps` of AdamW on patches: by thirds about lesions, bright voxels, and any."""
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    network = Segmenter().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)
    places = [lesion_voxels(training), bright_voxels(training, rng)]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * step / steps))
        images, masks = zip(*(patch(training, places, k % 3, rng, side) for k in range(batch)), strict=True)
        logits = network(torch.stack(images).contiguous(memory_format=torch.channels_last))
        truth = torch.stack(masks).float()
        cross = nn.functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=torch.tensor(3.0))
        seen = torch.sigmoid(logits)
        dice = 1 - (2 * (seen * truth).sum() + 1) / (seen.sum() + truth.sum() + 1)
        optimizer.zero_grad(set_to_none=True)
        (cross + dice).backward()
        optimizer.step()
    return network.eval()


def lesion_voxels(training: list[Study]) -> np.ndarray:
    """(N, 4): study, S, A, R of lesion voxels; as many of each study's at most."""
    rows = []
    for number, item in enumerate(training):
        found = item.mask.nonzero().numpy()
        rows.append(np.c_[np.full(len(found), number), found][:: max(1, len(found) // 150)])
    return np.concatenate(rows)


def bright_voxels(training: list[Study], rng: np.random.RandomState) -> np.ndarray:
    """(N, 4): study, S, A, R of bright voxels that are no lesion's."""
    rows = []
    for number, item in enumerate(training):
        found = ((item.image > 85 * BRIGHT) & ~item.mask).nonzero().numpy()
        rows.append(np.c_[np.full(min(150, len(found)), number), found[rng.permutation(len(found))[:150]]])
    return np.concatenate(rows)


def patch(
    training: list[Study], places: list[np.ndarray], kind: int, rng: np.random.RandomState, side: int
) -> tuple[Tensor, Tensor]:
    """A slab (5, side, side) with its middle slice's mask: about a lesion, a bright voxel, or anywhere; mirrored."""
    if kind < 2:
        number, s, a, r = places[kind][rng.randint(len(places[kind]))]
    else:
        number = rng.randint(len(training))
        s, a, r = (rng.randint(n) for n in training[number].image.shape)
    item = training[number]
    a, r = (int(np.clip(at - rng.randint(side // 4, 3 * side // 4), 0, n - side))
            for at, n in ((a, item.image.shape[1]), (r, item.image.shape[2])))  # fmt: skip
    image = slab(item.image[:, a : a + side, r : r + side], s) * (1 + 0.1 * float(rng.uniform(-1, 1)))
    mask = item.mask[s, a : a + side, r : r + side]
    return (image.flip(2), mask.flip(1)) if rng.rand() < 0.5 else (image, mask)


def slab(image: Tensor, middle: int) -> Tensor:
    """(S, A, R) uint8 -> the five slices about one, the outermost repeated, float with the brain about 1."""
    at = torch.arange(middle - SLAB // 2, middle + SLAB // 2 + 1).clamp(0, len(image) - 1)
    return image[at].float() / 85


@torch.no_grad()
def slice_scores(network: nn.Module, item: Study) -> np.ndarray:
    """(S,): the mean logit of each slice's four most suspect voxels."""
    slabs = torch.stack([slab(item.image, k) for k in range(len(item.image))])
    logits = torch.cat([network(part.contiguous(memory_format=torch.channels_last)) for part in slabs.split(16)])
    return np.asarray(logits.flatten(1).topk(4, dim=1).values.mean(dim=1))


if __name__ == "__main__":
    main()
