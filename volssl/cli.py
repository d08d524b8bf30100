"""The commands: each parses, calls one function, says what was written and what to run next."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import volssl
from volssl.errors import UsageError, UserError, file_error, unforeseen, user_error_in
from volssl.progress import console, say

INTERRUPTED = 130  # what typer makes of Ctrl-C, and shells expect
NOTICE = "volssl is research software and no medical device."

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Self-supervised learning on 3D CT and MR volumes, from the archive's folder to a MONAI bundle.",
    epilog=f"{NOTICE} Add --debug to any command for the full traceback of an error.",
)
simulate_app = typer.Typer(no_args_is_help=True, help="Make a cohort with known truth; simulated, and called so.")
app.add_typer(simulate_app, name="simulate")


class FileFormat(StrEnum):
    """How a simulated cohort is written."""

    nifti = "nifti"
    dicom = "dicom"


class Site(StrEnum):
    """Scanner and population of a simulated cohort."""

    a = "A"
    b = "B"


class LabelSet(StrEnum):
    """A public data set whose label table is known."""

    rsna2019 = "rsna2019"
    cq500 = "cq500"


class Oblique(StrEnum):
    """What becomes of a grid that lies aslant."""

    keep = "keep"
    resample = "resample"


class SeveralWords(TyperCommand):
    """A command with options that take all words up to the next one: `--encoders scratch runs/swav`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option before each of its words; KEY=VALUE ends them, but for NAME=RUN where there is such a run."""
        taken = {"--encoders": is_encoder, "--fractions": is_number}
        spread, option, first = [], "", False
        for word in args:
            if word.startswith("--"):
                option, first = word if word in taken else "", True
                spread.append(word)
                continue
            if option and not first and taken[option](word):
                spread.append(option)
            elif not first:
                option = ""
            spread.append(word)
            first = False
        return super().parse_args(ctx, spread)


def is_encoder(word: str) -> bool:
    """Whether a word is an encoder of a comparison, not an override of its config."""
    return "=" not in word or Path(word.partition("=")[2]).exists()


def is_number(word: str) -> bool:
    """Whether a word is a number."""
    return word.replace(".", "", 1).isdigit()


StoreOption = Annotated[Path, typer.Option(help="What `volssl prepare` wrote.")]
LabelsOption = Annotated[Path, typer.Option(help="A CSV keyed by `study`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
MethodArgument = Annotated[
    str, typer.Argument(help="swav, restoration, combined, hybrid, simclr, moco, rotation or swin_unetr.")
]
PresetOption = Annotated[str, typer.Option(help="Other values for the method's config; swav has paper.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config entries, or keywords of an object in it: method::epsilon=0.05"),
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(volssl.__version__)
        raise typer.Exit


@simulate_app.command("head-ct", epilog="Example: volssl simulate head-ct --n 60 --out cohort")
def simulate_head_ct(
    out: Annotated[Path, typer.Option(help="Folder to write; made where it is missing.")],
    n: Annotated[int, typer.Option(min=1, help="Studies.")] = 60,
    fmt: Annotated[FileFormat, typer.Option("--format", help="File format.")] = FileFormat.nifti,
    seed: Annotated[int, typer.Option(help="The cohort is a function of it.")] = 0,
    site: Annotated[Site, typer.Option(help="B shifts scanner and population, for an external test.")] = Site.a,
    spacing_mm: Annotated[float, typer.Option(min=0.3, max=8, help="Voxel size in plane.")] = 0.9,
    slice_mm: Annotated[
        float | None, typer.Option(min=0.5, max=10, help="Slice thickness; drawn where left out.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the cohort does not depend on it.")] = 2,
) -> None:
    """Simulated head CTs with five types of hemorrhage or none: volumes, masks, labels.csv."""
    from volssl.simulate.cohort import simulate_cohort

    written = simulate_cohort(
        out, n, seed=seed, site=site.value, fmt=fmt.value, spacing_mm=spacing_mm, slice_mm=slice_mm, workers=workers
    )
    wrote(written, written / "labels.csv")
    then(f"volssl prepare {out} --store store")


@simulate_app.command("brain-mr", epilog="Example: volssl simulate brain-mr --n 60 --out cohort")
def simulate_brain_mr(
    out: Annotated[Path, typer.Option(help="Folder to write; made where it is missing.")],
    n: Annotated[int, typer.Option(min=1, help="Studies.")] = 60,
    fmt: Annotated[FileFormat, typer.Option("--format", help="File format.")] = FileFormat.nifti,
    seed: Annotated[int, typer.Option(help="The cohort is a function of it.")] = 0,
    site: Annotated[Site, typer.Option(help="B shifts scanner and population, for an external test.")] = Site.a,
    spacing_mm: Annotated[float, typer.Option(min=0.3, max=8, help="Voxel size in plane.")] = 1.0,
    slice_mm: Annotated[
        float | None, typer.Option(min=0.5, max=10, help="Slice thickness; drawn where left out.")
    ] = None,
    stripped: Annotated[bool, typer.Option("--stripped", help="Without skull and scalp.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the cohort does not depend on it.")] = 2,
) -> None:
    """Simulated brain MRs, T1 after contrast, with metastases or none: volumes, masks, labels.csv, lesions.csv."""
    from volssl.simulate.cohort import simulate_brain_mr_cohort

    written = simulate_brain_mr_cohort(
        out,
        n,
        seed=seed,
        site=site.value,
        fmt=fmt.value,
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
    modality: Annotated[str | None, typer.Option(help="CT or MR, for files that do not say.")] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV: study, patient and optionally split, sex, age, site.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the hashes; made on first use where left out.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    oblique: Annotated[Oblique, typer.Option(help="A grid that lies aslant: kept, or resampled to straight axes.")] = (
        Oblique.keep
    ),
    as_json: JsonOption = False,
) -> None:
    """Read an archive's folder into a store: RAS, HU, checked; what fails is listed with its reason."""
    from volssl.bundle.next_step import pretraining_line
    from volssl.data import prepare as run

    summary = run(sources, store, modality=modality, patients=patients, key=key, workers=workers, oblique=oblique.value)
    say(str(summary))
    result(as_json, summary.as_dict())
    wrote(store / "manifest.parquet", store / "rejected.csv")
    then(pretraining_line(store))


