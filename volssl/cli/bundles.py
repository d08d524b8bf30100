"""The commands around a bundle: export, predict, and the demo of the whole line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volssl.cli.shared import JsonOption, KeyOption, ModalityOption, app, result, then, wrote
from volssl.errors import UsageError


@app.command(epilog="Example: volssl export runs/hemorrhage --bundle out/head_ct_hemorrhage_classification")
def export(
    run: Annotated[Path, typer.Argument(help="A run of `volssl finetune` or `volssl pretrain`.")],
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle to write.")] = None,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="The network as models/model.ts too.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="The network as models/model.onnx too.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="The network as models/model.pt2 too.")] = False,
    stock: Annotated[
        Path | None, typer.Option(help="File for the encoder alone, as MONAI's SwinUNETR or DenseNet121 loads it.")
    ] = None,
) -> None:
    """Pack a classifier or an encoder as a MONAI bundle that any MONAI tool runs, or for a stock network."""
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
    modality: ModalityOption = None,
    key: KeyOption = None,
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
