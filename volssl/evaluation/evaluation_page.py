"""The page of an evaluation: figures with intervals, operating points, calibration, subgroups, curves, examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.calibration import Bin
from volssl.evaluation.examples import ImageOf, LookedOf, worked_examples
from volssl.evaluation.figures import precision_recall_figure, reliability_figure, roc_figure, score_figure
from volssl.evaluation.metrics import why_undefined
from volssl.evaluation.operating_points import RULES
from volssl.evaluation.output import CHOSEN_ON_VALIDATION, FIRST_POINT
from volssl.evaluation.page import Picture, number, readable, svg_picture, write_page
from volssl.evaluation.predictions import Cases, cases_of
from volssl.evaluation.report import interval_picture
from volssl.evaluation.subgroups import SUBGROUP_FIGURES
from volssl.files import write_text

COLUMNS = {"auc": "AUC", "average_precision": "Average precision", "brier": "Brier score"}
AT_A_POINT = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "mcc": "MCC",
}
HEADLINE = ("auc", "sensitivity", "specificity")


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
    looked_of: LookedOf | None = None,
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
        looked_of: what in that image spoke for the first output; without it the examples have no overlays.
        examples_of_each: worked examples of each kind.
    """
    outputs = list(metrics["outputs"])
    called = {output: readable(output) for output in outputs} | dict(names or {})
    first = metrics["outputs"][outputs[0]]
    threshold = first["operating_points"][FIRST_POINT]["threshold"] if first["operating_points"] else None
    examples = []
    if image_of is not None:
        examples = worked_examples(
            predictions,
            outputs,
            names=called,
            threshold=threshold,
            image_of=image_of,
            looked_of=looked_of,
            of_each=examples_of_each,
        )
    subgroups = {readable(column): groups for column, groups in first["subgroups"].items()}
    return write_page(
        "report.html.j2",
        out / "report.html",
        title=title,
        simulated=simulated,
        facts={**_counts(metrics, called[outputs[0]]), **(facts or {})},
        columns=COLUMNS,
        at_a_point=AT_A_POINT,
        headline={name: (COLUMNS | AT_A_POINT)[name] for name in HEADLINE},
        rules=RULES,
        outputs=[{"name": called[output], "key": output, **metrics["outputs"][output]} for output in outputs],
        first=first,
        first_name=called[outputs[0]],
        first_point=FIRST_POINT,
        validation=CHOSEN_ON_VALIDATION,
        bootstrap=metrics["bootstrap"],
        internal=metrics.get("internal"),
        patients_compared=metrics.get("patients_compared", True),
        subgroups=subgroups,
        subgroup_columns={name: (COLUMNS | AT_A_POINT)[name] for name in SUBGROUP_FIGURES},
        small_subgroup=metrics["small_subgroup"],
        subgroup_figure=_subgroup_picture(subgroups, first["metrics"]["auc"]["value"]),
        figures=_evaluation_figures(out / "figures", predictions, metrics, called),
        examples=examples,
        has_slices="slices" in outputs,
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
    if metrics["validation"] is not None:
        counts["Validation patients"] = f"{metrics['validation']['n_patients']:,}"
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
        "auc": interval_picture(intervals, axis="AUC", caption="AUC of each output with its interval."),
    }
    first = next(iter(metrics["outputs"]))
    if first in curves:
        points = metrics["outputs"][first]["operating_points"]
        threshold = points[FIRST_POINT]["threshold"] if points else None
        drawings["scores"] = _score_picture(cases[first], names[first], threshold)
        drawings["reliability"] = _reliability_picture(metrics["outputs"][first]["calibration"], names[first])
    for name, picture in drawings.items():
        write_text(folder / f"{name}.svg", picture.content.decode("utf-8"))
    return list(drawings.values())


def _curve_pictures(
    curves: Mapping[str, Cases], metrics: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Picture]:
    """ROC and precision-recall of all outputs in one drawing each; the first has its operating points marked."""
    leader = next(iter(curves))
    figures = {output: metrics["outputs"][output]["metrics"] for output in curves}
    areas = {output: f"{names[output]}  {number(figures[output]['auc']['value'])}" for output in curves}
    precisions = {
        output: f"{names[output]}  {number(figures[output]['average_precision']['value'])}" for output in curves
    }
    points = {
        RULES[name].name: (point["metrics"]["specificity"]["value"], point["metrics"]["sensitivity"]["value"])
        for name, point in metrics["outputs"][leader]["operating_points"].items()
    }
    marked = "; ".join(f"{name} at {number(at[1])} and {number(at[0])}" for name, at in points.items())
    return {
        "roc": svg_picture(
            roc_figure(curves, labels=areas, points=points),
            alt=f"ROC curves. Area under the curve: {'; '.join(areas.values())}. Sensitivity and specificity of the "
            f"operating points: {marked}.",
            caption=f"ROC: sensitivity against false alarms, with the area under each curve, and the operating points "
            f"of {names[leader].lower()}.",
        ),
        "precision_recall": svg_picture(
            precision_recall_figure(curves, labels=precisions),
            alt=f"Precision-recall curves. Average precision: {'; '.join(precisions.values())}.",
            caption=f"Precision–recall, with the average precision. Dotted: guessing, for {names[leader].lower()}.",
        ),
    }


def _score_picture(cases: Cases, name: str, threshold: float | None) -> Picture:
    positive, negative = (number(cases.score[cases.y == label].mean(), 2) for label in (1, 0))
    return svg_picture(
        score_figure(cases, threshold=threshold),
        alt=f"Histograms of the scores: mean {positive} of labelled positives, {negative} of labelled negatives.",
        caption=f"Scores of {name.lower()} among labelled positives and negatives.",
    )


def _reliability_picture(calibration: Mapping[str, Any], name: str) -> Picture:
    """The reliability curve of an output, and that of its scaled probabilities where there is a temperature."""
    shown = {"as the network gives them": calibration["before"]}
    if calibration["after"] is not None:
        shown[f"scaled, temperature {calibration['temperature']:.2f}"] = calibration["after"]
    errors = {f"{told}, ECE {number(figures['ece'])}": figures for told, figures in shown.items()}
    curves = {told: [Bin(**part) for part in figures["curve"]] for told, figures in errors.items()}
    return svg_picture(
        reliability_figure(curves),
        alt=f"Reliability curve of the probabilities {'; '.join(errors)}.",
        caption=f"Reliability of {name.lower()}: of cases given a probability, the share that is positive. Above the "
        "dotted line it says too little, below too much. The larger the dot, the more cases.",
    )


def _subgroup_picture(subgroups: Mapping[str, Mapping[str, Any]], whole: float | None) -> Picture | None:
    """AUC of each group that is not small, beside that of all."""
    intervals = {
        f"{column}: {group}": Interval(**figures["metrics"]["auc"])
        for column, groups in subgroups.items()
        for group, figures in groups.items()
        if not figures["small"]
    }
    if not intervals or whole is None:
        return None
    caption = "AUC of each subgroup that is not small, with its interval. Dotted: all cases."
    return interval_picture(intervals, axis="AUC", caption=caption, reference=whole)
