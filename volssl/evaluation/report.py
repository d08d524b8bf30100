"""The pages of a training run and of a comparison; one file each, readable offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.course import PROBE, course_pictures, probe_picture
from volssl.evaluation.figures import interval_figure
from volssl.evaluation.history import read_history, scalars_in, sentences_in, series_of
from volssl.evaluation.page import Picture, number, png_picture, readable, svg_picture, write_page

CURVE = "curve"  # the loss as a picture of the run, for those who look at its folder; the page draws it better


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
    figures = [interval_picture(means, axis=columns[0], caption=f"{columns[0]} of each model with its interval.")]
    if differences:
        caption = f"{columns[0]} minus that of “{reference}” on the same cases; right of the dotted line is better."
        axis = f"Difference in {columns[0]}"
        figures.append(interval_picture(differences, axis=axis, caption=caption, reference=0.0))
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


def interval_picture(
    intervals: Mapping[str, Interval], *, axis: str, caption: str, reference: float | None = None
) -> Picture:
    """Intervals as a drawing that says them in words too."""
    svg = interval_figure(intervals, axis=axis, reference=reference)
    said = "; ".join(f"{name} {interval}" for name, interval in intervals.items())
    return svg_picture(svg, alt=f"{axis}: {said}.", caption=caption)
