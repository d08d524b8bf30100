"""The paper's pretraining on one GPU, from made-up crops: memory, time a step, GPU days, and what half precision gains.

    python benchmarks/gpu.py                        # minutes; where there is no GPU it says so
    python benchmarks/gpu.py --quick --device cpu   # small crops, few steps, nothing compiled: to see that it runs

What is timed is the step that training takes: SwAV as in Table 1 of Ghesu et al. 2022 (4 volumes a GPU, one crop of
224×224×192 and four of 112×112×96 voxels, 1500 prototypes, a full queue of 1920) on the paper's network. The variants
take turns; medians. The share of time that the device waits for data is measured with the views of the preset `paper`,
energy bands and all, of made-up scans in memory: it says what the views cost on this machine's cores, not what its disk
does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from volssl.bundle.config import bundle_config, read_config, resolved
from volssl.bundle.shipped import PRETRAINING
from volssl.data import ViewDataset, step_loader
from volssl.encoders import PaperDenseNet
from volssl.engine import LARC
from volssl.engine.step import train_step
from volssl.engine.trainer import lay_channels_last
from volssl.methods import Progress, SwAV
from volssl.views import MultiCrop
from volssl.views.base import Box
from volssl.views.energies import reference_energies

VOLUMES = 4  # a GPU
COHORT, EPOCHS = 24_440, 100
PAPER_GPU_DAYS = (32 * 6.5, 32 * 14)
CARD_GB = 16  # of the paper
SIZES, SMALL = ((224, 224, 192), (112, 112, 96)), ((48, 48, 32), (24, 24, 16))
SCAN, SMALL_SCAN = (512, 512, 120), (110, 110, 20)  # voxels
SCANS = 4 * VOLUMES
FLOAT32 = "float32"
VARIANTS: dict[str, dict[str, Any]] = {
    FLOAT32: {},
    "float32, recomputing": {"checkpointing": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16 + channels_last_3d": {"precision": "bfloat16", "channels_last": True},
    "bfloat16 + compile": {"precision": "bfloat16", "compiled": True},
    "bfloat16 + channels_last_3d + compile": {"precision": "bfloat16", "channels_last": True, "compiled": True},
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="small crops, few steps, nothing compiled")
    options.add_argument("--device", default="cuda")
    given = options.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU")
        return
    torch.set_float32_matmul_precision("highest")
    sizes, steps, rounds = (SMALL, 2, 2) if given.quick else (SIZES, 5, 3)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {VOLUMES} volumes")
    scans = [MadeUpScan(i, SMALL_SCAN if given.quick else SCAN) for i in range(SCANS)]
    views = paper_views(scans, sizes)
    batch = made_up(views, device)
    print(" + ".join(f"{n} × {cropper.size}" for n, cropper in zip(views.counts, views.croppers, strict=True)))
    chosen = {variant: s for variant, s in VARIANTS.items() if not (given.quick and "compiled" in s)}
    trainings = {variant: Training(device, **settings) for variant, settings in chosen.items()}
    measured = {variant: Measured([], 0.0) for variant in chosen}
    for _ in range(rounds):
        for variant, training in trainings.items():
            measured[variant].add(*timed(training, batch, steps))
    table(measured, device, whole=not given.quick)
    share = waiting(list(trainings.values())[-1], scans, views, device, steps=4 if given.quick else 20)
    print(f"share of time that the device waits for views ({os.cpu_count()} cores): {share:.0%}")


@dataclass
class Measured:
    """Seconds a step of each round, and the most memory of all, in bytes."""

    seconds: list[float]
    memory: float

    def add(self, seconds: float, memory: float) -> None:
        self.seconds.append(seconds)
        self.memory = max(self.memory, memory)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Training:
    """The paper's method after its queue is full and its prototypes have thawed, ready for the next step."""

    def __init__(
        self,
        device: torch.device,
        *,
        precision: str = "float32",
        channels_last: bool = False,
        compiled: bool = False,
        checkpointing: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.method = SwAV(PaperDenseNet(checkpointing=checkpointing)).to(device)
        self.method.queue.normal_()
        self.method.queue_filled.fill_(self.method.queue_length)
        self.method.on_step_end(Progress(step=10_000, steps_per_epoch=1000, total_steps=100_000))
        if channels_last:
            lay_channels_last(self.method)
        if compiled:
            self.method.encoder.compile(dynamic=False)
        self.optimizer = LARC(self.method.parameters(), lr=0.01)
        self.optimizer.param_groups[0]["initial_lr"] = 0.01
        self.precision, self.channels_last, self.device = precision, channels_last, device

    def step(self, batch: dict[str, Tensor]) -> None:
        """One step, on a batch from anywhere."""
        moved = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        if self.channels_last:
            layout = torch.channels_last_3d
            moved = {n: v.contiguous(memory_format=layout) if v.ndim == 5 else v for n, v in moved.items()}
        train_step(self.method, self.optimizer, moved, rate_factor=1.0, precision=self.precision, clip_norm=0.0)


def paper_views(scans: Sequence[MadeUpScan], sizes: Sequence[Sequence[int]]) -> MultiCrop:
    """The views of the preset `paper`, with the energies of these scans."""
    config = read_config(bundle_config(PRETRAINING, "swav", preset="paper"))
    given = {"crop_size": sizes[0], "small_crop_size": sizes[1], "method::views::energies": None}
    views = ConfigParser(resolved(config, given)).get_parsed_content("method::views")
    assert isinstance(views, MultiCrop)
    views.energies = reference_energies(scans[:VOLUMES], windows_hu=views.window_hu)
    return views


def made_up(views: MultiCrop, device: torch.device) -> dict[str, Tensor]:
    """A batch of noise: as many crops of each size as the views make."""
    sizes = [cropper.size for n, cropper in zip(views.counts, views.croppers, strict=True) for _ in range(n)]
    crops = {f"crop{i}": torch.rand(VOLUMES, 1, *size, device=device) for i, size in enumerate(sizes)}
    return crops | {"modality": torch.zeros(VOLUMES, dtype=torch.int64, device=device)}


def timed(training: Training, batch: dict[str, Tensor], steps: int) -> tuple[float, float]:
    """Seconds a step after two to warm up, and the most memory since they began, in bytes."""
    for _ in range(2):
        training.step(batch)
    on_gpu = training.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        training.step(batch)
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps, float(torch.cuda.max_memory_allocated()) if on_gpu else 0.0


def table(measured: dict[str, Measured], device: torch.device, *, whole: bool) -> None:
    """Each variant's time and memory, and for whole crops the GPU days beside the paper's."""
    for variant, result in measured.items():
        line = f"{variant:40s} {result.median * 1e3:9.1f} ms a step {measured[FLOAT32].median / result.median:5.2f} ×"
        if device.type == "cuda":
            line += f" {result.memory / 1e9:6.1f} GB"
        if whole:
            line += f" {result.median * COHORT / VOLUMES * EPOCHS / 86_400:7.1f} GPU days"
        print(line)
    if whole:
        low, high = PAPER_GPU_DAYS
        print(
            f"GPU days: {EPOCHS} epochs of {COHORT:,} volumes; the paper's runs took {low:.0f} to {high:.0f}, 2D and 3D"
        )
        print(f"the paper's cards had {CARD_GB} GB")


def waiting(
    training: Training, scans: Sequence[MadeUpScan], views: MultiCrop, device: torch.device, *, steps: int
) -> float:
    """Share of the time that passes until the loader hands out the next batch, views made by all cores."""
    workers = max(1, (os.cpu_count() or 2) - 1)
    loader = step_loader(
        ViewDataset(scans, views, seed=0), batch_size=VOLUMES, seed=0, start_step=0, total_steps=steps, workers=workers
    )
    waited, start, asked = 0.0, 0.0, time.perf_counter()
    for step, batch in enumerate(loader):
        if step >= steps // 4:  # the first ones wait for the workers to start
            start = start or asked
            waited += time.perf_counter() - asked
        training.step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        asked = time.perf_counter()
    return waited / (asked - start)


@dataclass
class MadeUpScan:
    """Noise of soft tissue, in memory."""

    seed: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    modality: str = "CT"
    intensity: tuple[float, float] = (-50.0, 100.0)

    def __post_init__(self) -> None:
        self.id, self.affine = f"made-up {self.seed}", np.eye(4)
        noise = np.random.default_rng(self.seed).standard_normal((1, *self.shape), dtype=np.float32) * 30 + 40
        self.hu = noise.astype(np.int16)

    @property
    def foreground(self) -> Box:
        r, a, s = self.shape
        return (0, r), (0, a), (0, s)

    def read(self, box: Box | None = None) -> np.ndarray:
        """A box of it."""
        return self.hu if box is None else self.hu[(slice(None), *(slice(*side) for side in box))]


if __name__ == "__main__":
    main()
