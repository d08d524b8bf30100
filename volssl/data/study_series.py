"""Coronal series beside the axial ones of a study, which are answered for as one (Ghesu et al. 2022, 4.5)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from volssl.data.store import Store
from volssl.progress import counted, say

SECOND = "second_series"
THICKER = 1.1  # how much wider than along S the voxels of a coronal series are along A, at least


def join_series(store: Store, table: pd.DataFrame) -> pd.DataFrame:
    """Take the coronal series of studies that have an axial one for a second input of it, and for no sample of its own.

    Args:
        table: a joined label table.

    Returns:
        The table without the rows of those coronal series, and with a column `second_series`: of the study's coronal
        series the id of the one of the thinnest slices, or None.
    """
    rows = store.columns("id", "study", "modality", "spacing_mm").to_pandas().set_index("id").loc[table.index]
    second: dict[str, str | None] = {}
    for _, study in rows.groupby(["study", "modality"]):
        pairs = paired(study["spacing_mm"].tolist())
        second |= {study.index[own]: None if other is None else study.index[other] for own, other in pairs.items()}
    joined = table[table.index.isin(second)]
    joined = joined.assign(**{SECOND: pd.Series([second[key] for key in joined.index], joined.index, dtype=object)})
    say(f"{joined[SECOND].notna().sum()} of {counted(len(joined), 'volume')} have a coronal series beside them")
    return joined


def paired(spacings_mm: Sequence[Sequence[float]]) -> dict[int, int | None]:
    """Which series of a study are answered for, and which is looked at beside each: places among them, or None.

    Neither files nor stores say how a volume was acquired: the plane across its longest voxels is taken for it. Each
    axial series has the coronal one of the thinnest slices beside it, of equals the first; coronal ones are then not
    answered for. A study of coronal series alone, and sagittal ones, are answered for by themselves.

    Args:
        spacings_mm: voxel size along R, A, S of each series of one study and modality.
    """
    rounded = [[round(mm, 6) for mm in spacing_mm] for spacing_mm in spacings_mm]  # as a store has them
    planes = [plane_of(mm) for mm in rounded]
    coronal = [place for place, plane in enumerate(planes) if plane == "coronal"]
    if not coronal or "axial" not in planes:
        return dict.fromkeys(range(len(planes)))
    thinnest = min(coronal, key=lambda place: rounded[place][1])
    return {place: thinnest if plane == "axial" else None for place, plane in enumerate(planes) if plane != "coronal"}


def plane_of(spacing_mm: Sequence[float]) -> str:
    """`axial`, `coronal` or `sagittal`, across the longest voxels of a volume along R, A, S; axial where none is."""
    r, a, s = spacing_mm
    if max(r, a) < THICKER * s:
        return "axial"
    return "coronal" if a >= r else "sagittal"
