"""The page of a comparison: tables, three drawings with their numbers, and what was equal for all; one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.comparison import RULE, interval_of
from volssl.evaluation.comparison_figures import convergence_figure, label_efficiency_figure, robustness_figure
from volssl.evaluation.convergence import Course
from volssl.evaluation.examples import Example
from volssl.evaluation.page import Picture, number, readable, svg_picture, write_page
from volssl.evaluation.robustness import PERTURBATIONS

P_SHOWN = 0.001  # a smaller probability is said to be smaller


@dataclass(frozen=True)
class Found:
    """All that a comparison found.

    Attributes:
        summary: of `summarise`.
        output: of the task, that matters most.
        reference: encoder that differences are taken to.
        courses: by mode and encoder, of the repeats with the most labels; without those that log no epochs.
        convergence: by mode, of `convergence_table`.
        answers: by mode and encoder, a table of `perturbed_answers` a repeat.
        robustness: by mode, of `robustness_table`.
    """

    summary: pd.DataFrame
    output: str
    reference: str
    courses: Mapping[str, Mapping[str, list[Course]]]
    convergence: Mapping[str, pd.DataFrame]
    answers: Mapping[str, Mapping[str, list[pd.DataFrame]]]
    robustness: Mapping[str, pd.DataFrame]

    @property
    def modes(self) -> list[str]:
        return [mode for mode in dict.fromkeys(self.summary["mode"]) if mode != RULE]

    def rows(self, output: str, mode: str) -> pd.DataFrame:
        """The rows of an output and a mode, and those of the baseline."""
        summary = self.summary
        return summary[(summary["output"] == output) & summary["mode"].isin([mode, RULE])]


def write_comparison_page(
    out: Path,
    found: Found,
    *,
    title: str,
    facts: Mapping[str, str],
    equal: Sequence[str],
    notes: Sequence[str],
    simulated: str | None,
    examples: tuple[str, Sequence[Example]] = ("", ()),
) -> Path:
    """Write `report.html` into `out`; returns the page.

    Args:
        found: what is shown.
        title: heading of the page.
        facts: what was compared, by name.
        equal: what was the same for all, a line each.
        notes: on which patients was chosen and which were opened, a line each.
        simulated: text of the banner that says the data are simulated; None where they are not.
        examples: studies to look at, and whose scores they show.
    """
    summary = found.summary
    outputs = [found.output, *(name for name in dict.fromkeys(summary["output"]) if name != found.output)]
    tables = {output: [fraction_table(found, output, mode) for mode in found.modes] for output in outputs}
    return write_page(
        "compare.html.j2",
        out / "report.html",
        title=title,
        simulated=simulated,
        facts=facts,
        headline=headline(found),
        reference=found.reference,
        rule=RULE,
        tables=tables[found.output],
        output=readable(found.output),
        others=[(readable(output), tables[output]) for output in outputs[1:]],
        several_modes=len(found.modes) > 1,
        several_repeats=int(summary["repeats"].max()) > 1,
        has_delong=bool(summary["to_reference_delong_p"].notna().any()),
        weak=weak_models(found),
        efficiency=[efficiency_picture(found, mode) for mode in found.modes if summary["fraction"].nunique() > 1],
        convergence=[convergence_part(found, mode) for mode in found.convergence],
        robustness=[robustness_part(found, mode) for mode in found.robustness],
        perturbations=", ".join(map(str, PERTURBATIONS)),
        equal=equal,
        notes=notes,
        examples_of=examples[0],
        examples=examples[1],
        has_slices="slices" in outputs,
    )


def fraction_table(found: Found, output: str, mode: str) -> dict[str, Any]:
    """A table of an output and mode: rows of encoders, a column a fraction; AUC and difference in each cell."""
    rows = found.rows(output, mode)
    by_fraction = rows.drop_duplicates("fraction").sort_values("fraction")
    columns = [
        (f"{100 * f:g} %", f"{n:,} patients")
        for f, n in zip(by_fraction["fraction"], by_fraction["labelled_patients"], strict=True)
    ]
    models = []
    for name in dict.fromkeys(rows["encoder"]):
        mine = {row["fraction"]: row for row in rows[rows["encoder"] == name].to_dict("records")}
        cells = [cell(mine[f]) if f in mine else None for f in by_fraction["fraction"]]
        models.append({"name": name, "cells": cells, "is_rule": name == RULE, "is_reference": name == found.reference})
    return {"mode": mode, "columns": columns, "models": models, "has_rule": RULE in set(rows["encoder"])}


def cell(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What a cell shows: the figure, its differences, and whether it stands above the baseline beyond chance."""
    to_rule = interval_of(row, "to_rule")
    return {
        "auc": interval_of(row, "auc"),
        "sd": row["auc_sd"],
        "difference": interval_of(row, "to_reference"),
        "delong": p_value(row["to_reference_delong_p"]),
        "weak": to_rule is not None and not to_rule.low > 0,
    }


