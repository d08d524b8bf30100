"""Tells when features collapse: what happened, in words, and the known cure; stops the run where asked.

What it reads are the names that `Method.diagnostics()` and the losses of a step use, each where it is there:

| name | what it is | worked out by |
|---|---|---|
| `feature_std` | spread of the features: about 1 is full, 0 is none | `losses.collapse.feature_spread` |
| `effective_rank` | RankMe of recent features, a queue and the batch | `losses.collapse.effective_rank` |
| `prototype_entropy` | of the prototypes' use, over ln K | `losses.collapse.prototype_use` |
| `prototypes_dead` | share of prototypes hardly used | `losses.collapse.prototype_use` |
| `loss_floor` | the loss of a method that says the same of every sample: ln K for K prototypes | the method |
| `loss_settled` | 0 while the loss means something else: frozen prototypes, a queue that is not full | the method |

A combined method puts the name of its part before each, `swav_feature_std`: every part is watched.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from volssl.errors import UserError
from volssl.progress import say

if TYPE_CHECKING:
    from volssl.engine.trainer import MethodTrainer

Means = Mapping[str, float]  # by name, over the window

LOSS = "loss over loss_floor"
CLUSTER_CURE = (
    "known cures: method::epsilon=0.03 or less, a longer method::freeze_steps, a shorter method::queue_length or a "
    "later method::queue_start_epoch, a lower learning_rate, larger batches"
)
OTHER_CURE = "known cures: a lower learning_rate, a longer warm-up, larger batches, stronger views"


@dataclass(frozen=True)
class Sign:
    """One sign of collapse: a number on the wrong side of a limit.

    Attributes:
        reads: name of the number.
        limit: where the wrong side begins.
        below: whether that is the side under the limit.
        says: the sentence, with the number as `{value}`.
        stops: whether it is collapse, and not only trouble.
    """

    reads: str
    limit: float
    below: bool
    says: str
    stops: bool = True

    def found_in(self, means: Means) -> list[str]:
        """The names, with the part's before it, under which the number is on the wrong side."""
        own = {name: value for name, value in means.items() if is_called(name, self.reads)}
        return [name for name, value in own.items() if (value < self.limit if self.below else value > self.limit)]

    def sentence(self, name: str, value: float) -> str:
        """What is seen, and of which part of a combined method."""
        part = name.removesuffix(self.reads).rstrip("_")
        return (f"{part}: " if part else "") + self.says.format(value=value)


def is_called(name: str, wanted: str) -> bool:
    """Whether a logged name is the wanted one, or that of a part: `swav_feature_std` for `feature_std`."""
    return name == wanted or name.endswith(f"_{wanted}")


class CollapseMonitor:
    """Warn of collapse, once a sign until it is gone, and stop the run where asked.

    Each step's numbers are averaged over the last `window` steps, so that no single batch is taken for a sign. Nothing
    is said before the learning rate has warmed up and `grace_steps` more: every method begins with a loss at its floor.
    A warning is printed, and stands in `metrics.jsonl` as `warning`.

    The limits were set on SwAV of 46 simulated heads, where the spread begins at .4. At a rate of .03 it stayed
    at .3; at .3, in batches of 8, it fell to .05 within 250 steps, with an effective rank of 4 and the loss at ln K.

    Args:
        window: steps that are averaged.
        grace_steps: after the warm-up, until the first step that is judged; shorter runs are not.
        least_spread: `feature_std` under this is collapse.
        least_rank: so is `effective_rank` under this.
        least_entropy: so is `prototype_entropy` under this: nearly every sample has the same prototype.
        most_dead: `prototypes_dead` over this is told, and stops no run.
        floor_share: the loss at or above this share of `loss_floor` is collapse. Codes spread over few samples push
            the loss of a collapsed run above its floor.
        stop: raise a UserError at the first sign, instead of going on.
    """

    def __init__(
        self,
        *,
        window: int = 50,
        grace_steps: int = 100,
        least_spread: float = 0.1,
        least_rank: float = 5.0,
        least_entropy: float = 0.2,
        most_dead: float = 0.8,
        floor_share: float = 0.99,
        stop: bool = False,
    ) -> None:
        self.grace_steps, self.first_step, self.stop = grace_steps, grace_steps, stop
        self.recent: deque[dict[str, float]] = deque(maxlen=window)
        self.told: set[str] = set()
        self.signs = (
            Sign(
                "feature_std", least_spread, True, "the features of all scans are nearly alike: spread {value:.3f} of 1"
            ),
            Sign("effective_rank", least_rank, True, "the features lie along {value:.1f} directions: effective rank"),
            Sign(LOSS, floor_share, False, "the loss stays at {value:.1%} of what telling no scan from another costs"),
            Sign("prototype_entropy", least_entropy, True, "few prototypes take all scans: entropy {value:.2f} of 1"),
            Sign("prototypes_dead", most_dead, False, "{value:.0%} of the prototypes are hardly used", stops=False),
        )

    def attach(self, engine: MethodTrainer) -> None:
        self.first_step = self.grace_steps + round(engine.schedule.warmup_epochs * engine.state.epoch_length)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: MethodTrainer) -> None:
        step = int(engine.state.iteration)
        found = self.judge(step, engine.state.output)
        if not found:
            return
        means = self.means()
        seen = "; ".join(sign.sentence(name, means[name]) for name, sign in found.items())
        cure = CLUSTER_CURE if any(is_called(name, "prototype_entropy") for name in means) else OTHER_CURE
        if self.stop and any(sign.stops for sign in found.values()):
            raise UserError(f"the run has collapsed by step {step} and is stopped: {seen}; begin anew: {cure}")
        text = f"step {step}: {seen}; {cure}"
        say(f"warning: {text}")
        engine.log.write(step, int(engine.state.epoch), {"warning": text})

    def judge(self, step: int, numbers: Mapping[str, float]) -> dict[str, Sign]:
        """Take in the numbers of a step; the signs that are there now and were not at the step before, by name."""
        self.recent.append(self.read(numbers))
        if step < self.first_step or len(self.recent) < (self.recent.maxlen or 1):
            return {}
        means = self.means()
        seen = {name: sign for sign in self.signs for name in sign.found_in(means)}
        new = {name: sign for name, sign in seen.items() if name not in self.told}
        self.told = set(seen)
        return new

    def read(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """What the signs want to know of a step; a loss only once it has settled."""
        known = {n: float(value) for n, value in numbers.items() if any(is_called(n, s.reads) for s in self.signs)}
        for name, floor in numbers.items():
            part = name.removesuffix("loss_floor")
            if is_called(name, "loss_floor") and numbers.get(f"{part}loss_settled", 1):
                known[f"{part}{LOSS}"] = float(numbers[f"{part}loss"] / floor)
        return known

    def means(self) -> Means:
        """The mean of each number over the window, of those that every step of it has."""
        everywhere = set.intersection(*(set(numbers) for numbers in self.recent))
        return {name: math.fsum(one[name] for one in self.recent) / len(self.recent) for name in sorted(everywhere)}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"recent": list(self.recent), "told": sorted(self.told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        self.recent = deque(state["recent"], maxlen=self.recent.maxlen)
        self.told = set(state["told"])
