"""The commands that show what was learnt: evaluate, compare, embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from volssl.cli.shared import JsonOption, LabelsOption, Overrides, StoreOption, app, result, then, wrote
from volssl.progress import console, say


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
    from volssl.bundle.evaluate import evaluate_run
    from volssl.bundle.next_step import export_line
    from volssl.evaluation.terminal import beside, summary

    groups = [name.strip() for name in by.split(",") if name.strip()]
    metrics = evaluate_run(run, store=store, labels=labels, split=split, out=out, by=groups)
    console.print(summary(metrics))
    if (table := beside(metrics)) is not None:
        console.print(table)
    result(as_json, metrics)
    wrote(out / "report.html", out / "metrics.json", out / "predictions.parquet")
    if line := export_line(run):
        then(line)


@app.command(
    cls=SeveralWords,
    epilog="Example: volssl compare hemorrhage --store store --labels cohort/labels.csv --encoders scratch runs/swav "
    "--fractions 0.1 1 --seeds 3 --out comparison max_epochs=40",
)
def compare(
    task: Annotated[str, typer.Argument(help="hemorrhage, metastasis or classification.")],
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
    from volssl.bundle.prototypes import PAGE
    from volssl.data.splits import SPLITS

    found = embed_run(run, store=store, out=out, splits=split or SPLITS, study=neighbours, count=count)
    near = [] if found.neighbours is None else found.neighbours.to_dict("records")
    for row in near:
        say(f"{row['rank']:>3}  {row['id']}  {row['split']}  cosine {row['cosine']:.3f}")
    result(as_json, {"volumes": len(found.rows), "dim": found.features.shape[1], "neighbours": near})
    wrote(*found.files)
    page = f", or open {out / PAGE}" if out / PAGE in found.files else ""
    then(f"volssl embed {run} --store {store} --out {out} --neighbours STUDY{page}")
