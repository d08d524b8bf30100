"""The commands that train: pretrain, estimate, finetune."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from volssl.bundle.shipped import PRETRAINING, SINGLE, TASK_BUNDLES, presets, train_configs
from volssl.cli.shared import JsonOption, LabelsOption, Overrides, StoreOption, app, result, then, wrote
from volssl.progress import say

METHODS = train_configs(PRETRAINING)
TASK_PRESETS = {
    task: [name for name in presets(bundle, "train") if name not in (SINGLE, "frozen")]  # which --mode lays over it
    for task, bundle in TASK_BUNDLES.items()
}
PRESETS = "; ".join(
    f"of {name} {', '.join(others)}" for name in METHODS if (others := list(presets(PRETRAINING, name))[1:])
)
MethodArgument = Annotated[str, typer.Argument(help=f"{', '.join(METHODS[:-1])} or {METHODS[-1]}.")]
PresetOption = Annotated[
    str, typer.Option(help=f"{SINGLE}, the method's config as it stands, or other values for it: {PRESETS}.")
]
LabelsToo = Annotated[
    Path | None, typer.Option(help="A CSV keyed by `study`: the hybrid method learns from it, others are probed.")
]
TaskPresetOption = Annotated[
    str,
    typer.Option(
        help=f"{SINGLE}, the task's config as it stands, or other values for it: "
        + "; ".join(f"of {task} {', '.join(names)}" for task, names in TASK_PRESETS.items() if names)
        + "."
    ),
]
TargetOption = Annotated[
    str, typer.Option(help="Its label columns, CT or MR, parted by commas; hemorrhage on CT where left out.")
]
RunOption = Annotated[Path, typer.Option(help="Folder of the run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]


@app.command(epilog="Example: volssl pretrain swav --store store --out runs/swav max_epochs=20 batch_size=8")
def pretrain(
    method: MethodArgument,
    store: StoreOption,
    out: RunOption,
    overrides: Overrides = None,
    encoder: Annotated[Path | None, typer.Option(help="A run or an encoder.pt to go on from.")] = None,
    labels: LabelsToo = None,
    target: TargetOption = "",
    preset: PresetOption = SINGLE,
    resume: ResumeOption = False,
) -> None:
    """Pretrain an encoder on the training patients of a store."""
    from volssl.bundle.next_step import finetuning_line
    from volssl.bundle.workflow import pretrain as run

    run(
        method,
        store=store,
        out=out,
        encoder=encoder,
        labels=labels,
        target=target,
        preset=preset,
        resume=resume,
        words=overrides or [],
    )
    wrote(out / "encoder.pt", out / "report.html")
    then(finetuning_line(out, store))


@app.command(epilog="Example: volssl estimate swav --store store batch_size=8")
def estimate(
    method: MethodArgument,
    store: StoreOption,
    overrides: Overrides = None,
    labels: LabelsToo = None,
    target: TargetOption = "",
    preset: PresetOption = SINGLE,
    steps: Annotated[int, typer.Option(min=2, help="Real steps that are timed.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """What a pretraining would take, from a few real steps: time a step, memory, time to the end."""
    from volssl.bundle.estimate import estimate as run

    found = run(method, store=store, words=overrides or [], labels=labels, target=target, preset=preset, steps=steps)
    say(str(found))
    result(as_json, found.as_dict())
    options = {"--labels": str(labels or ""), "--target": target, "--preset": "" if preset == SINGLE else preset}
    told = shlex.join([*(word for option in options.items() if option[1] for word in option), *(overrides or [])])
    then(f"volssl pretrain {method} --store {store} --out runs/{method} {told}".rstrip())


@app.command(
    epilog="Example: volssl finetune hemorrhage --store store --labels cohort/labels.csv --encoder runs/swav "
    "--out runs/hemorrhage"
)
def finetune(
    task: Annotated[str, typer.Argument(help="hemorrhage, metastasis or classification.")],
    store: StoreOption,
    labels: LabelsOption,
    out: RunOption,
    overrides: Overrides = None,
    encoder: Annotated[Path | None, typer.Option(help="A run or an encoder.pt; from scratch where left out.")] = None,
    mode: Annotated[
        str, typer.Option(help="full; last: its last levels and the head; frozen: the head; probe; knn.")
    ] = "full",
    fraction: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the training patients to use.")] = 1.0,
    target: Annotated[
        str, typer.Option(help="Label columns of a classification: 0/1, classes or steps; several parted by commas.")
    ] = "",
    preset: TaskPresetOption = SINGLE,
    resume: ResumeOption = False,
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
        preset=preset,
        resume=resume,
        words=overrides or [],
    )
    wrote(out / "model.pt", out / "figures", out / "report.html")
    then(f"volssl evaluate {out} --store {store} --labels {labels} --out {out}/test")
