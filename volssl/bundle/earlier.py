"""What a fine-tuning asks of the encoder that it begins with: whom it saw, and whose labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from volssl.data import Store, TrainingScans, refuse_labelled, refuse_seen
from volssl.encoders import labelled_patients


def refuse(
    encoder: str | Path | None,
    store: Store,
    labels: pd.DataFrame,
    *,
    train: TrainingScans,
    seen: Iterable[str],
    fraction: float = 1.0,
    fold: int | None = None,
) -> None:
    """Refuse an encoder that saw a patient of validation or test, or labels that a share leaves out.

    With all labels nothing is left out: an encoder that learnt from others then is one of the ways to use them.

    Args:
        encoder: what the run begins with; None or "" for nothing.
        labels: joined to the store; whose volumes are judged or learnt from.
        train: what the run learns from.
        seen: keyed hashes of the patients whom the encoder saw.
        fraction: share of the labels, of which the run learns.

    Raises:
        UserError: for either.
    """
    refuse_seen(store.path, labels.index, seen, fold=fold)
    if fraction < 1:
        refuse_labelled(
            store,
            train.patients,
            labelled_patients(encoder),
            what=f"encoder {encoder}, with the labels of a share of {fraction:g}",
            instead="pretrain the hybrid with the same `fraction` and `draw`, or leave --fraction out",
        )
