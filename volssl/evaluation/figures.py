"""The drawings of the pages, as SVG text: curves, intervals, scores, histories. No global plotting state is touched."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from volssl.evaluation.bootstrap import Interval
from volssl.evaluation.calibration import Bin
from volssl.evaluation.metrics import Floats
from volssl.evaluation.predictions import Cases

INK, MUTED, RULE = "#1c2733", "#5b6875", "#d7dde3"
FIRST, SECOND = "#0b5c8c", "#c2410c"  # the output that matters; what is set against it
# Okabe and Ito (2008): told apart by the color-blind too. Line styles repeat the difference.
OTHERS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#7a6a00", "#d55e00", "#6b6b6b")
SHARE_FLOOR = 0.003  # percent of the voxels, below which a bin is not drawn
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), "-", (0, (5, 1.5)), (0, (2, 1)))


def roc_figure(
    cases: Mapping[str, Cases], *, labels: Mapping[str, str], points: Mapping[str, tuple[float, float]]
) -> str:
    """Draw the ROC curve of each output, the first one bold.

    Args:
        cases: the cases by output; those without both classes are the caller's to leave out.
        labels: what the legend says of each.
        points: (specificity, sensitivity) of the first output's operating points, by name.
    """
    figure, axes = _square("1 − specificity", "Sensitivity")
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=1)
    for rank, (output, of_output) in enumerate(cases.items()):
        x, y, _ = roc_curve(of_output.y, of_output.score)
        axes.plot(x, y, label=labels[output], **_line(rank))
    for shape, (name, (specificity, sensitivity)) in zip("osD^v", points.items(), strict=False):
        axes.plot(1 - specificity, sensitivity, label=name, **_marker() | {"marker": shape})
    legend_below(axes)
    return as_svg(figure)


def precision_recall_figure(cases: Mapping[str, Cases], *, labels: Mapping[str, str]) -> str:
    """Draw precision against recall of each output, the first one bold; a dotted line marks its share of positives."""
    figure, axes = _square("Recall (sensitivity)", "Precision")
    for rank, (output, of_output) in enumerate(cases.items()):
        precision, recall, _ = precision_recall_curve(of_output.y, of_output.score)
        axes.plot(recall, precision, drawstyle="steps-post", label=labels[output], **_line(rank))
    first = next(iter(cases.values()))
    axes.axhline(first.y.mean(), color=MUTED, linewidth=1, linestyle=":", label="guessing", zorder=1)
    legend_below(axes)
    return as_svg(figure)


def reliability_figure(curves: Mapping[str, Sequence[Bin]]) -> str:
    """Draw the share of positives against the mean probability of each bin; the larger the dot, the more cases.

    Args:
        curves: by what the legend calls them, the network's own first.
    """
    figure, axes = _square("Mean probability", "Share of positives")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":", label="perfect", zorder=1)
    for color, style, (name, curve) in zip((FIRST, SECOND), ("-", (0, (5, 1.5))), curves.items(), strict=False):
        x, y = [part.mean_probability for part in curve], [part.share_positive for part in curve]
        share = np.array([part.n for part in curve]) / sum(part.n for part in curve)
        axes.plot(x, y, color=color, linestyle=style, linewidth=1.6, label=name, zorder=4)
        axes.scatter(x, y, s=12 + 400 * share, color=color, alpha=0.55, linewidths=0, zorder=5)
    legend_below(axes)
    return as_svg(figure)


def score_figure(cases: Cases, *, threshold: float | None) -> str:
    """Draw how the scores of positives and negatives are spread, twenty bins, with the threshold."""
    figure, axes = plain_axes(4.6, 3.4, "Score", "Cases")
    bins = np.linspace(0, 1, 21)
    for value, name, color in ((0, "labelled negative", FIRST), (1, "labelled positive", SECOND)):
        scores = cases.score[cases.y == value]
        axes.hist(scores, bins=bins, label=f"{name} (n = {len(scores)})", color=color, alpha=0.25)
        axes.hist(scores, bins=bins, color=color, histtype="step", linewidth=1.4)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=f"threshold {threshold:.3f}")
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    legend_below(axes)
    return as_svg(figure)


def interval_figure(intervals: Mapping[str, Interval], *, axis: str, reference: float | None = None) -> str:
    """Draw one dot and its interval a row, from the top down; `reference` is a vertical line, such as no difference."""
    rows = [(name, interval) for name, interval in intervals.items() if interval.value == interval.value]
    figure, axes = plain_axes(4.6, 0.8 + 0.36 * max(len(rows), 1), axis, "")
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=1, linestyle=":")
    for height, (_, interval) in enumerate(rows):
        axes.plot([interval.low, interval.high], [height, height], color=FIRST, linewidth=2, solid_capstyle="round")
        axes.plot(interval.value, height, "o", color=FIRST, markersize=6.5)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    return as_svg(figure)


class Curve(NamedTuple):
    """A scalar over steps or epochs, (n,) each."""

    x: Floats
    y: Floats


def history_figure(
    curves: Mapping[str, Curve],
    *,
    x: str,
    y: str,
    level: tuple[float, str] | None = None,
    marked: float | None = None,
    limits: tuple[float, float] | None = None,
    wide: bool = False,
) -> str:
    """Draw scalars over steps: faint as they were logged, and bold their running mean where the history is long.

    Args:
        curves: by what the legend calls them; one alone needs none.
        x, y: labels of the axes.
        level: a value to hold them against, drawn as a dotted line, and its name.
        marked: where on the horizontal axis the first curve is marked; of what was kept.
        limits: of the vertical axis; as the values lie where None.
        wide: half as wide again.
    """
    figure, axes = plain_axes(6.9 if wide else 4.6, 2.7 if len(curves) == 1 and level is None else 3.1, x, y)
    for rank, (name, curve) in enumerate(curves.items()):
        mean = Curve(*_running_mean(*curve))
        line = _line(rank) | {"linewidth": 1.8}
        if len(mean.y) < len(curve.y):
            axes.plot(*curve, color=line["color"], linewidth=0.8, alpha=0.3)
        axes.plot(*mean, **line, marker="o" if len(curve.y) < 30 else None, markersize=3.5, label=name)
    if level is not None:
        axes.axhline(level[0], color=MUTED, linewidth=1, linestyle=":", label=f"{level[1]}: {level[0]:.3g}", zorder=1)
    first = next(iter(curves.values()))
    if marked is not None and marked in first.x:
        axes.plot(marked, first.y[list(first.x).index(marked)], label=f"kept: {x.lower()} {marked:.0f}", **_marker())
    if limits is not None:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    if len(curves) > 1 or level is not None:
        legend_below(axes)
    return as_svg(figure)


def histogram_figure(values: Floats, *, label: str, marked: Floats, whole: bool = False) -> str:
    """Draw how a figure of the volumes is spread, small; a tick under the axis for each marked value.

    Args:
        values: (volumes,), finite.
        label: of the horizontal axis.
        marked: the values to mark.
        whole: the values are whole numbers.
    """
    figure, axes = plain_axes(3.1, 2.1, label, "Volumes")
    low, high = float(values.min()), float(values.max())
    largest = max(abs(low), abs(high))
    room = max(0.02 * (high - low), 0.5 if whole else 0)
    if high - low <= 1e-3 * largest:  # all alike but for rounding, which an axis must not blow up
        room = max(0.1 * largest, 1.0 if whole or not largest else 0)
    axes.hist(values, bins=np.linspace(low - room, high + room, 26), color=FIRST, alpha=0.85)
    if len(marked):
        step = (high - low + 2 * room) / 400  # finer than can be seen: a tick for many
        marked = np.unique(np.round(marked / step)) * step
        axes.plot(marked, np.zeros(len(marked)), "|", color=SECOND, markersize=11, markeredgewidth=1.6, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=whole, nbins=5, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, min_n_ticks=1))
    return as_svg(figure)


def voxel_figure(edges: Floats, shares: Floats, *, label: str, marks: Mapping[float, str]) -> str:
    """Draw how the values of voxels are spread, shares on a logarithmic axis, named values as dotted lines.

    Args:
        edges: (bins + 1,).
        shares: (volumes, bins), the share of each volume's voxels in each bin.
        label: of the horizontal axis.
        marks: names of values.
    """
    figure, axes = plain_axes(6.4, 2.7, label, "Share of voxels (%)")
    axes.set_yscale("log")
    if len(shares) > 1:
        low, high = np.maximum(np.percentile(100 * shares, (10, 90), axis=0), SHARE_FLOOR)
        middle, band = (edges[1:] + edges[:-1]) / 2, "10 to 90 % of volumes"
        axes.fill_between(middle, low, high, step="mid", color=FIRST, alpha=0.2, linewidth=0, label=band)
    axes.stairs(
        100 * shares.mean(axis=0), edges, baseline=None, color=FIRST, linewidth=1.6, label="mean of all volumes"
    )
    for value, name in marks.items():
        axes.axvline(value, color=MUTED, linewidth=1, linestyle=":")
        axes.annotate(name, (value, 1), xycoords=("data", "axes fraction"), fontsize=8, color=MUTED, ha="center")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=SHARE_FLOOR)
    axes.yaxis.set_major_formatter("{x:g}")
    if len(shares) > 1:
        legend_below(axes)
    return as_svg(figure)


def plain_axes(width_in: float, height_in: float, x: str, y: str) -> tuple[Figure, Any]:
    """A figure of one pair of axes with these labels, without a frame."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    return figure, axes


