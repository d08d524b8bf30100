"""Classes of unequal size: weights by which they count the same in a loss, or samples drawn from each as often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from volssl.errors import UserError
from volssl.seen import NOT_SAID

CHOICES = ("none", "weights", "sampling")
_DRAWS = 2**16  # keeps the stream of draws apart from those of orders and samples


class Samples(Protocol):
    """A training set addressed by (epoch, index), such as `TrainingScans`."""

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def patients(self) -> Sequence[str]: ...
    @property
    def seed(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]: ...


def class_weights(balance: str, classes: pd.Series, ids: Sequence[str]) -> Tensor | None:
    """What each sample counts in the loss so that every class counts the same; their mean is 1.

    Args:
        balance: `weights`; with another choice there are none.
        classes: of each study, indexed by id; NaN where unknown, which counts 1.
        ids: of the samples, in their order.

    Returns:
        (samples,) n / (classes * n of the sample's class), as scikit-learn's `balanced` has it.

    Raises:
        UserError: for a choice that there is not.
    """
    if refuse_unknown(balance) != "weights":
        return None
    own = classes.loc[list(ids)]
    sizes = own.value_counts()
    weights = int(sizes.sum()) / (len(sizes) * own.map(sizes))
    return torch.from_numpy(weights.fillna(1.0).to_numpy(np.float32))


def balanced(balance: str, samples: Samples, classes: pd.Series) -> Samples:
    """The samples as they are, or `BalancedSamples` of them where `balance` is `sampling`.

    Raises:
        UserError: for a choice that there is not.
    """
    return BalancedSamples(samples, classes) if refuse_unknown(balance) == "sampling" else samples


class BalancedSamples:
    """As many samples an epoch as before, as many of each class: drawn with replacement, so rare ones come often.

    Which is drawn is a function of (seed, epoch, index), as the sample is. One that comes again in an epoch is changed
    anew. Samples of unknown class are never drawn.

    Args:
        samples: that are drawn from.
        classes: of each study, indexed by id; NaN where unknown.
    """

    def __init__(self, samples: Samples, classes: pd.Series) -> None:
        self.samples, self.seed = samples, samples.seed
        self.ids, self.patients = samples.ids, samples.patients
        self.key_check = getattr(samples, "key_check", NOT_SAID)
        own = classes.loc[list(samples.ids)].to_numpy(float)
        self.members = [np.flatnonzero(own == one) for one in np.unique(own[~np.isnan(own)])]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        """The sample that is drawn for (epoch, index)."""
        epoch, index = where
        # each draw is a pass of its own, of which no two are changed alike
        return self.samples[epoch * len(self) + index, self.drawn(epoch, index)]

    def drawn(self, epoch: int, index: int) -> int:
        """Which of the samples stands at (epoch, index)."""
        members = self.members[index % len(self.members)]
        sequence = np.random.SeedSequence([self.seed, epoch, index], spawn_key=(_DRAWS,))
        return int(members[np.random.RandomState(np.random.MT19937(sequence)).randint(len(members))])


def refuse_unknown(balance: str) -> str:
    """The choice, where there is such a one."""
    if balance not in CHOICES:
        raise UserError(f"balance {balance}: unknown; choose {', '.join(CHOICES)}")
    return balance
