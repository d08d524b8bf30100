"""Writes a cohort of simulated head CTs with its labels, masks and patients, as an archive's export might look."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from volssl.errors import UserError
from volssl.progress import track
from volssl.simulate.dicom_series import write_series
from volssl.simulate.head_ct import Head, simulate_head
from volssl.simulate.lesions import TYPES
from volssl.simulate.patient import PREVALENCE, Site

Format = Literal["nifti", "dicom"]
KEY = hashlib.sha256(b"volssl: the fixed key of every simulated cohort").hexdigest()  # public: nobody is behind it
ROWS = ".rows"  # while a cohort is being made: the label rows of the studies that are done
FOLLOW_UP_CHANCE = 0.18  # of one more study of the patient before
COLUMNS = ("study", "patient", "hemorrhage", *TYPES, "slices", "sex", "age", "age_band", "scanner", "site")
README = """This cohort is SIMULATED by volssl. No person was scanned; results on it are simulated results.

volumes/     head CT in Hounsfield units
masks/       the hemorrhages: 0 none, {codes}
labels.csv   one line a study; `slices` are the indices, counted from inferior, of the slices with blood
patients.csv which study is of which simulated patient
volssl.key   the key with which `volssl prepare` hashes names: fixed, so that every run gives the same ids
cohort.json  the arguments that made it
"""


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


def simulate_cohort(
    out: Path,
    n: int,
    *,
    seed: int = 0,
    site: Site = "A",
    fmt: Format = "nifti",
    spacing_mm: float = 0.9,
    slice_mm: float | None = None,
    workers: int = 2,
) -> Path:
    """Simulate `n` studies into the folder `out`, the same whatever the number of workers; returns `out`.

    Run again with the same arguments, it makes only what is missing.

    Args:
        out: a new or empty folder, or one that holds a part of the same cohort.
        n: how many studies; some patients have more than one.
        seed: of the cohort; another seed gives other patients.
        site: `A`, or `B` with other scanners and an older population, for an external test.
        fmt: `nifti` writes `volumes/STUDY.nii.gz`, `dicom` a folder of files `volumes/STUDY/`.
        spacing_mm: pixel size in plane.
        slice_mm: slice thickness; None draws one from the scanner's protocol.
        workers: processes at work.

    Raises:
        UserError: where `out` holds something else, or an argument is out of range.
    """
    if site not in PREVALENCE or fmt not in ("nifti", "dicom"):
        raise UserError(f"simulate: site {site!r}, format {fmt!r}: use site A or B and format nifti or dicom")
    if not 1 <= n <= 100_000:
        raise UserError(f"simulate: {n} studies asked for: give a number from 1 to 100000")
    if not (0.3 <= spacing_mm <= 10 and (slice_mm is None or 0.3 <= slice_mm <= 20)):
        raise UserError(
            f"simulate: pixels of {spacing_mm} mm, slices of {slice_mm} mm: give 0.3 to 10 mm, slices to 20 mm"
        )
    settings = Settings(n, seed, site, fmt, spacing_mm, slice_mm)
    out = Path(out)
    _claim(out, settings)
    if (out / "labels.csv").exists():  # written last: the cohort is whole
        return out
    plans = list(plan_cohort(n, seed=seed, site=site))
    rows = list(track(_run(out, settings, plans, workers), "simulating head CTs", total=n))
    patients = ("study", "patient", "sex", "age", "site", "scanner")
    _write_table(out / "patients.csv", patients, [{name: row[name] for name in patients} for row in rows])
    _write_table(out / "labels.csv", COLUMNS, rows)
    shutil.rmtree(out / ROWS)
    return out


def plan_cohort(n: int, *, seed: int, site: Site) -> Iterator[Plan]:
    """Name the studies and draw their seeds; a follow-up has a new pose, scanner and label, but the same anatomy."""
    rng = np.random.Generator(np.random.SFC64([seed, ord(site)]))
    patient, patient_seed = 0, 0
    for number in range(1, n + 1):
        follow_up, study_seed = rng.random() < FOLLOW_UP_CHANCE, int(rng.integers(2**31))
        if number == 1 or not follow_up:
            patient, patient_seed = patient + 1, study_seed
        yield Plan(f"{site}{seed:02d}-{number:05d}", f"SIM{site}{seed:02d}-{patient:04d}", study_seed, patient_seed)


def _claim(out: Path, settings: Settings) -> None:
    """Take the folder for this cohort, or refuse it."""
    wanted = json.dumps(asdict(settings), indent=2) + "\n"
    note = out / "cohort.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a new folder with --out")
    if note.exists() and note.read_text(encoding="utf-8") != wanted:
        raise UserError(f"{out}: holds a cohort made with other arguments; name a new folder with --out")
    if not note.exists() and out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and no simulated cohort; name a new folder with --out")
    for folder in ("volumes", "masks", ROWS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    note.write_text(wanted, encoding="utf-8")
    codes = ", ".join(f"{code} {kind}" for code, kind in enumerate(TYPES, start=1))
    (out / "README.txt").write_text(README.format(codes=codes), encoding="utf-8")
    (out / "volssl.key").write_text(KEY + "\n", encoding="ascii")


def _run(out: Path, settings: Settings, plans: list[Plan], workers: int) -> Iterator[dict[str, object]]:
    work = partial(make_study, out, settings)
    if workers <= 1:
        yield from map(work, plans)
        return
    context = multiprocessing.get_context("spawn")  # forked processes hang where the caller has threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, plans, chunksize=4)


def make_study(out: Path, settings: Settings, plan: Plan) -> dict[str, object]:
    """Write one study unless it is there already; returns its row of labels."""
    row_file = out / ROWS / f"{plan.study}.json"
    if row_file.exists():
        row: dict[str, object] = json.loads(row_file.read_text(encoding="utf-8"))
        return row
    head = simulate_head(
        plan.seed,
        site=settings.site,
        spacing_mm=settings.spacing_mm,
        slice_mm=settings.slice_mm,
        patient_seed=plan.patient_seed,
    )
    if settings.fmt == "dicom":
        entropy = f"volssl {settings.seed} {plan.study} {settings.spacing_mm} {settings.slice_mm}"
        write_series(out / "volumes" / plan.study, head, study=plan.study, patient=plan.patient, entropy=entropy)
    else:
        _write_nifti(out / "volumes" / f"{plan.study}.nii.gz", head.hu, head)
    _write_nifti(out / "masks" / f"{plan.study}.nii.gz", head.mask, head)
    row = label_row(plan, head)
    _write_text(row_file, json.dumps(row))
    return row


def label_row(plan: Plan, head: Head) -> dict[str, object]:
    """The study's line of `labels.csv`."""
    return {
        "study": plan.study,
        "patient": plan.patient,
        "hemorrhage": int(bool(head.types)),
        **{kind: int(kind in head.types) for kind in TYPES},
        "slices": ";".join(str(index) for index in head.slices),
        "sex": head.sex,
        "age": head.age_years,
        "age_band": head.age_band,
        "scanner": head.scanner,
        "site": head.site,
    }


def _write_nifti(path: Path, array: np.ndarray, head: Head) -> None:
    image = nibabel.Nifti1Image(array, head.affine)
    image.set_sform(head.affine, code=1)
    image.set_qform(head.affine, code=1)
    image.header.set_xyzt_units("mm")
    part = path.with_name(f".{path.name}")
    nibabel.save(image, part)
    os.replace(part, path)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, object]]) -> None:
    part = path.with_name(f".{path.name}")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