def legend_below(axes: Any) -> None:
    """The legend under the axes, outside of them, in up to four columns."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 4 if max(map(len, labels), default=0) <= 22 else 2)
    axes.figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9, labelcolor=INK
    )


def as_svg(figure: Figure) -> str:
    """The figure as SVG text, the same on every call: no date, ids from a fixed salt."""
    FigureCanvasSVG(figure)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "volssl", "svg.fonttype": "path", "font.family": "DejaVu Sans"}):
        figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return file.getvalue()


def _running_mean(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Mean over a window of a twentieth of the history, at the window's middle; short histories stay as they are."""
    width = len(values) // 20
    if width < 3:
        return steps, values
    kernel = np.ones(width) / width
    return np.convolve(steps, kernel, mode="valid"), np.convolve(values, kernel, mode="valid")


def _square(x: str, y: str) -> tuple[Figure, Any]:
    figure, axes = plain_axes(4.6, 5.3, x, y)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(color=RULE, linewidth=0.6)
    return figure, axes


def _line(rank: int) -> dict[str, Any]:
    if rank == 0:
        return {"color": FIRST, "linewidth": 2.6, "zorder": 5}
    other = (rank - 1) % len(OTHERS)
    return {"color": OTHERS[other], "linestyle": STYLES[other], "linewidth": 1.3, "zorder": 3}


def _marker() -> dict[str, Any]:
    return {
        "marker": "o",
        "linestyle": "none",
        "markersize": 8,
        "markeredgecolor": FIRST,
        "markerfacecolor": "white",
        "markeredgewidth": 2,
        "zorder": 6,
    }
