"""What pretraining costs beside what it is made of: each figure a ratio of two things timed in turns, in one run.

    python benchmarks/methods.py                            # first the scripts of single parts, half an hour
    python benchmarks/methods.py --batch 2 --threads 1 --alone

Prints what SwAV adds to its encoder, what channels last do to a step, and what a step of each method costs in units of
a bare pass: forward and backward of the encoder over one large crop a sample. Crops are as many as each config has,
made by its own views of simulated heads. But for the layouts no figure counts the optimiser, and none counts views. On
one thread it is the processor's time that is told, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils.data import default_collate

from volssl.bundle.config import bundle_config, read_config, resolved
from volssl.bundle.shipped import PRETRAINING, SINGLE, train_configs
from volssl.data import prepare
from volssl.engine.step import train_step
from volssl.engine.trainer import lay_channels_last
from volssl.methods import Progress, SwAV
from volssl.methods.base import Method
from volssl.simulate.cohort import simulate_cohort

LARGE, SMALL = (96, 112, 40), (48, 56, 20)
STEP_AT_MOST = 1.10
TABLE_1 = {
    "method::prototypes": 1500,
    "method::hidden_dim": 2048,
    "method::queue_length": 1920,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "PaperDenseNet": {},
    "SwinUNETR": {
        "network": "SwinUNETR",
        "network_settings": {"feature_size": 12},
        "crop_size": [64, 64, 32],
        "small_crop_size": [32, 32, 32],
    },
}
Batch = dict[str, Tensor]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=7)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--alone", action="store_true", help="leave out the scripts of single parts")
    chosen = options.parse_args()
    for script in () if chosen.alone else ("shuffle_speed.py", "view_speed.py", "restoration_step.py", "gpu.py"):
        print(f"\n{script}", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(script)], check=True)
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        store, cohort = Path(folder) / "store", Path(folder) / "cohort"
        simulate_cohort(cohort, 16, spacing_mm=4.0, slice_mm=8.0, workers=1)
        prepare([cohort], store, workers=1)
        heads = Heads(store, cohort / "labels.csv", batch=chosen.batch)
        swav(heads, turns=chosen.turns)
        layouts(heads, turns=chosen.turns)
        print(f"\na step of each method, in passes of the encoder over one crop of {by(LARGE)} a sample", flush=True)
        for name in train_configs(PRETRAINING):
            print(f"  {name:12} {passes(*heads.built(name), turns=chosen.turns):.1f}", flush=True)


class Heads:
    """A store of simulated heads, and what any method looks at of them.

    Args:
        store: that they were prepared into; what a config writes goes beside it.
        labels: of them.
        batch: samples of a batch.
    """

    def __init__(self, store: Path, labels: Path, *, batch: int) -> None:
        self.given = {"dataset_dir": str(store), "labels": str(labels), "output_dir": str(store.parent)}
        self.batch = batch

    def built(self, name: str, *, preset: str = SINGLE, **others: Any) -> tuple[Method, Batch]:
        """A method as its config has it, over the paper's network, and a batch that its own views make."""
        config = read_config(bundle_config(PRETRAINING, name, preset=preset))
        r, a, _ = config["crop_size"]
        sizes = {"crop_size": list(square(LARGE) if r == a else LARGE), "small_crop_size": list(SMALL)}
        given = self.given | {"network": "PaperDenseNet"} | sizes | others
        parser = ConfigParser(resolved(config, given))
        method, scans = parser.get_parsed_content("method"), parser.get_parsed_content("train::dataset")
        assert isinstance(method, Method)
        return method.train(), default_collate([scans[divmod(i, len(scans))] for i in range(self.batch)])


