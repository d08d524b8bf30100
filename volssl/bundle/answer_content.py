"""What stands in a bundle's answer: probabilities or a feature, what was done to the scan, how it is unlike others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from volssl.bundle.metadata import BundleFacts
from volssl.bundle.ranges import FeatureSpace, Measured
from volssl.data.volume import Volume
from volssl.tasks.slices import LEAST_OVERLAP
from volssl.transforms.head_box import BoxInfo

RESEARCH = "Research software, no medical device: not for diagnosis, triage or treatment."
ORIGINS = {
    True: "Trained on simulated data: what it answers for a patient has not been tested.",
    False: "What it answers has been tested on the data named in the model card at most.",
    None: "Whether its training data were simulated is not recorded.",
}
UNLIKE = "unlike the training data: "


def notice(facts: BundleFacts) -> str:
    """What stands first in every answer."""
    return f"{RESEARCH} {ORIGINS[facts.simulated]}"


def answer(
    facts: BundleFacts,
    pred: Tensor,
    *,
    volume: Volume,
    info: BoxInfo,
    study: str,
    scan: Measured,
    space: FeatureSpace | None,
) -> dict[str, Any]:
    """The answer for a volume as plain JSON values.

    Args:
        pred: (labels + slices,) probabilities, as the network's columns stand; or a feature (dim,).
        info: where the network looked.
        study: its key.
        scan: what was measured of it, for the training ranges.
        space: of the training scans' features.
    """
    distance = space.distance(scan.feature) if space and scan.feature is not None else None
    warnings = unlike_training(facts, info, scan, distance)
    return {
        "notice": notice(facts),
        "model": {"name": facts.name, "version": facts.version, "weights_sha256": facts.weights_sha256},
        "study": study,
        **answered(facts, pred, volume, info),
        "in_training_range": not warnings if facts.ranges else (None if not warnings else False),
        "warnings": warnings,
        "distance": None
        if distance is None or not facts.ranges
        else {"value": distance, "usual": facts.ranges.distance},
        "preprocessing": preprocessing(facts, volume, info),
    }


def joined(facts: BundleFacts, second: Mapping[str, Any] | None) -> dict[str, Any]:
    """What an answer says of the series that were joined; nothing of a bundle that looks at each alone.

    Args:
        second: where the study's coronal series was cut (`HeadBoxd`); None where it has none.
    """
    if not facts.join:
        return {}
    if second is None:
        return {"joined": {"features": facts.join, "second_series": None}}
    info = BoxInfo.from_dict(second)
    told = {
        "plane": "coronal",
        "voxels": list(info.scan_shape),
        "spacing_mm": rounded(info.spacing_mm),
        "box_voxels": [rounded(edges) for edges in info.box],
        "box": "of its own head, as its millimetres are of another space" if second["own_head"] else "of the first",
    }
    return {"joined": {"features": facts.join, "second_series": told}}


def answered(facts: BundleFacts, pred: Tensor, volume: Volume, info: BoxInfo) -> dict[str, Any]:
    """The network's columns under their names; of a bundle that embeds, the feature."""
    if facts.dim:
        return {"embedding": pred.tolist()}
    named = list(zip(facts.labels, pred[: len(facts.labels)].tolist(), strict=True))
    return {
        "volume": dict(named[: facts.volume]),
        "types": dict(named[facts.volume :]),
        "slices": slices(pred[len(facts.labels) :], volume, info) if facts.slices else [],
    }


def unlike_training(facts: BundleFacts, info: BoxInfo, scan: Measured, distance: float | None) -> list[str]:
    """Sentences on what about the scan is unlike the training data; none where nothing is known to be."""
    modality = facts.contract.modality
    ranges = facts.ranges.left_by(scan, modality=modality, distance=distance) if facts.ranges else []
    return [f"{UNLIKE}{reason}" for reason in (*info.reasons, *ranges)]


def slices(probabilities: Tensor, volume: Volume, info: BoxInfo) -> list[dict[str, Any]]:
    """The source's slices from inferior to superior: index, position in mm, probability."""
    return [
        {
            "index": index,
            "position_mm": round(volume.first_slice_z_mm + index * volume.slice_step_z_mm, 3),
            "probability": probability,
        }
        for index, probability in enumerate(source_slices(probabilities, info))
    ]


def source_slices(probabilities: Tensor, info: BoxInfo) -> list[float | None]:
    """Probabilities of the grid's slices -> those of the scan's, None for a slice outside of the box.

    A slice of the scan takes the highest of the grid's slices that share at least a quarter of the thinner of the two
    with it: the rule by which labels come to the grid (`grid_slice_labels`), backwards.
    """
    overlap = info.slice_overlap()  # (grid S, source S)
    thickness = (info.box[2][1] - info.box[2][0]) / info.grid[2]  # of a slice of the grid, in source slices
    touched = overlap >= LEAST_OVERLAP * min(thickness, 1.0)
    highest = np.where(touched, probabilities.numpy()[:, None], -np.inf).max(axis=0)
    return [float(value) if np.isfinite(value) else None for value in highest]


def preprocessing(facts: BundleFacts, volume: Volume, info: BoxInfo) -> dict[str, Any]:
    """What was done to the scan, in numbers and in words."""
    contract = facts.contract
    windows = contract.windows_hu if volume.modality == "CT" else ()
    shown = [{"center": center, "width": width} for center, width in windows]
    middle = [(first + last - 1) / 2 for first, last in info.box]  # voxel i has its center at i
    grid = "×".join(map(str, info.grid))
    steps = [
        f"{'×'.join(map(str, info.scan_shape))} voxels read as {volume.origin.source_format}",
        "axes turned to right, anterior, superior",
        *(["values taken as Hounsfield units after slope and intercept"] if windows else []),
        placing(facts.box, info),
        *([] if windows else ["values between the percentiles .5 and 99.5 of the foreground mapped to [0, 1]"]),
        *(f"window with center {center:g} and width {width:g} HU mapped to [0, 1]" for center, width in windows),
        f"box resampled to {grid} voxels, linear with antialiasing; 0 outside of the scan",
    ]
    return {
        "orientation": contract.orientation,
        "window_hu": shown[0] if len(shown) == 1 else shown or None,
        "spacing_mm": {"source": rounded(info.spacing_mm), "network": rounded(contract.spacing_mm)},
        "box_mm": {
            "center_ras": rounded((volume.affine @ [*middle, 1.0])[:3]),
            "extent": rounded(
                [(last - first) * mm for (first, last), mm in zip(info.box, info.spacing_mm, strict=True)]
            ),
        },
        "box_voxels": [rounded(edges) for edges in info.box],
        "grid": list(info.grid),
        "value_range": list(contract.value_range),
        "steps": steps,
        "notes": list(volume.notes),
    }


def placing(box: str, info: BoxInfo) -> str:
    """How the box was placed, in words."""
    if box == "foreground":
        return "box placed about the middle of what is not air"
    if box == "middle":
        return "box placed about the middle of what is not air, within the scan where it fits in"
    if info.plausible:
        return "head found and boxed from its vertex, without landmarks"
    return "box placed, although no whole head was found"


def rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Millimetres to the micrometre."""
    return [round(float(value), 3) for value in values]
