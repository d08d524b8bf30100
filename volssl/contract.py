"""The input contract: what an encoder was trained to look at, carried by every file that holds its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from volssl.errors import UserError

MODALITIES = ("CT", "MR", "CT+MR")


@dataclass(frozen=True)
class InputContract:
    """What feeds an encoder.

    Attributes:
        modality: `CT`, `MR`, or `CT+MR` for an encoder that saw both.
        window_hu: (center, width) mapped to the value range, or one such pair for each channel; of CT alone. MR is
            scaled by its own percentiles .5 and 99.5, and None where no CT was seen.
        spacing_mm: nominal voxel size along R, A, S.
        grid: voxels of a usual input along R, A, S; encoders take others too.
        value_range: lowest and highest input value.
        channels: of the input, one for each window; 0 takes as many as there are windows, or 1 without.
        orientation: of the axes; always RAS.
    """

    modality: str
    window_hu: tuple[float, float] | tuple[tuple[float, float], ...] | None
    spacing_mm: tuple[float, float, float]
    grid: tuple[int, int, int]
    value_range: tuple[float, float] = (0.0, 1.0)
    channels: int = 0
    orientation: str = "RAS"

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for YAML, JSON and checkpoints."""
        return {key: as_list(value) for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> InputContract:
        """The inverse of `as_dict`, of values that somebody else may have written.

        Raises:
            TypeError, ValueError: for other values.
            UserError: where windows and channels disagree.
        """
        contract = InputContract(**values)
        for name, good in (
            ("modality", contract.modality in MODALITIES),
            ("window_hu", all(numbers(pair, 2) and pair[1] > 0 for pair in contract.windows_hu)),
            ("spacing_mm", numbers(contract.spacing_mm, 3) and min(contract.spacing_mm) > 0),
            ("grid", numbers(contract.grid, 3) and all(type(n) is int for n in contract.grid)),
            ("value_range", numbers(contract.value_range, 2)),
            ("channels", type(contract.channels) is int and contract.channels > 0),
            ("orientation", contract.orientation == "RAS"),
        ):
            if not good:
                raise ValueError(f"the input's {name} is none")
        return contract

    def __post_init__(self) -> None:
        # YAML brings lists; tuples make contracts comparable.
        for name in ("window_hu", "spacing_mm", "grid", "value_range"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        if len(self.windows_hu) == 1:  # a list of one pair is that pair
            object.__setattr__(self, "window_hu", self.windows_hu[0])
        if not self.channels:
            object.__setattr__(self, "channels", len(self.windows_hu) or 1)
        if self.windows_hu and self.channels != len(self.windows_hu):
            raise UserError(
                f"window_hu {as_list(self.window_hu)} makes {len(self.windows_hu)} channels and {self.channels} are "
                "named; give a window for each channel"
            )

    @property
    def windows_hu(self) -> tuple[tuple[float, float], ...]:
        """(center, width) of each channel; none where no CT was seen."""
        window: Any = self.window_hu
        if not window:
            return ()
        return window if isinstance(window[0], tuple) else (window,)

    def refuse_unlike(self, other: InputContract, *, what: str, one_for_several: bool = False) -> None:
        """Raise a UserError where `other`, which is about to feed an encoder of this contract, differs from it.

        The other's modalities must be among this one's. Windows (where both look at CT), value range, channels and
        orientation must be equal; the voxel size may differ by a factor of two, the range over which views rescale in
        pretraining. The grid is free.

        Args:
            what: is refused, for the message.
            one_for_several: let one window stand for several among which it is, or several for one of them: for who
                brings the weights from one to the other.
        """
        both_ct = "CT" in other.modality and "CT" in self.modality
        names = ["modality", *(("window_hu",) if both_ct else ()), "value_range", "channels", "orientation"]
        if one_for_several and self.one_for_several(other):
            names = [name for name in names if name not in ("window_hu", "channels")]
        for name in names:
            mine, theirs = getattr(self, name), getattr(other, name)
            fits = set(theirs.split("+")) <= set(mine.split("+")) if name == "modality" else mine == theirs
            if not fits:
                raise UserError(
                    f"{what}: it was trained with {name} {mine} and would be fed {theirs}; "
                    f"set {name} to {mine} or choose another encoder"
                )
        for axis, mine_mm, theirs_mm in zip("RAS", self.spacing_mm, other.spacing_mm, strict=True):
            if not 0.5 <= theirs_mm / mine_mm <= 2:
                raise UserError(
                    f"{what}: it was trained with {mine_mm} mm along {axis} and would be fed {theirs_mm} mm, more "
                    "than a factor of two apart; choose a grid nearer to it or another encoder"
                )

    def one_for_several(self, other: InputContract) -> bool:
        """Whether one of the two has one channel, the other several, and the one's window is among the several's."""
        one, several = sorted((self, other), key=lambda contract: contract.channels)
        if one.channels != 1 or several.channels == 1:
            return False
        return not (one.windows_hu and several.windows_hu) or one.windows_hu[0] in several.windows_hu


def as_tuple(value: Any) -> Any:
    """Lists to tuples, at every depth."""
    return tuple(as_tuple(part) for part in value) if isinstance(value, list | tuple) else value


def as_list(value: Any) -> Any:
    """Tuples to lists, at every depth."""
    return [as_list(part) for part in value] if isinstance(value, list | tuple) else value


def numbers(values: Any, count: int) -> bool:
    """Whether these are so many finite numbers."""
    return (
        isinstance(values, tuple)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
