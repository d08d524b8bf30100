"""CT or MR, where the file does not say it: from a JSON sidecar, from the values, from tokens of names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from volssl.data.volume import RefusedError, Volume

if TYPE_CHECKING:
    from volssl.data.checks import Thresholds

KINDS = ("CT", "MR")
OTHER_KINDS = ("PT", "NM", "US", "XA", "RF", "CR", "DX", "MG", "SEG", "OT", "EEG", "MEG")
TOKENS = {
    "ct": "CT",
    "cta": "CT",
    "ncct": "CT",
    "cect": "CT",
    **dict.fromkeys(("mr", "mri", "mra", "t1", "t1w", "t1c", "t1ce", "t2", "t2w", "t2star", "t2starw"), "MR"),
    **dict.fromkeys(("pd", "pdw", "pdt2", "inplanet1", "inplanet2", "flair", "bold", "sbref", "swi"), "MR"),
    **dict.fromkeys(("dwi", "adc", "mp2rage", "mprage", "t1rho", "t1map", "t2map", "unit1"), "MR"),
}
SIDECAR_MAX_BYTES = 1 << 20
ASK = "say --modality CT or --modality MR"


def settle_modality(volume: Volume, said: str | None, sample: np.ndarray, limits: Thresholds) -> tuple[str, str]:
    """The modality of a volume whose format cannot say it, and a note on how it was told; empty where it was said.

    What the user says goes first, then the sidecar, values that are clear, names, and at last values that are likely.

    Args:
        said: by the user.
        sample: voxels, finite.

    Raises:
        RefusedError: the sidecar names another modality, or nothing tells.
    """
    sidecar, name = volume.origin.sidecar_modality, volume.origin.name_modality
    if said:
        other = sidecar and sidecar != said
        return said, "the modality that its JSON sidecar says is another one than the user's" if other else ""
    if sidecar:
        if sidecar not in KINDS:
            raise RefusedError("modality", f"The JSON sidecar says the modality {sidecar}; CT and MR are read.")
        return sidecar, f"the modality {sidecar} was told from its JSON sidecar"
    values, doubt = modality_of_values(sample, limits)
    # Only CT has values far below zero, but CT without air and clipped at zero looks like MR: then names are heard.
    if values == "CT" or (values and name in ("", values)):
        return values, f"the modality {values} was told from the values"
    if name:
        return name, f"the modality {name} was told from the name"
    if looks_stripped(sample, limits):
        return "CT", "the modality CT was told from the values: no air, and tissue where the brain lies in HU"
    raise RefusedError("modality_unknown", doubt)


def modality_of_values(sample: np.ndarray, limits: Thresholds) -> tuple[str, str]:
    """Tell CT in HU, which has air far below zero, from MR, which has no value below zero.

    Returns:
        `CT` or `MR`; or nothing, and a sentence that says what was in the way.
    """
    if (sample <= limits.low_hu).mean() >= limits.low_min_share:
        return "CT", ""
    if sample.min() < 0:
        return "", f"Values from {sample.min():g} to {sample.max():g} fit neither CT with air nor MR: {ASK}."
    if looks_shifted(sample, limits):
        return "", f"The values look like CT with 1024 added to the HU: subtract it, or {ASK}."
    return "MR", ""


def not_in_hu(sample: np.ndarray, limits: Thresholds) -> str:
    """A sentence that says why the values of a CT cannot be HU; empty where they can.

    Air shows that they are. Without it (a skull-stripped head, a box inside of the body) something else must speak
    against it: 1024 added, the grey values of a picture, or tissue that is nowhere near water.
    """
    if ((sample > limits.padding_hu) & (sample <= limits.body_hu)).mean() >= limits.low_min_share:
        return ""
    if looks_shifted(sample, limits):
        return "The values look like CT with 1024 added to the HU: subtract it."
    low, high = float(sample.min()), float(sample.max())
    values, counts = np.unique(np.rint(sample), return_counts=True)
    tissue = sample[np.rint(sample) != values[counts.argmax()]]  # the commonest value is what surrounds the body
    middle = float(np.median(tissue)) if tissue.size else low
    if low >= 0 and 200 < high <= 255 and middle > limits.picture_tissue and bool((sample == np.rint(sample)).all()):
        return f"Whole numbers from {low:g} to {high:g} without air look like an 8-bit picture, not like HU."
    if not limits.tissue_min_hu <= middle <= limits.tissue_max_hu:
        return f"There is no air, and the middle of the tissue is {middle:g} HU: water is 0 in HU."
    return ""


def looks_stripped(sample: np.ndarray, limits: Thresholds) -> bool:
    """Whether a volume without air is likely a CT of the brain alone, on a background of zeros.

    It has values below zero, which MR has only where it was filtered or standardised; then its tissue is spread wider,
    or lies elsewhere.
    """
    tissue = sample[sample != 0]
    if sample.min() >= 0 or tissue.size > (1 - limits.background_min_share) * sample.size:
        return False
    inside = ((tissue >= 0) & (tissue <= limits.brain_max_hu)).mean()
    low, high = limits.brain_median_min_hu, limits.brain_median_max_hu
    return bool(inside >= limits.brain_min_share and low <= np.median(tissue) <= high)


def looks_shifted(sample: np.ndarray, limits: Thresholds) -> bool:
    """Whether most of what is not air lies where water does with 1024 added to the HU."""
    body = sample[sample > limits.shifted_body]
    water = (body > limits.shifted_water_low) & (body < limits.shifted_water_high)
    return bool(body.size > limits.shifted_body_share * sample.size and water.mean() > limits.shifted_min_share)


def modality_of_names(names: Sequence[str]) -> str:
    """`CT` or `MR` by whole tokens of names; the first name with any decides, and one with tokens of both does not.

    Args:
        names: of the file and of the folders it lies in, from the inside to the outside.
    """
    for name in names:
        kinds = {TOKENS[token] for token in re.split(r"[^a-z0-9]+", name.lower()) if token in TOKENS}
        if kinds:
            return kinds.pop() if len(kinds) == 1 else ""
    return ""


def sidecar_of(path: Path, stem: str) -> Path:
    """Where dcm2niix and BIDS put the JSON file of a volume."""
    return path.with_name(f"{stem}.json")


def modality_of_sidecar(path: Path) -> str:
    """What the `Modality` of a JSON file is, in DICOM's terms; empty where there is no such file or no such word."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(SIDECAR_MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # none there, or no JSON: it says nothing of the volume
        return ""
    word = said.get("Modality") if isinstance(said, dict) else None
    word = word.strip().upper() if isinstance(word, str) else ""
    word = {"MRI": "MR", "PET": "PT"}.get(word, word)
    return word if word in (*KINDS, *OTHER_KINDS) else ""  # anything else may be free text, which may name people
