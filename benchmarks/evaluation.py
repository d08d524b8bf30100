"""The bootstrap of an AUC against a loop over scikit-learn's `roc_auc_score`, at 100,000 cases and 1,000 resamples.

    python benchmarks/evaluation.py                 # about a minute

Both draw the same patients. The loop over scikit-learn is timed over a few resamples and its time multiplied: all of
them would take minutes. One thread works. The seconds of the clock hold what else runs on the machine, whose load is
printed; those of the processor, by which ratio and verdict are told, hardly do.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from sklearn.metrics import roc_auc_score

from volssl.evaluation.bootstrap import bootstrap_interval, paired_difference, resample_weights
from volssl.evaluation.delong import delong_test
from volssl.evaluation.metrics import roc_auc

T = TypeVar("T")
LIMIT_S = 20.0  # of the processor, for the AUC and for the paired difference


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--resamples", type=int, default=1000)
    options.add_argument("--looped", type=int, default=20, help="resamples of scikit-learn's loop")
    chosen = options.parse_args()
    y, score, other = made(chosen.cases)
    patients = np.arange(chosen.cases) // 2
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{chosen.cases:,} cases, {chosen.resamples:,} resamples, {cores} cores, load before {load:.1f}")

    bootstrap_interval(roc_auc, y[:100], score[:100], patients[:100], resamples=1)  # compiles
    looped, values = timed(lambda: loop(y, score, patients, resamples=chosen.looped))
    looped = {clock: chosen.resamples / chosen.looped * took for clock, took in looped.items()}
    say("scikit-learn, a loop", looped, f"(of {chosen.looped} resamples)")
    took, interval = timed(lambda: bootstrap_interval(roc_auc, y, score, patients, resamples=chosen.resamples))
    say("AUC", took, f"{looped['cpu'] / took['cpu']:5.1f} times as fast  {interval}")
    paired, difference = timed(
        lambda: paired_difference(roc_auc, y, score, other, patients, resamples=chosen.resamples)
    )
    say("paired difference of AUCs", paired, f"{2 * looped['cpu'] / paired['cpu']:5.1f} times as fast  {difference}")
    delong, compared = timed(lambda: delong_test(y, score, other))
    say("DeLong's test of the two", delong, f"p = {compared.p:.2g}")

    short = bootstrap_interval(roc_auc, y, score, patients, resamples=chosen.looped)
    low, high = np.quantile(values, [0.025, 0.975])
    print(f"largest difference to the loop's bounds {max(abs(short.low - low), abs(short.high - high)):.1e}")
    slowest = max(took["cpu"], paired["cpu"])
    print(f"must be under {LIMIT_S:g} s each: {'yes' if slowest < LIMIT_S else 'NO'}")


def made(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, 30 % positive, and the scores of two models of which the second knows a little less."""
    rng = np.random.default_rng(0)
    y = (rng.random(n) < 0.3).astype(float)
    score = rng.normal(size=n) + 1.2 * y
    return y, score, score + 0.5 * rng.normal(size=n)


def loop(y: np.ndarray, score: np.ndarray, patients: np.ndarray, *, resamples: int) -> list[float]:
    """scikit-learn's AUC of each of the first resamples."""
    blocks = resample_weights(y, patients.astype(str), resamples=resamples, seed=0)
    return [float(roc_auc_score(y, score, sample_weight=row)) for block in blocks for row in block]


def timed(call: Callable[[], T]) -> tuple[dict[str, float], T]:
    """How long a call takes by the clock and by the processor, and what it returns."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = call()
    return {"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu}, result


def say(name: str, took: dict[str, float], more: str) -> None:
    print(f"{name:28} {took['clock']:8.2f} s  (processor {took['cpu']:8.2f} s)  {more}")


if __name__ == "__main__":
    main()