def headline(found: Found) -> list[tuple[str, str, str]]:
    """Up to three figures: what is gained with the fewest and the most labels, and the epochs saved.

    The model is the one that validation patients favour, not the one that the evaluated cases do.
    """
    mode = found.modes[0]
    rows = found.rows(found.output, mode)
    rows = rows[(rows["encoder"] != RULE) & (rows["encoder"] != found.reference)]
    told = []
    for fraction in dict.fromkeys((rows["fraction"].min(), rows["fraction"].max())):
        best = chosen(rows[rows["fraction"] == fraction])
        difference = None if best is None else interval_of(best, "to_reference")
        if best is not None and difference is not None:
            name = f"AUC gained by {best['encoder']} at {100 * fraction:g} % of labels"
            verdict = "clear of zero" if difference.clear_of_zero else "not clear of zero"
            value = f"{'+' if difference.value > 0 else ''}{number(difference.value)}"
            told.append((name, value, f"{bounds_of(difference)} (95 %), {verdict}"))
    best = chosen(rows[rows["fraction"] == rows["fraction"].max()])
    if best is not None and mode in found.convergence:
        table = found.convergence[mode].set_index("encoder")
        if best["encoder"] in table.index:
            row = table.loc[best["encoder"]]
            reached = f"reached by {row['repeats_that_reached_it']:.0f} of {row['repeats']:.0f} repeats"
            name = f"Fewer epochs to {found.reference}’s best, {best['encoder']}"
            told.append((name, per_cent(row["saved_to_reference_best_percent"]), reached))
    return told


def chosen(rows: pd.DataFrame) -> Mapping[Any, Any] | None:
    """The row of highest AUC on validation patients."""
    known = rows.dropna(subset=["validation_auc"])
    return None if known.empty else known.loc[known["validation_auc"].idxmax()].to_dict()


def weak_models(found: Found) -> list[str]:
    """Models that do not stand above the baseline beyond chance, as `name at 10 %`."""
    rows = found.summary[found.summary["output"] == found.output]
    weak = rows[rows["to_rule"].notna() & ~(rows["to_rule_low"] > 0)]
    several = len(found.modes) > 1
    return [
        f"{row['encoder']}{' (' + row['mode'] + ')' if several else ''} at {100 * row['fraction']:g} %"
        for row in weak.to_dict("records")
    ]


def efficiency_picture(found: Found, mode: str) -> dict[str, Any]:
    """The label-efficiency plot of a mode."""
    rows = found.rows(found.output, mode)
    said = [
        f"{name}: {', '.join(f'{100 * f:g} % {number(a)}' for f, a in zip(of['fraction'], of['auc'], strict=True))}"
        for name, of in rows.sort_values("fraction").groupby("encoder", sort=False)
    ]
    svg = label_efficiency_figure(rows, reference=found.reference)
    caption = f"AUC of {readable(found.output).lower()} over the number of labelled training patients, with intervals."
    picture = svg_picture(svg, alt=f"AUC by share of labels. {'. '.join(said)}.", caption=caption)
    return {"mode": mode, "picture": picture}


def convergence_part(found: Found, mode: str) -> dict[str, Any]:
    """The convergence plot of a mode and its table."""
    table = found.convergence[mode]
    rows = [
        {
            "name": row["encoder"],
            "best": row["best_validation_auc"],
            "converged": epochs(row["epochs_to_98_percent"]),
            "saved": per_cent(row["saved_percent"]),
            "to_best": epochs(row["epochs_to_reference_best"]),
            "reached": f"{row['repeats_that_reached_it']} of {row['repeats']}",
            "saved_to_best": per_cent(row["saved_to_reference_best_percent"]),
            "is_reference": row["encoder"] == found.reference,
        }
        for row in table.to_dict("records")
    ]
    said = "; ".join(f"{row['name']} converges at epoch {row['converged']}" for row in rows)
    svg = convergence_figure(found.courses[mode], reference=found.reference)
    caption = (
        "Validation AUC over epochs: mean and standard deviation of the repeats. Marks: 98 % of the best is reached."
    )
    picture: Picture = svg_picture(svg, alt=f"Validation AUC over epochs: {said}.", caption=caption)
    return {"mode": mode, "picture": picture, "rows": rows}


def robustness_part(found: Found, mode: str) -> dict[str, Any]:
    """The robustness plot of a mode and its table: the middle half of the changes, and the AUC lost."""
    table = found.robustness[mode]
    ways = list(dict.fromkeys(table["perturbation"]))
    rows = [
        {"name": name, "cells": of.set_index("perturbation").loc[ways].to_dict("records")}
        for name, of in table.groupby("encoder", sort=False)
    ]
    said = "; ".join(
        f"{row['encoder']}, {row['perturbation'].lower()}: {row['change_p25']:.0f} to {row['change_p75']:.0f} %"
        for row in table.to_dict("records")
    )
    svg = robustness_figure(found.answers[mode], reference=found.reference)
    caption = (
        "Relative change of the probability when the image is changed: boxes hold the middle half of all answers, "
        "whiskers 90 %; above 100 % the axis is logarithmic. The narrower and the closer to zero, the more robust."
    )
    picture = svg_picture(svg, alt=f"Relative change of the probability, middle half: {said}.", caption=caption)
    return {"mode": mode, "picture": picture, "ways": ways, "rows": rows}


def bounds_of(interval: Interval) -> str:
    """`0.901 to 0.953`."""
    return f"{number(interval.low)} to {number(interval.high)}"


def p_value(p: float) -> str:
    """`p 0.031`, `p < 0.001`; nothing where there is none."""
    if math.isnan(p):
        return ""
    return f"p {number(p)}" if p >= P_SHOWN else f"p < {number(P_SHOWN)}"


def per_cent(value: float) -> str:
    """`72 %`, a true minus sign, a dash for none."""
    return f"{number(value, 0)} %" if math.isfinite(value) else number(None)


def epochs(value: float) -> str:
    """An epoch, or `never`."""
    return f"{value:.0f}" if math.isfinite(value) else "never"
