"""One walk down the ranked cases gives AUC and average precision of a row of weights: a bootstrap takes thousands.

Compiled by numba when it is first used, and kept on disk where there is a place for it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


@cache
def walk() -> Any:
    """`areas_and_precisions`, compiled."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(areas_and_precisions)
    except RuntimeError:  # no folder to keep it in: compiled anew in each process, in a second
        return numba.njit(nogil=True)(areas_and_precisions)


def areas_and_precisions(weights: Any, y: Any, order: Any, ends: Any) -> Any:
    """AUC and average precision of each row of weights; in the language that numba compiles.

    Args:
        weights: (rows, n) float64, none below 0.
        y: (n,) of 0 and 1.
        order: (n,) the cases from the highest score to the lowest.
        ends: (n,) whether the case at this place of the order is the last of those that share its score.

    Returns:
        (2, rows); NaN for AUC where the weights leave out a class, and for precision where they leave out positives.
    """
    figures = np.full((2, len(weights)), np.nan)
    for row in range(len(weights)):
        tp = fp = positive = negative = area = steps = 0.0
        for place in range(len(order)):
            case = order[place]
            if y[case] == 1:
                positive += weights[row, case]
            else:
                negative += weights[row, case]
            if not ends[place]:
                continue
            area += negative * (tp + positive / 2)
            tp += positive
            fp += negative
            if positive > 0:  # no weight yet, or no step of recall
                steps += positive * tp / (tp + fp)
            positive = negative = 0.0
        if tp > 0 and fp > 0:
            figures[0, row] = area / (tp * fp)
        if tp > 0:
            figures[1, row] = steps / tp
    return figures
