"""The commands from scans to a store: simulate, prepare, inspect, check, split, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from volssl.cli.shared import JsonOption, KeyOption, ModalityOption, StoreArgument, app, result, then, wrote
from volssl.errors import UsageError, UserError
from volssl.progress import say

simulate_app = typer.Typer(no_args_is_help=True, help="Make a cohort with known truth; simulated, and called so.")
app.add_typer(simulate_app, name="simulate")

# What both simulators take.
CohortFolderOption = Annotated[Path, typer.Option(help="Folder to write; made where it is missing.")]
StudiesOption = Annotated[int, typer.Option(min=1, help="Studies.")]
FormatOption = Annotated[Literal["nifti", "dicom"], typer.Option("--format", help="File format.")]
SeedOption = Annotated[int, typer.Option(help="The cohort is a function of it.")]
SiteOption = Annotated[Literal["A", "B"], typer.Option(help="B shifts scanner and population, for an external test.")]
SpacingOption = Annotated[float, typer.Option(min=0.3, max=8, help="Voxel size in plane.")]
SliceOption = Annotated[float | None, typer.Option(min=0.5, max=10, help="Slice thickness; drawn where left out.")]
CohortWorkersOption = Annotated[int, typer.Option(min=1, help="Processes; the cohort does not depend on it.")]

WorkersOption = Annotated[int, typer.Option(min=1, help="Processes.")]


@simulate_app.command("head-ct", epilog="Example: volssl simulate head-ct --n 60 --out cohort")
def simulate_head_ct(
    out: CohortFolderOption,
    n: StudiesOption = 60,
    fmt: FormatOption = "nifti",
    seed: SeedOption = 0,
    site: SiteOption = "A",
    spacing_mm: SpacingOption = 0.9,
    slice_mm: SliceOption = None,
    workers: CohortWorkersOption = 2,
) -> None:
    """Simulated head CTs with five types of hemorrhage or none: volumes, masks, labels.csv."""
    from volssl.simulate.cohort import simulate_cohort

    written = simulate_cohort(
        out, n, seed=seed, site=site, fmt=fmt, spacing_mm=spacing_mm, slice_mm=slice_mm, workers=workers
    )
    wrote(written, written / "labels.csv")
    then(f"volssl prepare {out} --store store")


@simulate_app.command("brain-mr", epilog="Example: volssl simulate brain-mr --n 60 --out cohort")
def simulate_brain_mr(
    out: CohortFolderOption,
    n: StudiesOption = 60,
    fmt: FormatOption = "nifti",
    seed: SeedOption = 0,
    site: SiteOption = "A",
    spacing_mm: SpacingOption = 1.0,
    slice_mm: SliceOption = None,
    stripped: Annotated[bool, typer.Option("--stripped", help="Without skull and scalp.")] = False,
    workers: CohortWorkersOption = 2,
) -> None:
    """Simulated brain MRs, T1 after contrast, with metastases or none: volumes, masks, labels.csv, lesions.csv."""
    from volssl.simulate.cohort import simulate_brain_mr_cohort

    written = simulate_brain_mr_cohort(
        out,
        n,
        seed=seed,
        site=site,
        fmt=fmt,
        spacing_mm=spacing_mm,
        slice_mm=slice_mm,
        stripped=stripped,
        workers=workers,
    )
    wrote(written, written / "labels.csv", written / "lesions.csv")
    then(f"volssl prepare {out} --store store")


@app.command(epilog="Example: volssl prepare export/2024 --store store")
def prepare(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Folders or files: DICOM, NIfTI, NRRD, MetaImage.")
    ],
    store: Annotated[Path, typer.Option(help="Folder of the store; new volumes are added to one that exists.")],
    modality: ModalityOption = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV: study, patient and optionally split, sex, age, site.")
    ] = None,
    key: KeyOption = None,
    workers: WorkersOption = 2,
    oblique: Annotated[
        Literal["keep", "resample"], typer.Option(help="A grid that lies aslant: kept, or resampled to straight axes.")
    ] = "keep",
    as_json: JsonOption = False,
) -> None:
    """Read an archive's folder into a store: RAS, HU, checked; what fails is listed with its reason."""
    from volssl.bundle.next_step import pretraining_line
    from volssl.data import prepare as run

    summary = run(sources, store, modality=modality, patients=patients, key=key, workers=workers, oblique=oblique)
    say(str(summary))
    result(as_json, summary.as_dict())
    wrote(store / "manifest.parquet", store / "rejected.csv")
    then(pretraining_line(store))


