"""Which volumes of a store are unlike the others: robust z-scores of what the manifest tells of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from volssl.evaluation.metrics import Floats
from volssl.evaluation.page import number

ODD = 3.5  # Iglewicz and Hoaglin (1993): from here on a modified z-score marks an outlier
FEWEST = 8  # volumes of a modality; fewer have no rule to be an exception from
MAD_TO_STD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Measure:
    """A figure of each volume.

    Attributes:
        column: where it stands.
        title: what people call it.
        unit: `mm`, `voxels`, `` for a share, `intensity` for HU in CT and the source's own scale in MR.
        floor: the least standard deviation that is believed, so that a store of equal volumes has no odd ones for a
            trifle: of the logarithm where `log`, in MR's intensities always. None for what is shown, not compared.
        log: compared by its logarithm: twice and half as much are equally far.
    """

    column: str
    title: str
    unit: str
    floor: float | None
    log: bool = False


MEASURES = (
    Measure("spacing_in_plane_mm", "Voxel size in plane", "mm", 0.1, log=True),
    Measure("spacing_slice_mm", "Slice spacing", "mm", 0.1, log=True),
    *(Measure(f"voxels_{axis.lower()}", f"Voxels along {axis}", "voxels", None) for axis in "RAS"),
    *(Measure(f"extent_{axis.lower()}_mm", f"Extent along {axis}", "mm", 0.1, log=True) for axis in "RAS"),
    Measure("air_share", "Share of air", "", 0.05),
    Measure("intensity_mean", "Mean of the foreground", "intensity", 25.0),
    Measure("intensity_std", "Spread of the foreground", "intensity", 25.0),
    Measure("intensity_low", "Low end", "intensity", 50.0),
    Measure("intensity_high", "High end", "intensity", 100.0),
)
MR_FLOOR = 0.2  # of the logarithm: the scale of an MR is arbitrary


def robust_z(values: Floats, floor: float) -> Floats:
    """How far each value lies from the median, in standard deviations: 1.4826 times the median absolute deviation.

    Args:
        values: (volumes,); NaN counts as the median.
        floor: the least standard deviation that is believed.
    """
    centre = np.nanmedian(values)
    spread = MAD_TO_STD * np.nanmedian(np.abs(values - centre))
    z: Floats = np.nan_to_num((values - centre) / max(spread, floor), nan=0.0)
    return z


def z_scores(table: pd.DataFrame) -> pd.DataFrame:
    """The robust z of every compared measure, each volume among those of its modality; 0 where these are too few.

    Args:
        table: a row a volume with `modality` and the columns of `MEASURES`.
    """
    compared = [measure for measure in MEASURES if measure.floor is not None]
    scores = pd.DataFrame(0.0, index=table.index, columns=[measure.column for measure in compared])
    for modality, rows in table.groupby("modality"):
        if len(rows) < FEWEST:
            continue
        for measure in compared:
            values, floor = rows[measure.column].to_numpy(dtype=np.float64), float(measure.floor or 0)
            if measure.log or (measure.unit == "intensity" and modality == "MR" and measure.column != "intensity_low"):
                values = np.log(np.maximum(values, 1e-6))
                floor = floor if measure.log else MR_FLOOR
            elif measure.unit == "intensity" and modality == "MR":
                values, floor = values / rows["intensity_high"].to_numpy(dtype=np.float64), MR_FLOOR
            scores.loc[rows.index, measure.column] = robust_z(values, floor)
    return scores


def flags(row: pd.Series, scores: pd.Series, most: int = 3) -> list[str]:
    """In words what is odd about a volume, the oddest first, such as `slice spacing 7.0 mm (z +9)`."""
    measures = {measure.column: measure for measure in MEASURES}
    odd = scores[scores.abs() >= ODD].abs().sort_values(ascending=False, kind="stable")
    told = []
    for column in odd.index[:most]:
        score = float(scores[column])
        what = f"{_inside(measures[column].title)} {with_unit(row[column], measures[column], row['modality'])}"
        told.append(f"{what} (z {'−' if score < 0 else '+'}{min(abs(score), 99):.0f})")
    return told


def with_unit(value: float, measure: Measure, modality: str) -> str:
    """A measure's value as people write it."""
    unit = {"intensity": "HU" if modality == "CT" else "", "voxels": ""}.get(measure.unit, measure.unit)
    whole = abs(value) >= 20 or measure.unit == "voxels" or unit == "HU"
    return f"{short(float(value), 0 if whole else 2)} {unit}".rstrip()


def short(value: float, digits: int = 2) -> str:
    """A number with at most so many decimals, none of them a trailing zero."""
    text = number(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _inside(title: str) -> str:
    """A title inside a sentence; the name of an axis stays as it is."""
    return title[:1].lower() + title[1:]
