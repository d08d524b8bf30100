"""One study of a simulated cohort, head CT or brain MR: made, written with its mask, and told in a row of labels."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np

from volssl.simulate.brain_mr import BrainMR, simulate_brain_mr
from volssl.simulate.dicom_series import write_ct_series, write_mr_series
from volssl.simulate.head_ct import simulate_head
from volssl.simulate.lesions import TYPES
from volssl.simulate.patient import Site

Format = Literal["nifti", "dicom"]
PEOPLE = ("sex", "age", "age_band", "scanner", "site")
HEAD_CT_CONTENTS = """volumes/     head CT in Hounsfield units
masks/       the hemorrhages: 0 none, {codes}
labels.csv   one line a study; `slices` are the indices, counted from inferior, of the slices with blood;
             `mask` where its mask lies"""
BRAIN_MR_CONTENTS = """volumes/     brain MR, T1-weighted after contrast, in units of no meaning
masks/       the metastases: 0 none, else the number of the metastasis; edema is not in it
labels.csv   one line a study; `slices` are the indices, counted from inferior, of the slices with a metastasis;
             `mask` where its mask lies; `lesions` how many there are, `largest_mm` and `total_ml` how large
lesions.csv  one line a metastasis: its number in the mask, diameter, solid or ring, width of its edema, slices"""
LESION_COLUMNS = ("study", "number", "diameter_mm", "kind", "edema_mm", "slices")


@dataclass(frozen=True)
class Plan:
    """One study to be made: its names and seeds."""

    study: str
    patient: str
    seed: int
    patient_seed: int


@dataclass(frozen=True)
class Settings:
    """What one cohort is made with; written to `cohort.json`."""

    n: int
    seed: int
    site: Site
    fmt: Format
    spacing_mm: float
    slice_mm: float | None


@dataclass(frozen=True)
class Kind:
    """What a cohort is of.

    Attributes:
        title: what is made, in the plural.
        prefix: of the names of studies and patients, so that cohorts of two kinds can stand in one store.
        contents: what its README says of its files.
        columns: of `labels.csv`.
        note: what `cohort.json` holds beside the settings.
        write: simulates a study, writes its volume and mask, and returns its row of labels; picklable.
        finish: writes what else the rows of all studies give.
    """

    title: str
    prefix: str
    contents: str
    columns: tuple[str, ...]
    note: dict[str, object]
    write: Callable[[Path, Settings, Plan], dict[str, Any]]
    finish: Callable[[Path, list[dict[str, Any]]], None] | None = None


def write_head_ct(out: Path, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Simulate a head CT and write it with its mask; its row of labels."""
    head = simulate_head(
        plan.seed,
        site=settings.site,
        spacing_mm=settings.spacing_mm,
        slice_mm=settings.slice_mm,
        patient_seed=plan.patient_seed,
    )
    if settings.fmt == "dicom":
        folder = out / "volumes" / plan.study
        write_ct_series(folder, head, study=plan.study, patient=plan.patient, entropy=_entropy(settings, plan))
    else:
        write_nifti(out / "volumes" / f"{plan.study}.nii.gz", head.hu, head.affine)
    write_nifti(out / "masks" / f"{plan.study}.nii.gz", head.mask, head.affine)
    return {
        "study": plan.study,
        "patient": plan.patient,
        "hemorrhage": int(bool(head.types)),
        **{kind: int(kind in head.types) for kind in TYPES},
        "slices": ";".join(str(index) for index in head.slices),
        "mask": f"masks/{plan.study}.nii.gz",
        "sex": head.sex,
        "age": head.age_years,
        "age_band": head.age_band,
        "scanner": head.scanner,
        "site": head.site,
    }


