"""Several methods over one encoder: a weighted sum of their losses (the hybrid loss of Ghesu et al. 2022, Eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from volssl.encoders.base import Encoder
from volssl.methods.base import Batch, Losses, Method, Passes, Progress
from volssl.views.base import Views
from volssl.views.combined import CombinedViews, joined

Names = Mapping[str, Mapping[str, str | Sequence[str]]]


class Combined(Method):
    """Train one encoder by several methods at once: `loss` is the weighted sum of the parts' losses.

    Eq. 7 of the paper is `parts={swav, supervised}, weights={swav: alpha, supervised: beta}`.

    Each part looks at views of its own, or at tensors that several share: `names={"restoration": {"input": ["crop0",
    "crop1"]}}` gives the part `restoration` the rows of `crop0` and `crop1`, one after the other, as its `input`. The
    encoder runs once for parts that encode the same values in the same order, so that heads on common crops cost one
    pass (Tang et al. 2022 train Swin-UNETR so). A part that encodes nothing new costs its head alone.

    Args:
        encoder: which every part holds.
        parts: methods by name.
        weights: of each part's loss; 1 where none is given.
        views: `CombinedViews` of the parts' views where None.
        names: for a part, what its names are called in the batch; those left out are its own under `<part>/`.

    Raises:
        ValueError: for a part over another encoder, or names and weights of parts that are not there.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        parts: Mapping[str, Method],
        weights: Mapping[str, float] | None = None,
        views: Views | None = None,
        names: Names | None = None,
    ) -> None:
        given = views or CombinedViews({name: part.views for name, part in parts.items()})
        super().__init__(encoder, views=given)
        for name, part in parts.items():
            if part.encoder is not encoder:
                raise ValueError(f"the part {name} has an encoder of its own: give every part the same object")
        for what, keys in (("weights", weights), ("names", names)):
            if strangers := set(keys or {}) - set(parts):
                raise ValueError(f"{what} of {', '.join(sorted(strangers))}: there are the parts {', '.join(parts)}")
        self.parts = nn.ModuleDict(parts)
        self.weights = dict.fromkeys(parts, 1.0) | {name: float(weight) for name, weight in (weights or {}).items()}
        self.names = {name: dict(own) for name, own in (names or {}).items()}
        self.couples_samples = any(part.couples_samples for part in parts.values())

    def methods(self) -> dict[str, Method]:
        """The parts by name."""
        return {name: part for name, part in self.parts.items() if isinstance(part, Method)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`<part>/<name>` of every part's views -> `<part>/<name>` of what every part embeds."""
        passes, made = Passes(), {}
        for name, part in self.methods().items():
            given = of_part(batch, name, self.names.get(name, {}))
            with passes.shared_by(part) if self.names else nullcontext():
                made[name] = part.embed(given)
        return joined(made)

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """`loss`, the weighted sum; `<part>_loss`, unweighted, and whatever else a part logs as `<part>_<name>`."""
        total: Tensor | None = None
        logged: Losses = {}
        for name, part in self.methods().items():
            own = part.losses(of_part(embedded, name, {}))
            term = self.weights[name] * own["loss"]
            total = term if total is None else total + term
            logged |= {f"{name}_{key}": value.detach() for key, value in own.items()}
        assert total is not None
        return {"loss": total} | logged

    def on_step_end(self, progress: Progress) -> None:
        """Tell every part."""
        for part in self.methods().values():
            part.on_step_end(progress)

    def diagnostics(self) -> dict[str, float]:
        """Every part's, as `<part>_<name>`."""
        return {f"{n}_{key}": value for n, part in self.methods().items() for key, value in part.diagnostics().items()}

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Those of every part that has any, as `<part>/<name>`."""
        parts = self.methods().items()
        return joined({name: part.pictures(of_part(batch, name, self.names.get(name, {}))) for name, part in parts})


def of_part(tensors: Mapping[str, Tensor], part: str, names: Mapping[str, str | Sequence[str]]) -> dict[str, Tensor]:
    """What a part is given of a batch: its own names, those that all share (such as `index`), and those called so.

    Where a name stands for several tensors, their rows are joined, and what is shared of a sample beside images is
    repeated as often.
    """
    own = {key.removeprefix(f"{part}/"): value for key, value in tensors.items() if key.startswith(f"{part}/")}
    shared = {key: value for key, value in tensors.items() if "/" not in key}
    if names:
        called = {mine: [theirs] if isinstance(theirs, str) else list(theirs) for mine, theirs in names.items()}
        times = max(len(theirs) for theirs in called.values())
        shared = {key: torch.cat([value] * times) for key, value in shared.items() if value.ndim <= 2}
        own |= {mine: torch.cat([tensors[key] for key in theirs]) for mine, theirs in called.items()}
    return shared | own
