"""How far a restored volume is from the original, sample by sample."""

from __future__ import annotations

from torch import Tensor

ERRORS = ("mse", "l1")


def reconstruction_error(output: Tensor, target: Tensor, *, error: str = "mse", where: Tensor | None = None) -> Tensor:
    """The mean squared or absolute difference of each sample.

    Args:
        output: (B, ...), any floating type; the difference is taken in float32.
        target: of the same shape.
        error: `mse` or `l1`.
        where: bool, of the same shape: the voxels that count. A sample without any counts as 0: nothing was asked.

    Returns:
        (B,) float32.

    Raises:
        ValueError: for an unknown error, or shapes that differ.
    """
    if error not in ERRORS:
        raise ValueError(f"the error is one of {', '.join(ERRORS)}, not {error}")
    if output.shape != target.shape:
        raise ValueError(f"output {tuple(output.shape)} and target {tuple(target.shape)} differ in shape")
    difference = (output.float() - target.float()).flatten(1)
    each = difference.square() if error == "mse" else difference.abs()
    if where is None:
        return each.mean(dim=1)
    counted = where.flatten(1)
    return (each * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
