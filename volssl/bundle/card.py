"""The model card and the data licence of an exported bundle: the recipe's, with what is known of the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from volssl.bundle.answer_content import RESEARCH
from volssl.bundle.metadata import BundleFacts
from volssl.bundle.packing import Packed
from volssl.bundle.ranges import written
from volssl.evaluation.output import CHOSEN_ON_VALIDATION, FIRST_POINT
from volssl.tasks import Metastasis

STATUS = {
    True: "**Trained on simulated data** (`volssl simulate`): nothing here says anything about patients.",
    False: "Trained on the data of whoever exported it.",
    None: "What it was trained on is not recorded: the store was not at hand when the bundle was written.",
}
LICENCES = {
    True: "The training data were made by `volssl simulate` (Apache-2.0). No scan of a patient is among them.\n",
    False: "The weights were trained on data that do not come with this bundle. Who exported it states here, before "
    "passing it on, where they are from and under which licence they may be used.\n",
    None: "What the weights were trained on is not recorded. Who exported the bundle states it here, before passing it "
    "on.\n",
}
SKULLS = {
    True: "**These weights were trained on skull-stripped brains: strip a study of its skull before it is answered.** "
    "volssl does not do it, and takes what is bright outside of the brain for metastases.",
    False: "A study comes with its skull or without, as the data did that these weights were trained on: which, who "
    "exported them says. volssl strips no skull.",
}
MARK = re.compile(r"<!-- (?P<name>\w+) -->.*?<!-- /(?P=name) -->", re.DOTALL)  # a part that is filled in
BEHIND_FORMATS = "## Limitations"
OTHER_FORMATS = re.compile(rf"^## Other formats\n.*?(?=^{BEHIND_FORMATS})", re.DOTALL | re.MULTILINE)
NO_DATA = "No data come with this bundle."
STOCK = "python -m monai.bundle run --bundle_root=BUNDLE"
METRICS = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}


def model_card(recipe: str, packed: Packed, facts: BundleFacts, *, configs: Sequence[str], marked: bool = False) -> str:
    """Fill in the recipe's card.

    Args:
        recipe: docs/README.md of the shipped bundle, with its marked parts.
        packed: the run.
        facts: of the weights.
        configs: what trained the weights, of the bundle's folder `configs`; each is laid over those before it.
        marked: leave the marks of the parts.
    """
    contract = facts.contract
    grid, spacing = "×".join(map(str, contract.grid)), "×".join(f"{mm:g}" for mm in contract.spacing_mm)
    labels = ", ".join(f"`{label}`" if "=" in label else label for label in facts.labels) + (
        f", then the {facts.slices} slices of the grid from inferior to superior" * bool(facts.slices)
    )
    parts = {
        "status": f"{STATUS[facts.simulated]} **{RESEARCH}**",
        "data": f"{STATUS[facts.simulated]} {packed.began} In all they saw {packed.patients} patients. {seen(facts)}"
        f"\n\n{NO_DATA}",
        "tensors": f"Input: {looked_at(facts)}; {grid} voxels of {spacing} mm along right, anterior, superior.\n\n"
        + (
            f"Output: a feature of {facts.dim} numbers."
            if facts.dim
            else f"Output: {len(facts.labels) + facts.slices} probabilities: {labels}. {behind(packed.values)}"
        ),
        "training": training(configs, facts, labels=packed.labelled, methods=marked and bool(facts.dim)),
        "figures": figure_table(packed.figures, facts),
    }
    if facts.task == Metastasis.name:
        parts["skull"] = SKULLS[stripped(facts)]
    recipe = OTHER_FORMATS.sub("", recipe)
    for name, text in parts.items():
        found = [match for match in MARK.finditer(recipe) if match["name"] == name]
        if len(found) != 1:
            raise ValueError(f"the recipe's card has {len(found)} parts marked {name}; one is needed")
        start, stop = found[0].span()
        shown = f"<!-- {name} -->\n{text}\n<!-- /{name} -->" if marked else text
        recipe = recipe[:start] + shown + recipe[stop:]
    return recipe


def training(configs: Sequence[str], facts: BundleFacts, *, labels: bool, methods: bool) -> str:
    """The lines that train the weights again with stock MONAI, and score what came out.

    Args:
        configs: as of `model_card`.
        labels: whether training needs them.
        methods: whether there are configs of other methods beside these.
    """
    run, weights = ("runs/pretraining", "encoder.pt") if facts.dim else (f"runs/{facts.task}", "model.pt")
    table = " --labels=LABELS.csv"
    told = [
        "With stock MONAI: train as these weights were trained, then score what came out on labelled test patients.",
        "Without `--weights`, those of the bundle are scored.",
        "`--encoder_path=RUN` in the first line begins with an encoder; without, training is from scratch.",
    ]
    if methods:
        told.append(
            "For another method give `\"['BUNDLE/configs/base.yaml', 'BUNDLE/configs/swav.yaml']\"` in place of "
            "`train.yaml`, in both lines."
        )
    return "\n".join(
        [
            *told,
            "",
            "```",
            f"{STOCK} --config_file={config_files(configs)} \\",
            f"    --dataset_dir=STORE{table * labels} --output_dir={run}",
            f"{STOCK} --config_file={config_files([*configs, 'evaluate.yaml'])} \\",
            f"    --dataset_dir=STORE{table} --output_dir=evaluation --weights={run}/{weights}",
            "```",
        ]
    )


def config_files(names: Sequence[str]) -> str:
    """Files of a bundle's `configs` as MONAI's command line takes them."""
    paths = [f"BUNDLE/configs/{name}" for name in names]
    return paths[0] if len(paths) == 1 else f'"{paths}"'


def with_formats(card: str, lines: Sequence[str]) -> str:
    """A card with a section on the files of other formats, a line each."""
    section = "## Other formats\n\nThe network alone, without preprocessing:\n\n" + "\n".join(lines)
    return card.replace(BEHIND_FORMATS, f"{section}\n\n{BEHIND_FORMATS}", 1)


def behind(values: Mapping[str, Any]) -> str:
    """What makes probabilities of what the network gives, by a run's entries in the inference config."""
    if set(values.get("kinds", [])) <= {"binary"}:
        step = "put a sigmoid behind them"
    else:
        step = "put behind them what `postprocessing` in `configs/inference.yaml` does"
    return f"The network itself, and every file that is exported of it, gives logits: {step}."


