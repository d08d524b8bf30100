"""Training, validation and test, by patient, from a keyed hash: adding data moves nobody."""

from __future__ import annotations

import hashlib
import hmac

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.7, 0.15, 0.15)


def split_of(patient: str, key: bytes, fractions: tuple[float, float, float] = FRACTIONS) -> str:
    """The split a patient falls into, a function of the two arguments and of nothing else.

    Args:
        patient: the patient's keyed hash.
        fractions: of train, validation and test; they sum to one.
    """
    if abs(sum(fractions) - 1) > 1e-6 or min(fractions) < 0:
        raise ValueError(f"the fractions {fractions} do not sum to one")
    draw = int.from_bytes(hmac.new(key, f"split\0{patient}".encode(), hashlib.sha256).digest()[:8], "big") / 2**64
    if draw < fractions[0]:
        return "train"
    return "validation" if draw < fractions[0] + fractions[1] else "test"