@app.command(epilog="Example: volssl inspect store --out store.html")
def inspect(
    store: Annotated[Path, typer.Argument(help="What `volssl prepare` wrote.")],
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
    store: Annotated[Path, typer.Argument(help="What `volssl prepare` wrote.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
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
    store: Annotated[Path, typer.Argument(help="What `volssl prepare` wrote.")],
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
    data_set: Annotated[LabelSet, typer.Argument(metavar="DATASET", help="rsna2019 or cq500.")],
    table: Annotated[Path, typer.Argument(help="Its own label table: stage_2_train.csv or reads.csv.")],
    out: Annotated[Path, typer.Option(help="The CSV to write, keyed by `study`.")],
    store: Annotated[Path | None, typer.Option(help="What `volssl prepare` wrote; rsna2019 needs it.")] = None,
) -> None:
    """Turn the label table of a public data set into one that finetune takes."""
    from volssl.data.label_converters import convert_labels

    found = convert_labels(data_set.value, table, out, store=store)
    positive = int((found["hemorrhage"] == 1).sum())
    say(f"{len(found)} studies, {positive} with hemorrhage, {int(found['hemorrhage'].isna().sum())} unknown")
    wrote(out)
    then(f"volssl finetune hemorrhage --store {store or 'store'} --labels {out} --out runs/hemorrhage")


@app.command(epilog="Example: volssl pretrain swav --store store --out runs/swav max_epochs=20 batch_size=8")
def pretrain(
    method: MethodArgument,
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    overrides: Overrides = None,
    encoder: Annotated[Path | None, typer.Option(help="A run or an encoder.pt to go on from.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="A CSV keyed by `study`: the hybrid method learns from it, others are probed.")
    ] = None,
    preset: PresetOption = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Pretrain an encoder on the training patients of a store."""
    from volssl.bundle.workflow import pretrain as run

    run(
        method,
        store=store,
        out=out,
        encoder=encoder,
        labels=labels,
        preset=preset,
        resume=resume,
        words=overrides or [],
    )
    wrote(out / "encoder.pt", out / "report.html")
    then(f"volssl finetune hemorrhage --store {store} --labels labels.csv --encoder {out} --out runs/hemorrhage")


@app.command(epilog="Example: volssl estimate swav --store store batch_size=8")
def estimate(
    method: MethodArgument,
    store: StoreOption,
    overrides: Overrides = None,
    labels: Annotated[Path | None, typer.Option(help="A CSV keyed by `study`, where the run will have one.")] = None,
    preset: PresetOption = "",
    steps: Annotated[int, typer.Option(min=2, help="Real steps that are timed.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """What a pretraining would take, from a few real steps: time a step, memory, time to the end."""
    from volssl.bundle.estimate import estimate as run

    found = run(method, store=store, words=overrides or [], labels=labels, preset=preset, steps=steps)
    say(str(found))
    result(as_json, found.as_dict())
    options = [*(["--labels", str(labels)] if labels else []), *(["--preset", preset] if preset else [])]
    told = shlex.join([*options, *(overrides or [])])
    then(f"volssl pretrain {method} --store {store} --out runs/{method} {told}".rstrip())


@app.command(
    epilog="Example: volssl finetune hemorrhage --store store --labels cohort/labels.csv --encoder runs/swav "
    "--out runs/hemorrhage"
)
def finetune(
    task: Annotated[str, typer.Argument(help="hemorrhage, metastasis or classification.")],
    store: StoreOption,
    labels: LabelsOption,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    overrides: Overrides = None,
    encoder: Annotated[Path | None, typer.Option(help="A run or an encoder.pt; from scratch where left out.")] = None,
    mode: Annotated[
        str, typer.Option(help="full; last: its last levels and the head; frozen: the head; probe; knn.")
    ] = "full",
    fraction: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the training patients to use.")] = 1.0,
    target: Annotated[
        str, typer.Option(help="Label columns of a classification: 0/1, classes or steps; several parted by commas.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Fine-tune a classifier on a store's labelled training patients."""
    from volssl.bundle.workflow import finetune as run

    run(
        task,
        store=store,
        labels=labels,
        out=out,
        encoder=encoder,
        mode=mode,
        fraction=fraction,
        target=target,
        resume=resume,
        words=overrides or [],
    )
    wrote(out / "model.pt", out / "figures", out / "report.html")
    then(f"volssl evaluate {out} --store {store} --labels {labels} --out {out}/test")


@app.command(epilog="Example: volssl evaluate runs/hemorrhage --store store --labels cohort/labels.csv --out results")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run of `volssl finetune`.")],
    store: StoreOption,
    labels: LabelsOption,
    out: Annotated[Path, typer.Option(help="Folder for the figures and the page.")],
    split: Annotated[
        str, typer.Option(help="test, validation or train; all for a store of another site: every labelled patient.")
    ] = "test",
    by: Annotated[str, typer.Option(help="Subgroups, joined by commas: sex, age_band, scanner, site.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Score a classifier: intervals by patient, operating points, calibration, subgroups, and a page to read."""
    from volssl.bundle.evaluate import evaluate_run, summary

    groups = [name.strip() for name in by.split(",") if name.strip()]
    metrics = evaluate_run(run, store=store, labels=labels, split=split, out=out, by=groups)
    console.print(summary(metrics))
    result(as_json, metrics)
    wrote(out / "report.html", out / "metrics.json", out / "predictions.parquet")
    then(f"volssl export {run} --bundle out/head_ct_hemorrhage_classification")


@app.command(
    cls=SeveralWords,
    epilog="Example: volssl compare hemorrhage --store store --labels cohort/labels.csv --encoders scratch runs/swav "
    "--fractions 0.1 1 --seeds 3 --out comparison max_epochs=40",
)
def compare(
    task: Annotated[str, typer.Argument(help="hemorrhage or classification.")],
    store: StoreOption,
    labels: LabelsOption,
    encoders: Annotated[list[str], typer.Option(help="scratch, and runs of `volssl pretrain`, or NAME=RUN.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, the tables and the page.")],
    overrides: Overrides = None,
    fractions: Annotated[list[float] | None, typer.Option(help="Of the labelled patients; 0.1 0.25 0.5 1.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repeats, each with its own seed and draw of patients.")] = 5,
    modes: Annotated[str, typer.Option(help="Of `volssl finetune`, parted by commas.")] = "full",
    split: Annotated[str, typer.Option(help="test, or validation: the test stays closed.")] = "test",
    target: Annotated[str, typer.Option(help="Label columns of a classification, parted by commas.")] = "",
    cases: Annotated[int, typer.Option(min=1, help="Scans that are changed, for robustness.")] = 50,
    draws: Annotated[int, typer.Option(min=0, help="Changes of each scan and kind; 0 for none.")] = 50,
    workers: Annotated[int, typer.Option(min=1, help="Jobs at once; the figures do not depend on it.")] = 2,
) -> None:
    """Did pretraining help? Encoders and scratch, few and many labels, repeated: tables, intervals, and a page."""
    from volssl.bundle.compare import FRACTIONS
    from volssl.bundle.compare import compare as run

    files = run(
        task,
        store=store,
        labels=labels,
        encoders=encoders,
        out=out,
        fractions=fractions or FRACTIONS,
        seeds=seeds,
        modes=[mode for mode in modes.split(",") if mode],
        split=split,
        target=target,
        cases=cases,
        draws=draws,
        workers=workers,
        words=overrides or [],
    )
    wrote(*files)
    then(f"open {files[0]} in a browser")


@app.command(epilog="Example: volssl embed runs/swav --store store --out embedding")
def embed(
    run: Annotated[Path, typer.Argument(help="A run of `volssl pretrain` or `volssl finetune`.")],
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder for the table and the page.")],
    split: Annotated[
        list[str] | None, typer.Option(help="train, validation or test; may be repeated; all where left out.")
    ] = None,
    neighbours: Annotated[str, typer.Option(metavar="STUDY", help="List the volumes most alike to this study.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Neighbours that are listed.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Features of every volume to Parquet, a study's neighbours, and a page of what SwAV's prototypes grouped."""
    from volssl.bundle.embed import embed_run
    from volssl.data.splits import SPLITS

    found = embed_run(run, store=store, out=out, splits=split or SPLITS, study=neighbours, count=count)
    near = [] if found.neighbours is None else found.neighbours.to_dict("records")
    for row in near:
        say(f"{row['rank']:>3}  {row['id']}  {row['split']}  cosine {row['cosine']:.3f}")
    result(as_json, {"volumes": len(found.rows), "dim": found.features.shape[1], "neighbours": near})
    wrote(*found.files)
    then(f"volssl embed {run} --store {store} --out {out} --neighbours STUDY, or open the page of prototypes")


@app.command(epilog="Example: volssl export runs/hemorrhage --bundle out/head_ct_hemorrhage_classification")
def export(
    run: Annotated[Path, typer.Argument(help="A run of `volssl finetune`; for --stock also of `volssl pretrain`.")],
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle to write.")] = None,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="The network as models/model.ts too.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="The network as models/model.onnx too.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="The network as models/model.pt2 too.")] = False,
    stock: Annotated[
        Path | None, typer.Option(help="File for the encoder alone, as MONAI's SwinUNETR or DenseNet121 loads it.")
    ] = None,
) -> None:
    """Pack a classifier as a MONAI bundle that any MONAI tool runs, or its encoder for a stock network."""
    from volssl.bundle.export import export_run
    from volssl.bundle.stock import export_stock

    asked = {"torchscript": torchscript, "onnx": onnx, "torch-export": torch_export}
    formats = [name for name, wanted in asked.items() if wanted]
    if not bundle and (formats or not stock):
        raise UsageError("nothing to write: give --bundle FOLDER for a bundle, or --stock FILE for the encoder alone")
    if stock:
        wrote(export_stock(run, stock))
    if bundle:
        wrote(*export_run(run, bundle, formats=formats))
        then(f"volssl predict {bundle} STUDY --out answer")


@app.command(epilog="Example: volssl predict out/head_ct_hemorrhage_classification studies/0001 --out answer")
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle that `volssl export` wrote.")],
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="DICOM folders or volume files.")],
    out: Annotated[Path, typer.Option(help="Folder for the answers.")],
    modality: Annotated[str | None, typer.Option(help="CT or MR, for files that do not say.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the hashes; made on first use where left out.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run a bundle whose configs name code of others.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write where the network looked: NIfTI and PNG.")] = False,
    dicom_sr: Annotated[bool, typer.Option("--dicom-sr", help="Write DICOM reports, which name the patient.")] = False,
    research_only: Annotated[bool, typer.Option("--research-only", help="Mark the reports as research.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer for studies, straight from DICOM: a JSON each, with what was done to the scan."""
    from volssl.bundle.predict import predict_studies

    answers = predict_studies(
        bundle,
        studies,
        out,
        modality=modality,
        key=key,
        trust=trust,
        overlay=overlay,
        dicom_sr=dicom_sr,
        research_only=research_only,
    )
    result(as_json, [answer.as_dict() for answer in answers])
    wrote(*[answer.path for answer in answers], out / "answers.csv", out / "paths.csv")
    say(NOTICE)
    then(f"open {out / 'answers.csv'}, or volssl evaluate RUN --store STORE --labels CSV --out DIR on labelled scans")


@app.command(epilog="Example: volssl demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo"),
    n: Annotated[int, typer.Option(min=40, help="Simulated studies.")] = 400,
    seed: Annotated[int, typer.Option(help="Of the cohort and of the training.")] = 0,
) -> None:
    """The whole line on a simulated cohort, minutes on two CPU cores."""
    from volssl.bundle.demo import run_demo

    report = run_demo(out, n=n, seed=seed)
    wrote(report)
    then(f"open {report} in a browser, or volssl predict {out}/head_ct_hemorrhage_classification STUDY --out answer")


def wrote(*paths: Path) -> None:
    """Name the files that a command wrote."""
    for path in paths:
        if path.exists():
            say(f"wrote {path}")


def then(command: str) -> None:
    """Name the command to run next."""
    say(f"next: {command}")


def result(as_json: bool, value: Any) -> None:
    """Print a result for machines, where asked."""
    if as_json:
        typer.echo(json.dumps(value, indent=2))


def main() -> None:
    """Run the command line; exit 0 done, 1 failed, 2 usage."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:  # unknown option, missing argument, value of the wrong type
        if error.format_message():
            told = f"error: {error.format_message()} (volssl --help lists the commands and what they take)"
            say(told, every_rank=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        cause = file_error(error) or user_error_in(error)
        say(f"error: {cause or f'{unforeseen(error)} (--debug shows where)'}", every_rank=True)
        sys.exit(2 if isinstance(cause, UsageError) else 1)
    if code == INTERRUPTED:
        say("stopped")
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
