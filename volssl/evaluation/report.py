"""The pages a run leaves behind: an evaluation, a pretraining run, a comparison; one file each, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.course import PROBE, course_pictures, probe_picture
from volssl.evaluation.examples import ImageOf, worked_examples
from volssl.evaluation.figures import interval_figure, precision_recall_figure, roc_figure, score_figure
from volssl.evaluation.history import read_history, scalars_in, sentences_in, series_of
from volssl.evaluation.metrics import why_undefined
from volssl.evaluation.page import Picture, number, png_picture, readable, svg_picture, write_page
from volssl.evaluation.predictions import CHOSEN_ON_VALIDATION, Cases, cases_of
from volssl.files import write_text

CURVE = "curve"  # the loss as a picture of the run, for those who look at its folder; the page draws it better
COLUMNS = {
    "auc": "AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
}


@dataclass(frozen=True)
class ComparisonRow:
    """One model of a comparison.

    Attributes:
        name: what people call it.
        results: its figures by name, the same names in every row, the one that matters first.
        difference: its first figure minus the reference's on the same cases (`paired_difference`); None for the
            reference itself.
    """

    name: str
    results: Mapping[str, Interval]
    difference: Interval | None = field(default=None)


def write_report(
    out: Path,
    predictions: pd.DataFrame,
    metrics: Mapping[str, Any],
    *,
    title: str,
    facts: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    simulated: str | None = None,
    image_of: ImageOf | None = None,
    examples_of_each: int = 2,
) -> Path:
    """Write `report.html` of an evaluation into `out`, and its curves as SVG into `out/figures`; returns the page.

    Args:
        out: folder to write into, made if absent.
        predictions: the table that `metrics` were worked out from.
        metrics: what `evaluate_predictions` returned.
        title: heading of the page, such as `Hemorrhage on head CT`.
        facts: more lines of what was evaluated, by name: model, store, weights.
        names: what people call each output; else its own name, made readable.
        simulated: text of the banner that says the data are simulated; None where they are not.
        image_of: the network's image (R, A, S) of a study id, in [0, 1]; without it there are no worked examples.
        examples_of_each: worked examples of each kind.
    """
    outputs = list(metrics["outputs"])
    called = {output: readable(output) for output in outputs} | dict(names or {})
    first = metrics["outputs"][outputs[0]]
    point = first["operating_point"]
    examples = []
    if image_of is not None:
        threshold = None if point is None else point["threshold"]
        examples = worked_examples(
            predictions, outputs, names=called, threshold=threshold, image_of=image_of, of_each=examples_of_each
        )
    return write_page(
        "report.html.j2",
        out / "report.html",
        title=title,
        simulated=simulated,
        facts={**_counts(metrics, called[outputs[0]]), **(facts or {})},
        columns=COLUMNS,
        outputs=[{"name": called[output], **metrics["outputs"][output]} for output in outputs],
        first=first,
        first_name=called[outputs[0]],
        point=point,
        chosen_on_validation=point is not None and point["chosen_on"] == CHOSEN_ON_VALIDATION,
        bootstrap=metrics["bootstrap"],
        figures=_evaluation_figures(out / "figures", predictions, metrics, called),
        examples=examples,
        has_slices="slices" in outputs,
    )


def write_pretrain_report(
    run: Path,
    *,
    title: str = "Pretraining",
    facts: Mapping[str, str] | None = None,
    captions: Mapping[str, str] | None = None,
    simulated: str | None = None,
) -> Path:
    """Write `report.html` of a run: what it warned of, what features tell, its course, pictures; returns the page.

    Args:
        run: folder of the run.
        title: heading of the page.
        facts: what was run, by name: method, encoder, volumes, options.
        captions: text under a picture of `figures/`, by file name without suffix; else its name, made readable.
        simulated: text of the banner that says the data are simulated; None where they are not.

    Raises:
        UserError: there is no log, or a line of it is broken.
    """
    rows = read_history(run / "metrics.jsonl")
    _, kept = series_of(rows, "encoder_epoch")
    kept_epoch = int(kept[-1]) if len(kept) else None
    pictures = []
    for path in sorted((run / "figures").glob("*.png")):
        if path.stem != CURVE:
            caption = (captions or {}).get(path.stem, readable(path.stem))
            pictures.append(png_picture(path, alt=caption, caption=caption))
    return write_page(
        "pretraining.html.j2",
        run / "report.html",
        title=title,
        simulated=simulated,
        facts={**_how_far(rows, kept_epoch), **(facts or {})},
        warnings=sentences_in(rows, "warning"),
        probe=probe_picture(rows, kept=kept_epoch),
        headline=_probe_headline(rows, kept_epoch),
        probed=_probe_counts(rows),
        curves=course_pictures(rows),
        pictures=pictures,
    )


def write_comparison(
    rows: Sequence[ComparisonRow],
    out: Path,
    *,
    title: str,
    reference: str,
    facts: Mapping[str, str] | None = None,
    equal: Sequence[str] = (),
    simulated: str | None = None,
) -> Path:
    """Write `report.html` of a comparison into `out`; returns the page.

    Args:
        rows: the models, in the order to show.
        out: folder to write into, made if absent.
        title: heading of the page.
        reference: name of the model that differences are taken to.
        facts: what was compared, by name: task, split, labels.
        equal: what was the same for all models, a line each.
        simulated: text of the banner that says the data are simulated; None where they are not.
    """
    columns = list(rows[0].results)
    means = {row.name: row.results[columns[0]] for row in rows}
    differences = {row.name: row.difference for row in rows if row.difference is not None}
    figures = [_interval_picture(means, axis=columns[0], caption=f"{columns[0]} of each model with its interval.")]
    if differences:
        caption = f"{columns[0]} minus that of “{reference}” on the same cases; right of the dotted line is better."
        axis = f"Difference in {columns[0]}"
        figures.append(_interval_picture(differences, axis=axis, caption=caption, reference=0.0))
    return write_page(
        "comparison.html.j2",
        out / "report.html",
        title=title,
        simulated=simulated,
        facts=facts or {},
        columns=columns,
        rows=rows,
        reference=reference,
        level=rows[0].results[columns[0]].level,
        equal=equal,
        figures=figures,
    )


def _counts(metrics: Mapping[str, Any], first_name: str) -> dict[str, str]:
    """What was evaluated, for the head of the page."""
    first = metrics["outputs"][next(iter(metrics["outputs"]))]
    share = f" ({100 * first['positives'] / first['n']:.0f} %)" if first["n"] else ""
    counts = {"Target": first_name}
    if metrics["split"] is not None:
        counts["Split"] = metrics["split"]
    counts |= {"Studies": f"{metrics['n_studies']:,}", "Patients": f"{metrics['n_patients']:,}"}
    counts["Positive studies"] = f"{first['positives']:,} of {first['n']:,} labelled{share}"
    return counts


def _evaluation_figures(
    folder: Path, predictions: pd.DataFrame, metrics: Mapping[str, Any], names: Mapping[str, str]
) -> list[Picture]:
    """Draw the outputs that have both classes, leave the drawings as SVG files, and embed them."""
    cases = {output: cases_of(predictions, output) for output in metrics["outputs"]}
    curves = {output: of_output for output, of_output in cases.items() if why_undefined(of_output.y) is None}
    if not curves:
        return []
    found = {output: metrics["outputs"][output]["metrics"] for output in curves}
    intervals = {names[output]: Interval(**found[output]["auc"]) for output in curves}
    drawings = {
        **_curve_pictures(curves, metrics, names),
        "auc": _interval_picture(intervals, axis="AUC", caption="AUC of each output with its interval."),
    }
    first = next(iter(metrics["outputs"]))
    if first in curves:
        drawings["scores"] = _score_picture(cases[first], names[first], metrics["outputs"][first]["operating_point"])
    for name, picture in drawings.items():
        write_text(folder / f"{name}.svg", picture.content.decode("utf-8"))
    return list(drawings.values())


def _curve_pictures(
    curves: Mapping[str, Cases], metrics: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Picture]:
    """ROC and precision-recall of all outputs in one drawing each; the first has its operating point marked."""
    leader = next(iter(curves))
    first = metrics["outputs"][leader]
    figures = {output: metrics["outputs"][output]["metrics"] for output in curves}
    areas = {output: f"{names[output]}  {number(figures[output]['auc']['value'])}" for output in curves}
    precisions = {
        output: f"{names[output]}  {number(figures[output]['average_precision']['value'])}" for output in curves
    }
    specificity, sensitivity = (first["metrics"][name]["value"] for name in ("specificity", "sensitivity"))
    point = None if first["operating_point"] is None else (specificity, sensitivity)
    return {
        "roc": svg_picture(
            roc_figure(curves, labels=areas, point=point),
            alt=f"ROC curves. Area under the curve: {'; '.join(areas.values())}.",
            caption="ROC: sensitivity against false alarms, with the area under each curve.",
        ),
        "precision_recall": svg_picture(
            precision_recall_figure(curves, labels=precisions),
            alt=f"Precision-recall curves. Average precision: {'; '.join(precisions.values())}.",
            caption=f"Precision–recall, with the average precision. Dotted: guessing, for {names[leader].lower()}.",
        ),
    }


def _score_picture(cases: Cases, name: str, point: Mapping[str, Any] | None) -> Picture:
    positive, negative = (number(cases.score[cases.y == label].mean(), 2) for label in (1, 0))
    return svg_picture(
        score_figure(cases, threshold=None if point is None else point["threshold"]),
        alt=f"Histograms of the scores: mean {positive} of labelled positives, {negative} of labelled negatives.",
        caption=f"Scores of {name.lower()} among labelled positives and negatives.",
    )


def _how_far(rows: Sequence[Mapping[str, Any]], kept_epoch: int | None) -> dict[str, str]:
    """How long was trained, and which epoch's encoder is kept and why."""
    if not rows:
        return {}
    told = {"Last step": f"{rows[-1]['step']:,}"}
    epochs = [row["epoch"] for row in rows if isinstance(row.get("epoch"), int)]
    told |= {"Epochs": f"{max(epochs):,}"} if epochs else {}
    if kept_epoch is not None:
        names = scalars_in(rows)
        chosen = "validation AUC" if "validation_auc" in names else "probe" if "probe_linear_auc" in names else "loss"
        told["Encoder kept"] = f"epoch {kept_epoch}, by the {chosen}"
    return told


