"""What an encoder may not have seen: scans of patients who are to be judged, labels beyond a fine-tuning's share.

Patients are compared by their keyed hashes, which says something only where the stores have one key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.compute as pc

from volssl.data.store import Store
from volssl.data.training import sides
from volssl.errors import UserError
from volssl.progress import say
from volssl.seen import NOT_SAID, Seen


def refuse_seen(
    store: str | Path,
    ids: Iterable[str],
    seen: Iterable[str],
    *,
    splits: Sequence[str] = ("validation", "test"),
    fold: int | None = None,
) -> None:
    """Raise a UserError where the volumes hold a patient of these sides whom training has seen."""
    opened = Store.open(store)
    rows = opened.columns("id", "patient").to_pandas()
    rows["side"] = sides(opened, fold).to_pandas()
    rows = rows[rows["id"].isin(list(ids)) & rows["side"].isin(list(splits))]
    known = sorted(set(rows["patient"]) & set(seen))
    if known:
        raise UserError(
            f"{store}: {len(known)} patients of {' and '.join(splits)} were seen in training (first: {known[0]}); what "
            "they would show is no evidence. Use another encoder, or a store with the splits it was trained with"
        )


def refuse_labelled(store: Store, patients: Iterable[str], labelled: Iterable[str], *, what: str, instead: str) -> None:
    """Raise a UserError where labels trained an encoder that a fine-tuning with these patients is not to have.

    Labels of patients of another store are no matter: nobody's share of this one's.

    Args:
        patients: of the fine-tuning.
        labelled: whose labels trained the encoder.
        what: the encoder, for the message, and `instead` what to do.
    """
    here = set(pc.unique(store.columns("patient")["patient"]).to_pylist())
    more = sorted((set(labelled) & here) - set(patients))
    if more:
        raise UserError(
            f"{what}: the encoder learnt from labels of {len(more)} patients more (first: {more[0]}), so that the "
            f"share would be none; {instead}"
        )


def tell_other_key(store: Store, seen: Seen, *, what: str) -> bool:
    """Say where nobody can tell whether patients of a store were seen: their hashes are of another key, or not known.

    It is no error: the store of another site rightly has a key of its own.

    Args:
        what: was trained, for the line.

    Returns:
        Whether the patients of both can be compared.
    """
    others = seen.keys - ({store.key_check} - {NOT_SAID})
    if not others:
        return True
    told = f"cannot tell whether patients of {store.path} were seen by {what}"
    if others - {NOT_SAID} and store.key_check != NOT_SAID:
        say(
            f"{told}: the store was prepared with another key. If both are of one archive, prepare it anew with `--key "
            "OTHER_STORE/private.key`; else make sure by other means that nobody is in both"
        )
    else:
        say(f"{told}: not all of these are named, or not by which key")
    return False