def counted(channels: int) -> str:
    """`one channel`, or `3 channels`."""
    return "one channel" if channels == 1 else f"{channels} channels"


def looked_at(facts: BundleFacts) -> str:
    """`one channel of CT, window with center 55 and width 200 HU mapped to [0, 1]`."""
    contract = facts.contract
    scaled = [f"window with center {center:g} and width {width:g} HU" for center, width in contract.windows_hu]
    if "MR" in contract.modality:
        scaled.append("percentiles .5 and 99.5 of MR" if scaled else "percentiles .5 and 99.5")
    low, high = contract.value_range
    brains = " of skull-stripped brains" if stripped(facts) else ""
    scan = f"{counted(contract.channels)} of {contract.modality}{brains}"
    told = f"{scan}, {', '.join(scaled)} mapped to [{low:g}, {high:g}]"
    return f"{told}, then the same of the study's coronal series, zeros without one" if facts.join else told


def stripped(facts: BundleFacts) -> bool:
    """Whether a network is known to have learnt metastases from brains without skulls.

    Simulated ones alone tell: a whole head fills more than half of its box, a stripped brain less, so that the median
    is that of air.
    """
    if facts.task != Metastasis.name or not facts.simulated or facts.ranges is None:
        return False
    return "median" in facts.ranges.values and facts.ranges.values["median"][1] == 0


def seen(facts: BundleFacts) -> str:
    """The training ranges in words."""
    if facts.ranges is None:
        return "Voxel sizes and fields of view are not recorded."
    spacing, extent = (
        " × ".join(written(pair) for pair in ranges) for ranges in (facts.ranges.spacing_mm, facts.ranges.extent_mm)
    )
    volumes = f"{facts.ranges.volumes} {'skull-stripped ' if stripped(facts) else ''}volumes"
    return f"The {volumes} of this training had voxels of {spacing} mm in a field of view of {extent} mm."


def figure_table(figures: Mapping[str, Any] | None, facts: BundleFacts) -> str:
    """The evaluation as a table with 95 % intervals, and on what it was measured."""
    if figures is None:
        by = "`configs/evaluate.yaml`" if facts.dim else "`volssl evaluate`"
        return f"Not measured: {by} had not been run when the bundle was written."
    of_what = "simulated " if facts.simulated else ""
    header = (
        f"Measured on {figures['n_studies']} {of_what}studies of {figures['n_patients']} {figures['split']} patients, "
        "with 95 % bootstrap intervals by patient.\n\n"
    )
    points = {name: point for name, output in figures["outputs"].items() if (point := operating_point(output))}
    if points:
        flattered = [name for name, point in points.items() if point["chosen_on"] != CHOSEN_ON_VALIDATION]
        but = f"; of {', '.join(flattered)} on these patients themselves, which flatters" if flattered else ""
        header += (
            "Sensitivity and specificity are those at the threshold, of each output its own, at which both are equal "
            f"on validation patients{but}.\n\n"
        )
    measured = {
        key: name for key, name in METRICS.items() if any(key in o["metrics"] for o in figures["outputs"].values())
    }
    columns = ["output", "positives", *measured.values(), *["threshold"] * bool(points)]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, output in figures["outputs"].items():
        cells = [cell(output["metrics"].get(metric)) for metric in measured]
        if points:
            cells.append(f"{points[name]['value']:.3f}" if name in points else "–")
        rows.append(f"| {name} | {output['positives']} of {output['n']} | {' | '.join(cells)} |")
    return header + "\n".join(rows)


def operating_point(output: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where an output's sensitivity and specificity were taken: threshold, rule, and whose cases chose it."""
    point = output.get("operating_points", {}).get(FIRST_POINT)
    return point and {"value": point["threshold"], "rule": point["rule"], "chosen_on": point["chosen_on"]}


def cell(figure: Mapping[str, Any] | None) -> str:
    """`.912 (.880–.941)`, or a dash where it could not be worked out."""
    if not figure or figure["value"] is None:
        return "–"
    interval = f" ({figure['low']:.3f}–{figure['high']:.3f})" if figure["low"] is not None else ""
    return f"{figure['value']:.3f}{interval}"


def shortened(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """The evaluation as metadata.json keeps it: value and interval of each metric of each output, and the threshold."""
    if figures is None:
        return {}
    kept = {
        name: {
            metric: {key: values[key] for key in ("value", "low", "high")}
            for metric, values in output["metrics"].items()
            if values["value"] is not None
        }
        | ({"threshold": point} if (point := operating_point(output)) else {})
        for name, output in figures["outputs"].items()
    }
    elsewhere = {"external": True} if figures.get("external") else {}
    return {key: figures[key] for key in ("split", "n_studies", "n_patients")} | elsewhere | {"outputs": kept}
