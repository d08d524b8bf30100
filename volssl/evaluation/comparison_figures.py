"""The drawings of a comparison's page, as SVG text: label efficiency, convergence, robustness; one color an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from volssl.evaluation.comparison import RULE as BASELINE
from volssl.evaluation.convergence import Course, mean_course, median_epoch
from volssl.evaluation.figures import FIRST, INK, MUTED, OTHERS, RULE, STYLES, as_svg, legend_below, plain_axes
from volssl.evaluation.robustness import relative_change

MARKS = "osD^vPX"
WHISKERS = (5, 95)  # percentiles
LINEAR = 100.0  # per cent of relative change; above, the axis is logarithmic: a small probability may move by thousands
TICKS = (-100, -50, 0, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
FEWEST_TICKS = 3  # of these; where fewer lie in sight, all changes are small and the axis is evenly divided


def label_efficiency_figure(summary: pd.DataFrame, *, reference: str) -> str:
    """Draw the mean AUC over the number of labelled patients, with its interval; the baseline as a dotted line.

    Args:
        summary: rows of `summarise` of one output and one mode, and those of the baseline.
        reference: drawn in grey.
    """
    figure, axes = plain_axes(6.9, 4.0, "Labelled training patients (share of all)", "AUC")
    names = [name for name in dict.fromkeys(summary["encoder"]) if name != BASELINE]
    axes.set_xscale("log")
    for rank, name in enumerate(names):
        rows = summary[summary["encoder"] == name].sort_values("fraction")
        beside = 1.018 ** (2 * rank - len(names) + 1)  # so that bars do not hide each other
        x, auc = rows["labelled_patients"].to_numpy() * beside, rows["auc"].to_numpy()
        bars = np.stack([auc - rows["auc_low"], rows["auc_high"] - auc])
        look = style(names, name, reference)
        axes.plot(x, auc, label=name, **look)
        axes.errorbar(x, auc, yerr=bars, fmt="none", ecolor=look["color"], elinewidth=1.1, capsize=2.5)
    rule = summary[summary["encoder"] == BASELINE].sort_values("fraction")
    if len(rule):
        axes.plot(rule["labelled_patients"], rule["auc"], ":x", color=INK, linewidth=1.4, markersize=5, label=BASELINE)
    ticks = summary.drop_duplicates("fraction").sort_values("fraction")
    axes.xaxis.set_major_locator(FixedLocator(ticks["labelled_patients"].tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(
        [f"{n:,}\n({100 * f:g} %)" for n, f in zip(ticks["labelled_patients"], ticks["fraction"], strict=True)]
    )
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    legend_below(axes)
    return as_svg(figure)


def convergence_figure(courses: Mapping[str, Sequence[Course]], *, reference: str) -> str:
    """Draw the mean validation AUC over epochs with its standard deviation over repeats; dots mark convergence."""
    figure, axes = plain_axes(6.9, 4.0, "Epoch", "Validation AUC")
    for name, repeats in courses.items():
        look = style(list(courses), name, reference) | {"markevery": []}
        epochs, mean, spread = mean_course(list(repeats))
        axes.plot(epochs, mean, label=name, **look)
        axes.fill_between(epochs, mean - spread, mean + spread, color=look["color"], alpha=0.12, linewidth=0)
        at = median_epoch([course.converged for course in repeats])
        axes.plot(at, np.interp(at, epochs, mean), marker=look["marker"], color=look["color"], markersize=7)
    first = courses.get(reference)
    if first:
        best = float(np.mean([course.best for course in first]))
        axes.axhline(best, color=MUTED, linewidth=1, linestyle=":", label=f"best of {reference}: {best:.3f}", zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    legend_below(axes)
    return as_svg(figure)


def robustness_figure(answers: Mapping[str, Sequence[pd.DataFrame]], *, reference: str) -> str:
    """Draw how the relative change of the probability is spread: boxes from quartile to quartile, whiskers 5 to 95 %.

    From 100 % upwards the axis is logarithmic, so that nothing is cut.

    Args:
        answers: of each encoder, a table a repeat, as `perturbed_answers` gives them.
    """
    figure, axes = plain_axes(6.9, 4.2, "", "Relative change of the probability (%)")
    names, ways = list(answers), list(dict.fromkeys(next(iter(answers.values()))[0]["perturbation"]))
    width = 0.8 / len(names)
    ends = []
    for rank, name in enumerate(names):
        together = pd.concat(answers[name])
        change = relative_change(together)
        values = [change[together["perturbation"] == way].to_numpy() for way in ways]
        color = style(names, name, reference)["color"]
        axes.boxplot(
            values,
            positions=np.arange(len(ways)) + (rank - (len(names) - 1) / 2) * width,
            widths=0.82 * width,
            whis=WHISKERS,
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": f"{color}40", "edgecolor": color},
            medianprops={"color": color, "linewidth": 2},
            whiskerprops={"color": color},
            capprops={"color": color},
        )
        axes.plot([], [], "s", color=color, label=name)
        ends += [np.percentile(value, WHISKERS) for value in values]
    low, high = np.min(ends), np.max(ends)
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=1.5)
    axes.set_ylim(max(low * 1.08, -105), high * 1.15)
    seen = [tick for tick in TICKS if low * 1.08 <= tick <= high * 1.15]
    axes.yaxis.set_major_locator(FixedLocator(seen) if len(seen) >= FEWEST_TICKS else MaxNLocator(nbins=7))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(ways)), ways)
    axes.tick_params(axis="x", length=0)
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=":", zorder=1)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    legend_below(axes)
    return as_svg(figure)


def style(names: Sequence[str], name: str, reference: str) -> dict[str, Any]:
    """Color, line and mark of an encoder, the same in every drawing; the reference is grey and dashed."""
    others = [other for other in names if other not in (reference, BASELINE)]
    if name == reference:
        return {"color": MUTED, "linestyle": (0, (5, 1.5)), "marker": "s", "markersize": 4.5, "linewidth": 1.8}
    rank = others.index(name)
    color = (FIRST, *OTHERS)[rank % (len(OTHERS) + 1)]
    line = STYLES[max(rank - 1, 0) % len(STYLES)] if rank else "-"
    return {
        "color": color,
        "linestyle": line,
        "marker": MARKS[rank % len(MARKS)],
        "markersize": 5,
        "linewidth": 2.4 if rank == 0 else 1.8,
    }
