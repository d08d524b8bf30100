"""A training step of masked restoration against the bare forward and backward of its encoder and decoder, in one run.

    python benchmarks/restoration_step.py              # a minute; --device cuda on a GPU

The step is the trainer's own: loss, gradients, optimiser, what is logged. Bare is encoder, decoder, and the gradient of
a fixed tensor. Both take turns; each time is the best of its turns, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from volssl.encoders import build_encoder
from volssl.engine.step import train_step
from volssl.methods import Restoration

AT_MOST = 1.10
CASES = (("PaperDenseNet", (96, 112, 20), "light"), ("SwinUNETR", (64, 32, 32), "unetr"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--turns", type=int, default=15)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"batch {chosen.batch}, {chosen.device}, {chosen.threads} threads; milliseconds, best of {chosen.turns}")
    for network, size, decoder in CASES:
        for over in ("all", "changed"):
            bare, step = times_ms(network, size, decoder, over, chosen)
            name = f"{network} and {decoder} decoder, {'×'.join(map(str, size))}, over {over}"
            print(f"{name:62} bare {bare:7.0f}  step {step:7.0f}  {ratio(step / bare)}")


def ratio(value: float) -> str:
    """It, and whether it is what was promised."""
    return f"ratio {value:.3f} ≤ {AT_MOST:.2f}: {'kept' if value <= AT_MOST else 'NOT KEPT'}"


def times_ms(
    network: str, size: tuple[int, int, int], decoder: str, over: str, chosen: argparse.Namespace
) -> tuple[float, float]:
    """Milliseconds of the bare pass and of the step."""
    settings = {"feature_size": 12} if network == "SwinUNETR" else {}
    method = Restoration(build_encoder(network, settings=settings), decoder=decoder, over=over).to(chosen.device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    target = torch.rand(chosen.batch, 1, *size, device=chosen.device)
    batch = {"input": torch.where(torch.rand_like(target) < 0.7, torch.rand_like(target), target), "target": target}
    slope = torch.randn_like(target)

    def bare() -> None:
        method.zero_grad(set_to_none=True)
        method.decoder(batch["input"], method.encoder(batch["input"])).backward(slope)

    def step() -> None:
        train_step(method, optimizer, batch, rate_factor=1.0, precision="float32", clip_norm=0.0)

    for warm_up in (bare, step):
        warm_up()
    taken: dict[str, list[float]] = {"bare": [], "step": []}
    for _ in range(chosen.turns):
        taken["bare"].append(milliseconds(bare, chosen.device))
        taken["step"].append(milliseconds(step, chosen.device))
    return min(taken["bare"]), min(taken["step"])


def milliseconds(call: Callable[[], None], device: str) -> float:
    """How long a call takes, to the end of what it started on a GPU."""
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