def write_brain_mr(stripped: bool, out: Path, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Simulate a brain MR and write it with its mask; its row of labels, with the rows of its lesions."""
    scan = simulate_brain_mr(
        plan.seed,
        site=settings.site,
        spacing_mm=settings.spacing_mm,
        slice_mm=settings.slice_mm,
        stripped=stripped,
        patient_seed=plan.patient_seed,
    )
    if settings.fmt == "dicom":
        folder, entropy = out / "volumes" / plan.study, f"{_entropy(settings, plan)} {stripped}"
        write_mr_series(folder, scan, study=plan.study, patient=plan.patient, entropy=entropy)
    else:
        write_text(out / "volumes" / f"{plan.study}.json", json.dumps(_sidecar(scan), indent=2) + "\n")
        write_nifti(out / "volumes" / f"{plan.study}.nii.gz", scan.signal, scan.affine)
    write_nifti(out / "masks" / f"{plan.study}.nii.gz", scan.mask, scan.affine)
    voxel_ml = math.prod(scan.spacing_mm) / 1000
    return {
        "study": plan.study,
        "patient": plan.patient,
        "metastasis": int(bool(scan.lesions)),
        "slices": ";".join(str(index) for index in scan.slices),
        "mask": f"masks/{plan.study}.nii.gz",
        "lesions": len(scan.lesions),
        "largest_mm": max((lesion.diameter_mm for lesion in scan.lesions), default=0.0),
        "total_ml": round(int((scan.mask > 0).sum()) * voxel_ml, 3),
        "sex": scan.sex,
        "age": scan.age_years,
        "age_band": scan.age_band,
        "scanner": scan.scanner.name,
        "site": scan.site,
        "lesion_rows": [
            {"study": plan.study, **asdict(lesion), "slices": ";".join(str(index) for index in lesion.slices)}
            for lesion in scan.lesions
        ],
    }


def _sidecar(scan: BrainMR) -> dict[str, object]:
    """What a NIfTI file cannot say, under the names of BIDS."""
    repetition, echo, inversion = (round(ms / 1000, 6) for ms in scan.scanner.times_ms)
    return {
        "Modality": "MR",
        "Manufacturer": "volssl simulator",
        "ManufacturersModelName": scan.scanner.name,
        "MagneticFieldStrength": scan.scanner.tesla,
        "SeriesDescription": f"T1 {scan.scanner.sequence} post contrast",
        "ContrastBolusIngredient": "SIMULATED",
        "RepetitionTime": repetition,
        "EchoTime": echo,
        **({"InversionTime": inversion} if inversion else {}),
        "SkullStripped": scan.stripped,
    }


def _write_lesions(out: Path, rows: list[dict[str, Any]]) -> None:
    write_table(out / "lesions.csv", LESION_COLUMNS, [lesion for row in rows for lesion in row["lesion_rows"]])


def _entropy(settings: Settings, plan: Plan) -> str:
    """What a study's UIDs are made from."""
    return f"volssl {settings.seed} {plan.study} {settings.spacing_mm} {settings.slice_mm}"


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write an array whole or not at all; its affine is known exactly, and stands in both of the header's forms."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    part = path.with_name(f".{path.name}")
    nibabel.save(image, part)
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all."""
    part = path.with_name(f".{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write a table; what a row holds beside the columns is left out."""
    part = path.with_name(f".{path.name}")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)


HEAD_CT = Kind(
    title="head CTs",
    prefix="",
    contents=HEAD_CT_CONTENTS.format(codes=", ".join(f"{code} {kind}" for code, kind in enumerate(TYPES, start=1))),
    columns=("study", "patient", "hemorrhage", *TYPES, "slices", "mask", *PEOPLE),
    note={},
    write=write_head_ct,
)
BRAIN_MR = Kind(
    title="brain MRs",
    prefix="MR-",
    contents=BRAIN_MR_CONTENTS,
    columns=("study", "patient", "metastasis", "slices", "mask", "lesions", "largest_mm", "total_ml", *PEOPLE),
    note={"kind": "brain-mr"},
    write=partial(write_brain_mr, False),
    finish=_write_lesions,
)