def _probe_headline(rows: Sequence[Mapping[str, Any]], kept_epoch: int | None) -> list[tuple[str, float, str]]:
    """The probes' figures of the kept epoch, and before training: name, AUC, AUC before."""
    headline = []
    for name, called in PROBE.names.items():
        epochs, values = series_of(rows, name, over="epoch")
        at = dict(zip(epochs, values, strict=True))
        if kept_epoch in at:
            before = f"untrained {number(at[0])}" if 0 in at else ""
            headline.append((called[:1].upper() + called[1:], at[kept_epoch], before))
    return headline


def _probe_counts(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many scans the probe rests on; empty where it is not known."""
    counts = [series_of(rows, name)[1] for name in ("probe_scans", "probe_validation_scans")]
    if not all(len(count) for count in counts):
        return ""
    return f"Trained on {counts[0][-1]:.0f} labelled scans, scored on {counts[1][-1]:.0f} of validation patients."


def _interval_picture(
    intervals: Mapping[str, Interval], *, axis: str, caption: str, reference: float | None = None
) -> Picture:
    svg = interval_figure(intervals, axis=axis, reference=reference)
    said = "; ".join(f"{name} {interval}" for name, interval in intervals.items())
    return svg_picture(svg, alt=f"{axis}: {said}.", caption=caption)
