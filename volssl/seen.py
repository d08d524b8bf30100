"""Whom a network has seen: keyed hashes of patients, and what tells which stores' keys made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_SAID = ""  # among the keys of `Seen`: of somebody's patients nobody knows who they are, or by which key


@dataclass(frozen=True)
class Seen:
    """Whose scans trained a network, in all runs of its chain; of nothing that was trained, empty.

    Attributes:
        patients: keyed hashes.
        keys: the `key_check` of each store that they are from, and `NOT_SAID` where that is not known of all. The
            hashes of a store with another key are others, also of the same patients.
    """

    patients: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    @classmethod
    def of(cls, samples: Any) -> Seen:
        """The patients of a data set, which may say `key_check`, that of its store."""
        return cls(frozenset(samples.patients), frozenset({getattr(samples, "key_check", NOT_SAID)}))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Seen:
        """What a file of weights says; an older one does not name the keys."""
        return cls(frozenset(facts["patients"]), frozenset(facts.get("keys", (NOT_SAID,))))

    def __or__(self, other: Seen) -> Seen:
        return Seen(self.patients | other.patients, self.keys | other.keys)


NOBODY = Seen()
UNKNOWN = Seen(keys=frozenset({NOT_SAID}))  # of weights that name nobody
