"""What a fine-tuning asks of the encoder that it begins with: whom it saw, and whose labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from volssl.data import Store, TrainingScans, refuse_labelled, refuse_seen, tell_other_key
from volssl.encoders import labelled_patients
from volssl.encoders.file import read_encoder_file
from volssl.seen import Seen


def refuse(
    encoder: str | Path | None,
    store: Store,
    labels: pd.DataFrame,
    *,
    train: TrainingScans,
    seen: Seen,
    fraction: float = 1.0,
    fold: int | None = None,
) -> None:
    """Refuse an encoder that saw a patient of validation or test, or labels that a share leaves out.

    With all labels nothing is left out: an encoder that learnt from others then is one of the ways to use them. Where
    its patients cannot be compared with the store's, a line says so.

    Args:
        encoder: what the run begins with; None or "" for nothing.
        labels: joined to the store; whose volumes are judged or learnt from.
        train: what the run learns from.
        seen: whom the encoder, and a first stage that is taken over, saw.
        fraction: share of the labels, of which the run learns.

    Raises:
        UserError: for either.
    """
    refuse_seen(store.path, labels.index, seen.patients, fold=fold)
    if encoder:
        tell_other_key(store, read_encoder_file(encoder).seen, what=f"encoder {encoder}")
    if fraction < 1:
        refuse_labelled(
            store,
            train.patients,
            labelled_patients(encoder),
            what=f"encoder {encoder}, with the labels of a share of {fraction:g}",
            instead="pretrain the hybrid with the same `fraction` and `draw`, or leave --fraction out",
        )
