"""Writes a cohort of simulated scans with its labels, masks and patients, as an archive's export might look."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from volssl.errors import UserError
from volssl.progress import track
from volssl.simulate.patient import PREVALENCE, Site
from volssl.simulate.studies import (
    BRAIN_MR,
    HEAD_CT,
    Format,
    Kind,
    Plan,
    Settings,
    write_brain_mr,
    write_table,
    write_text,
)

KEY = hashlib.sha256(b"volssl: the fixed key of every simulated cohort").hexdigest()  # public: nobody is behind it
ROWS = ".rows"  # while a cohort is being made: the label rows of the studies that are done
FOLLOW_UP_CHANCE = 0.18  # of one more study of the patient before
README = """This cohort is SIMULATED by volssl. No person was scanned; results on it are simulated results.

{contents}
patients.csv which study is of which simulated patient
volssl.key   the key with which `volssl prepare` hashes names: fixed, so that every run gives the same ids
cohort.json  the arguments that made it
"""


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
    return _write_cohort(HEAD_CT, Path(out), Settings(n, seed, site, fmt, spacing_mm, slice_mm), workers)


def simulate_brain_mr_cohort(
    out: Path,
    n: int,
    *,
    seed: int = 0,
    site: Site = "A",
    fmt: Format = "nifti",
    spacing_mm: float = 1.0,
    slice_mm: float | None = None,
    stripped: bool = False,
    workers: int = 2,
) -> Path:
    """Simulate `n` brain MRs with and without metastases into the folder `out`; returns `out`.

    Arguments and errors are those of `simulate_cohort`; `stripped` sets all outside the brain to 0. Volumes as NIfTI
    have a JSON file beside them that says what they are, as BIDS has it.
    """
    kind = replace(BRAIN_MR, note=BRAIN_MR.note | {"stripped": stripped}, write=partial(write_brain_mr, stripped))
    return _write_cohort(kind, Path(out), Settings(n, seed, site, fmt, spacing_mm, slice_mm), workers)


def _write_cohort(kind: Kind, out: Path, settings: Settings, workers: int) -> Path:
    n, spacing_mm, slice_mm = settings.n, settings.spacing_mm, settings.slice_mm
    if settings.site not in PREVALENCE or settings.fmt not in ("nifti", "dicom"):
        raise UserError(
            f"simulate: site {settings.site!r}, format {settings.fmt!r}: use site A or B and format nifti or dicom"
        )
    if not 1 <= n <= 100_000:
        raise UserError(f"simulate: {n} studies asked for: give a number from 1 to 100000")
    if not (0.3 <= spacing_mm <= 10 and (slice_mm is None or 0.3 <= slice_mm <= 20)):
        raise UserError(
            f"simulate: pixels of {spacing_mm} mm, slices of {slice_mm} mm: give 0.3 to 10 mm, slices to 20 mm"
        )
    _claim(kind, out, settings)
    if (out / "labels.csv").exists():  # written last: the cohort is whole
        return out
    plans = list(plan_cohort(n, seed=settings.seed, site=settings.site, prefix=kind.prefix))
    rows = list(track(_run(kind, out, settings, plans, workers), f"simulating {kind.title}", total=n))
    patients = ("study", "patient", "sex", "age", "site", "scanner")
    write_table(out / "patients.csv", patients, rows)
    if kind.finish:
        kind.finish(out, rows)
    write_table(out / "labels.csv", kind.columns, rows)
    shutil.rmtree(out / ROWS)
    return out


def plan_cohort(n: int, *, seed: int, site: Site, prefix: str = "") -> Iterator[Plan]:
    """Name the studies and draw their seeds; a follow-up has a new pose, scanner and label, but the same anatomy."""
    rng = np.random.Generator(np.random.SFC64([seed, ord(site)]))
    patient, patient_seed = 0, 0
    for number in range(1, n + 1):
        follow_up, study_seed = rng.random() < FOLLOW_UP_CHANCE, int(rng.integers(2**31))
        if number == 1 or not follow_up:
            patient, patient_seed = patient + 1, study_seed
        name = f"{prefix}{site}{seed:02d}"
        yield Plan(f"{name}-{number:05d}", f"SIM{name}-{patient:04d}", study_seed, patient_seed)


def _claim(kind: Kind, out: Path, settings: Settings) -> None:
    """Take the folder for this cohort, or refuse it."""
    wanted = json.dumps(kind.note | asdict(settings), indent=2) + "\n"
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
    (out / "README.txt").write_text(README.format(contents=kind.contents), encoding="utf-8")
    (out / "volssl.key").write_text(KEY + "\n", encoding="ascii")


def _run(kind: Kind, out: Path, settings: Settings, plans: list[Plan], workers: int) -> Iterator[dict[str, Any]]:
    work = partial(make_study, kind, out, settings)
    if workers <= 1:
        yield from map(work, plans)
        return
    context = multiprocessing.get_context("spawn")  # forked processes hang where the caller has threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(work, plans, chunksize=4)


def make_study(kind: Kind, out: Path, settings: Settings, plan: Plan) -> dict[str, Any]:
    """Write one study unless it is there already; returns its row of labels."""
    row_file = out / ROWS / f"{plan.study}.json"
    if row_file.exists():
        done: dict[str, Any] = json.loads(row_file.read_text(encoding="utf-8"))
        return done
    row = kind.write(out, settings, plan)
    write_text(row_file, json.dumps(row))
    return row