@app.command(epilog="Example: volssl inspect store --out store.html")
def inspect(
    store: StoreArgument,
    out: Annotated[Path | None, typer.Option(help="The page to write: an HTML file.")] = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print where each volume and each refusal came from; private.")
    ] = False,
    sheet: Annotated[int, typer.Option(min=1, help="Most slices on the contact sheet.")] = 200,
) -> None:
    """A page to find bad scans with: counts, refusals, histograms, mid-slices with the oddest first."""
    if not out and not paths:
        raise UsageError("nothing to do: give --out PAGE for the page, or --paths for the list of sources")
    if paths:
        from volssl.data.inventory import inventory

        for line in inventory(store):
            typer.echo("\t".join(line))
    if out:
        from volssl.bundle.inspect import inspect_store
        from volssl.bundle.next_step import pretraining_line

        page = inspect_store(store, out, sheet=sheet)
        wrote(page)
        then(f"open {page} in a browser, or {pretraining_line(store)}")


@app.command(epilog="Example: volssl check store")
def check(
    store: StoreArgument,
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
) -> None:
    """Read every volume of a store and compare it with its checksum; what is damaged is named."""
    from volssl.data.integrity import damaged

    found = damaged(store, workers=workers)
    result(as_json, [damage.as_dict() for damage in found])
    for damage in found:
        say(f"{damage.path}: {damage.sentence}")
    if found:
        raise UserError(
            f"{store}: {len(found)} damaged; delete the files named above and repeat the `volssl prepare` that made it"
        )
    say(f"{store}: every volume is as it was written")


@app.command(epilog="Example: volssl split store --labels labels.csv --stratify hemorrhage --folds 5")
def split(
    store: StoreArgument,
    labels: Annotated[Path | None, typer.Option(help="A CSV keyed by `study`, to count and to stratify by.")] = None,
    stratify: Annotated[list[str] | None, typer.Option(help="Label column to spread evenly; may be repeated.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Folds for cross-validation, test patients apart.")] = None,
    fractions: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Shares of train, validation and test.")
    ] = None,
    patients: Annotated[Path | None, typer.Option(help="CSV: study, patient, split: your own split.")] = None,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Draw anew for all patients but those that --patients tells.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be, and write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print who is trained and tested on, by patient; with options, draw it: stratified, in folds, or as you say."""
    from volssl.bundle.next_step import pretraining_line
    from volssl.data.split_store import split_store

    table = split_store(
        store,
        labels=labels,
        stratify=stratify or (),
        folds=folds,
        fractions=fractions,
        patients=patients,
        redraw=redraw,
        dry_run=dry_run,
    )
    say(str(table))
    result(as_json, table.as_dict())
    then(pretraining_line(store))


@app.command(epilog="Example: volssl labels rsna2019 stage_2_train.csv --store store --out labels.csv")
def labels(
    data_set: Annotated[Literal["rsna2019", "cq500"], typer.Argument(metavar="DATASET", help="rsna2019 or cq500.")],
    table: Annotated[Path, typer.Argument(help="Its own label table: stage_2_train.csv or reads.csv.")],
    out: Annotated[Path, typer.Option(help="The CSV to write, keyed by `study`.")],
    store: Annotated[Path | None, typer.Option(help="What `volssl prepare` wrote; rsna2019 needs it.")] = None,
) -> None:
    """Turn the label table of a public data set into one that finetune takes."""
    from volssl.data.label_converters import convert_labels

    found = convert_labels(data_set, table, out, store=store)
    positive = int((found["hemorrhage"] == 1).sum())
    say(f"{len(found)} studies, {positive} with hemorrhage, {int(found['hemorrhage'].isna().sum())} unknown")
    wrote(out)
    then(f"volssl finetune hemorrhage --store {store or 'store'} --labels {out} --out runs/hemorrhage")
