"""What pretraining costs beside what it is made of: each figure a ratio of two things timed in turns, in one run.

    python benchmarks/methods.py

Runs the scripts of single parts, then prints what SwAV adds to its encoder, and what a step of each method costs
in units of a bare pass: forward and backward of the encoder over one large crop a sample. Neither counts the optimiser,
and neither counts views.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from volssl.bundle.config import bundle_config, read_config, resolved, train_configs
from volssl.encoders import PaperDenseNet
from volssl.methods import SwAV
from volssl.methods.base import Method

LARGE, SMALL = (96, 112, 40), (48, 56, 20)
STEP_AT_MOST = 1.10
COUNTS = (1, 4)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=7)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    for script in ("shuffle_speed.py", "view_speed.py", "restoration_step.py", "gpu.py"):
        print(f"\n{script}", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(script)], check=True)
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    print(
        f"\na SwAV step against the encoder alone, the same crops, batch {chosen.batch}; must be ≤ {STEP_AT_MOST:.2f}"
    )
    for name, settings in {
        "as shipped": {"prototypes": 64, "hidden_dim": 512, "queue_length": 0},
        "queue of 256": {"prototypes": 64, "hidden_dim": 512, "queue_length": 256},
        "Table 1": {},
    }.items():
        bare, step = swav_ms(settings, turns=chosen.turns, batch=chosen.batch)
        print(f"  {name:12} bare {bare:6.0f} ms  step {step:6.0f} ms  ratio {step / bare:.3f}")
    print(f"\na step of each method, in passes of the encoder over one crop of {'×'.join(map(str, LARGE))} a sample")
    for name in train_configs("volume_pretraining"):
        print(f"  {name:12} {passes(name, turns=chosen.turns, batch=chosen.batch):.1f}")


def swav_ms(settings: dict[str, int], *, turns: int, batch: int) -> tuple[float, float]:
    """Milliseconds of the encoder over the crops, and of SwAV over the same, with a full queue."""
    encoder = PaperDenseNet()
    method = SwAV(encoder, queue_start_epoch=0, freeze_steps=0, **settings).train()
    method.queue_filled.fill_(method.queue_length)
    torch.nn.init.normal_(method.queue)
    sizes = [size for size, count in zip((LARGE, SMALL), COUNTS, strict=True) for _ in range(count)]
    crops = {f"crop{i}": torch.rand(batch, 1, *size) for i, size in enumerate(sizes)}
    joined = [torch.cat([crop for crop in crops.values() if crop.shape[2:] == size]) for size in (LARGE, SMALL)]
    modality = {"modality": torch.zeros(batch, dtype=torch.int64)}

    def bare() -> None:
        torch.stack([encoder.pooled(x).sum() for x in joined]).sum().backward()

    def step() -> None:
        method(crops | modality)["loss"].backward()

    return best_ms(bare, step, turns=turns)


def passes(name: str, *, turns: int, batch: int) -> float:
    """What a method's step costs, over what a pass of its encoder over one large crop a sample does."""
    method = built(name)
    given = batch_like(name, batch)
    large = torch.rand(batch, 1, *square(LARGE) if name in TURNED else LARGE)

    def bare() -> None:
        method.encoder.pooled(large).sum().backward()

    def step() -> None:
        method(given)["loss"].backward()

    one, whole = best_ms(bare, step, turns=turns)
    return whole / one


TURNED = ("rotation", "swin_unetr")  # their crops are square in plane


def built(name: str) -> Method:
    """A method as its config has it, over the paper's network, without data."""
    config = resolved(read_config(bundle_config("volume_pretraining", name)), {"network": "PaperDenseNet"})
    parts = config["method"].get("parts", {})
    if "supervised" in parts:
        parts["supervised"]["views"] = None
    config["task"] |= {"grid": list(LARGE)}
    method = ConfigParser(config).get_parsed_content("method")
    assert isinstance(method, Method)
    return method.train()


def batch_like(name: str, batch: int) -> dict[str, Tensor]:
    """A made-up batch with the tensors that a method looks at."""
    multi = {f"crop{i}": torch.rand(batch, 1, *(LARGE if i < COUNTS[0] else SMALL)) for i in range(sum(COUNTS))}
    target = torch.rand(batch, 1, *LARGE)
    restored = {"input": torch.rand(batch, 1, *LARGE), "target": target}
    turned = torch.rand(2, batch, 1, *square(LARGE))
    turns = torch.randint(4, (2, batch))
    labels = (torch.rand(batch, 1 + 5 + LARGE[2]) < 0.5).float()
    pair = {"crop0": target, "crop1": target.flip(2)}
    of = {
        "swav": multi,
        "restoration": restored,
        "combined": named("swav", multi) | named("restoration", restored),
        "hybrid": named("swav", multi) | named("supervised", {"image": target, "target": labels}),
        "simclr": pair,
        "moco": pair,
        "rotation": {"rotated": turned[0], "turns": turns[0]},
        "swin_unetr": {f"crop{i}": turned[i] for i in (0, 1)}
        | {f"target{i}": turned[i] for i in (0, 1)}
        | {f"turns{i}": turns[i] for i in (0, 1)},
    }
    common = {"modality": torch.zeros(batch, dtype=torch.int64), "index": torch.arange(batch)}
    return of[name] | common


def named(part: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names of a combined method's part."""
    return {f"{part}/{key}": value for key, value in tensors.items()}


def square(size: tuple[int, int, int]) -> tuple[int, int, int]:
    """A size of as many voxels or nearly, square in plane."""
    side = round((size[0] * size[1]) ** 0.5 / 8) * 8
    return side, side, size[2]


def best_ms(*calls: Callable[[], None], turns: int) -> tuple[float, float]:
    """Milliseconds of each call in the best of its turns, which other work disturbs least; the first warms up."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 1):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                times.append(1e3 * (time.perf_counter() - start))
    first, second = map(min, taken)
    return first, second


if __name__ == "__main__":
    main()
