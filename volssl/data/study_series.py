"""Coronal series beside the axial ones of a study: rows of a label table that become one (Ghesu et al. 2022, 4.5)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from volssl.data.store import Store
from volssl.progress import counted, say

SECOND = "second_series"
THICKER = 1.1  # how much wider than along S the voxels of a coronal series are along A, at least


def join_series(store: Store, table: pd.DataFrame) -> pd.DataFrame:
    """Take the coronal series of studies that have an axial one for a second input of it, and for no sample of its own.

    A store does not say how a volume was acquired: the plane across its longest voxels is taken for it. A study's other
    series stay samples: several axial ones each have the coronal one beside them; a study of coronal ones alone, and
    sagittal ones, are answered for by themselves.

    Args:
        table: a joined label table.

    Returns:
        The table without the rows of those coronal series, and with a column `second_series`: of the study's coronal
        series the id of the one of the thinnest slices, or None.
    """
    rows = store.columns("id", "study", "modality", "spacing_mm").to_pandas().set_index("id").loc[table.index]
    plane = rows["spacing_mm"].map(plane_of)
    study = rows["study"] + " " + rows["modality"]
    coronal = rows[plane == "coronal"].assign(slice_mm=lambda part: part["spacing_mm"].map(lambda mm: mm[1]))
    thinnest = coronal.sort_values("slice_mm", kind="stable").groupby(study.loc[coronal.index]).head(1)
    beside = dict(zip(study.loc[thinnest.index], thinnest.index, strict=True))
    axial = plane == "axial"
    second = study.map(beside).where(axial, None)
    dropped = (plane == "coronal") & study.isin(study[axial])
    joined = table.assign(**{SECOND: second.astype(object).where(second.notna(), None)})[~dropped]
    say(f"{joined[SECOND].notna().sum()} of {counted(len(joined), 'volume')} have a coronal series beside them")
    return joined


def plane_of(spacing_mm: Sequence[float]) -> str:
    """`axial`, `coronal` or `sagittal`, across the longest voxels of a volume along R, A, S; axial where none is."""
    r, a, s = spacing_mm
    if max(r, a) < THICKER * s:
        return "axial"
    return "coronal" if a >= r else "sagittal"