def swav(heads: Heads, *, turns: int) -> None:
    """Print SwAV's loss and backward pass against the encoder's over the same crops."""
    print(f"\na SwAV step against the encoder alone, the same crops, batch {heads.batch}", flush=True)
    for name, preset, others in (
        ("as shipped", SINGLE, {}),
        ("queue of 256", SINGLE, {"method::queue_length": 256}),
        ("Table 1, shipped crops", SINGLE, TABLE_1),
        ("Table 1", "paper", {}),
    ):
        method, batch = heads.built("swav", preset=preset, **others)
        bare, step = swav_ms(method, batch, turns=turns)
        crops = [by(value.shape[2:]) for value in batch.values() if value.ndim == 5]
        counts = " + ".join(f"{crops.count(size)} × {size}" for size in dict.fromkeys(crops))
        print(f"  {name:22} {counts:28} bare {bare:6.0f} ms  step {step:6.0f} ms  {ratio(step / bare)}", flush=True)


def swav_ms(method: Method, batch: Batch, *, turns: int) -> tuple[float, float]:
    """Milliseconds of the encoder over the crops, and of SwAV over the same: queue full, prototypes thawed."""
    assert isinstance(method, SwAV)
    method.queue.normal_()
    method.queue_filled.fill_(method.queue_length)
    method.on_step_end(Progress(step=10_000, steps_per_epoch=1000, total_steps=100_000))
    crops = [value for value in batch.values() if value.ndim == 5]
    shapes = dict.fromkeys(crop.shape for crop in crops)
    joined = [torch.cat([crop for crop in crops if crop.shape == shape]) for shape in shapes]

    def bare() -> None:
        torch.stack([method.encoder.pooled(x).sum() for x in joined]).sum().backward()

    return best_ms(bare, lambda: method(batch)["loss"].backward(), turns=turns)


def layouts(heads: Heads, *, turns: int) -> None:
    """Print a whole step of SwAV with volumes and kernels laid out as usual, and with channels last."""
    print("\na SwAV step, optimiser and all, by layout", flush=True)
    for network, others in LAYOUTS.items():
        method, batch = heads.built("swav", **others)
        other = deepcopy(method)
        lay_channels_last(other)
        last = torch.channels_last_3d
        laid = {name: v.contiguous(memory_format=last) if v.ndim == 5 else v for name, v in batch.items()}
        usual, channels_last = best_ms(step_of(method, batch), step_of(other, laid), turns=turns)
        print(
            f"  {network:14} {by(batch['crop0'].shape[2:]):10} usual {usual:6.0f} ms  channels last "
            f"{channels_last:6.0f} ms  {channels_last / usual:.2f} times as long",
            flush=True,
        )


def step_of(method: Method, batch: Batch) -> Callable[[], None]:
    """The trainer's step on a batch."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    optimizer.param_groups[0]["initial_lr"] = 1e-3

    def step() -> None:
        train_step(method, optimizer, batch, rate_factor=1.0, precision="float32", clip_norm=0.0)

    return step


def passes(method: Method, batch: Batch, *, turns: int) -> float:
    """What a method's step costs, over what a pass of its encoder over one large crop a sample does."""
    large = next(value for value in batch.values() if value.ndim == 5)

    def bare() -> None:
        method.encoder.pooled(large).sum().backward()

    one, whole = best_ms(bare, lambda: method(batch)["loss"].backward(), turns=turns)
    return whole / one


def ratio(value: float) -> str:
    """It, and whether it is what was promised."""
    return f"ratio {value:.3f} ≤ {STEP_AT_MOST:.2f}: {'kept' if value <= STEP_AT_MOST else 'NOT KEPT'}"


def by(size: torch.Size | tuple[int, ...]) -> str:
    """96×112×40."""
    return "×".join(map(str, size))


def square(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """A size of as many voxels or nearly, square in plane."""
    side = round((size[0] * size[1]) ** 0.5 / 8) * 8
    return side, side, size[2]


def best_ms(*calls: Callable[[], None], turns: int) -> tuple[float, float]:
    """Milliseconds of each call in the best of its turns, which other work disturbs least; the first warms up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for call, times in zip(calls, taken, strict=True):
            start = clock()
            call()
            if turn:
                times.append(1e3 * (clock() - start))
    first, second = map(min, taken)
    return first, second


if __name__ == "__main__":
    main()
