"""Weights into a network, with a report of what fitted; weights for one input channel into a network for several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from volssl.errors import UserError

LEAST_LOADED = 0.9  # share of a network's tensors that a file must fill


@dataclass(frozen=True)
class WeightReport:
    """Which tensors of a network a file filled, and what was done to them."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[str]
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the network's tensors that were loaded."""
        return len(self.loaded) / max(1, len(self.loaded) + len(self.missing) + len(self.wrong_shape))

    def __str__(self) -> str:
        lines = [f"weights: {len(self.loaded)} tensors loaded ({self.share:.0%})"]
        for title, keys in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ):
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            lines += [f"  {len(keys)} {title}: {shown}"] if keys else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load_weights(
    network: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    least: float = LEAST_LOADED,
    notes: Sequence[str] = (),
) -> WeightReport:
    """Copy the tensors that fit into a network.

    Args:
        source: where they come from, for messages.
        least: share of the network's tensors that must be filled; 1 is for a file of the network's own, in which no
            tensor may be left over either.
        notes: sentences that the report ends with.

    Raises:
        UserError: where less than `least` of the network's tensors would be filled, or of a file of its own a tensor
            is left over; the network is left as it was.
    """
    own = network.state_dict()
    shared = own.keys() & state_dict.keys()
    fitting = {key for key in shared if own[key].shape == state_dict[key].shape}
    report = WeightReport(
        loaded=sorted(fitting),
        missing=sorted(own.keys() - state_dict.keys()),
        unexpected=sorted(state_dict.keys() - own.keys()),
        wrong_shape=sorted(shared - fitting),
        notes=tuple(notes),
    )
    if report.share < least:
        raise UserError(
            f"{source}: fills {report.share:.0%} of the network's tensors and {least:.0%} are needed; it is of another "
            f"architecture (first that do not fit: {', '.join((report.missing + report.wrong_shape)[:3])})"
        )
    if least == 1 and report.unexpected:
        raise UserError(
            f"{source}: holds {len(report.unexpected)} tensors that the network has no place for; it is of another "
            f"architecture (first: {', '.join(report.unexpected[:3])})"
        )
    with torch.no_grad():
        network.load_state_dict({key: state_dict[key] for key in fitting}, strict=False)
    return report


def match_channels(
    state_dict: Mapping[str, Tensor], first_layers: Iterable[str], in_channels: int, *, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights for one input channel as weights for several, or the other way round.

    One to n: repeated and divided by n, so that n equal channels give what the one gave. n to one: summed, so that
    the one channel gives what n equal ones gave.

    Args:
        first_layers: names of the weights (out, channels, ...) that see the input.
        in_channels: of the network that they are for.
        source: where they come from, for messages.

    Returns:
        The weights, and a sentence for the report where something was done to them.

    Raises:
        UserError: for other numbers of channels, between which there is no rule.
    """
    matched, notes = dict(state_dict), []
    for name in first_layers:
        held = matched[name].shape[1] if name in matched and matched[name].ndim > 1 else in_channels
        if held == in_channels:
            continue
        if held == 1:
            repeats = [1, in_channels] + [1] * (matched[name].ndim - 2)
            matched[name] = matched[name].repeat(repeats) / in_channels
            notes.append(f"{name}: made for 1 channel, repeated for {in_channels} and divided by {in_channels}")
        elif in_channels == 1:
            matched[name] = matched[name].sum(dim=1, keepdim=True)
            notes.append(f"{name}: made for {held} channels, summed to 1")
        else:
            raise UserError(
                f"{source}: made for {held} input channels and would be fed {in_channels}; there is a rule between "
                "one and several only: give as many windows as it was trained with, or one"
            )
    return matched, notes
