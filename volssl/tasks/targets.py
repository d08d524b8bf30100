"""What one label column asks of a network: a yes or no, one of several classes, or a place on a scale.

A scale is learnt by continuation ratios: column k tells the chance to pass step k of those who passed step k - 1
(Fienberg's model; CORN of Shi, Cao and Raschka 2021). Their products cannot rise from one step to the next, and the
likelihood is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from volssl.transforms.probabilities import probabilities

BINARY = ("0", "1")


@dataclass(frozen=True)
class Target:
    """One label column.

    Attributes:
        name: of the column.
        classes: as the table has them; the lowest first on a scale.
        kind: `binary`, `multi-class` or `ordinal`.
        weights: what a study of each class counts in the loss.
    """

    name: str
    classes: tuple[str, ...]
    kind: str
    weights: tuple[float, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the columns: `t`; `t=a`, `t=b`, `t=c`; `t>=b`, `t>=c`."""
        if self.kind == "binary":
            return (self.name,)
        if self.kind == "ordinal":
            return tuple(f"{self.name}>={step}" for step in self.classes[1:])
        return tuple(f"{self.name}={one}" for one in self.classes)

    def encoded(self, index: float) -> list[float]:
        """The index of a class -> a target of each column, 0 or 1; all NaN where it is unknown."""
        if index != index:
            return [torch.nan] * len(self.outputs)
        if self.kind == "multi-class":
            return [float(index == place) for place in range(len(self.classes))]
        return [float(index >= place) for place in range(1, len(self.classes))]

    def loss(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N) and (B, N) -> the weighted negative log likelihood of the known rows, summed; and their number."""
        known = ~torch.isnan(targets).any(dim=1)
        logits, targets = logits[known].float(), targets[known].float()
        index = targets.argmax(dim=1) if self.kind == "multi-class" else targets.sum(dim=1).long()
        if self.kind == "multi-class":
            likelihoods = functional.cross_entropy(logits, index, reduction="none")
        else:
            # A step counts for those who passed the one before it: for a yes or no, for all.
            reached = torch.cat([torch.ones_like(targets[:, :1]), targets[:, :-1]], dim=1)
            steps = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            likelihoods = (steps * reached).sum(dim=1)
        weights = torch.tensor(self.weights, device=logits.device)[index]
        return (likelihoods * weights).sum(), known.sum()

    def problems(self, targets: Tensor) -> list[tuple[slice, Tensor]]:
        """(N, columns) -> what is learnt by itself: its columns, and (N,) the class of each row, NaN where unknown.

        A step of a scale is asked of the rows that passed the one before it, as in the loss.
        """
        if self.kind == "multi-class":
            index = torch.where(torch.isnan(targets).any(dim=1), torch.nan, targets.argmax(dim=1).float())
            return [(slice(0, targets.shape[1]), index)]
        reached = torch.cat([torch.ones_like(targets[:, :1]), targets[:, :-1]], dim=1) == 1
        steps = torch.where(reached, targets, torch.nan)
        return [(slice(k, k + 1), steps[:, k]) for k in range(targets.shape[1])]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, N) -> (B, N), one against the rest, or at least each step."""
        return probabilities(logits.float(), self.kind)


def target_of(name: str, classes: Sequence[str], *, ordinal: bool, weights: Sequence[float] | None) -> Target:
    """A column with these classes; 0 and 1 are a yes or no, whatever the others are."""
    kind = "binary" if tuple(classes) == BINARY else "ordinal" if ordinal else "multi-class"
    counts = (1.0,) * len(classes) if weights is None else tuple(float(weight) for weight in weights)
    return Target(name, tuple(classes), kind, counts)
