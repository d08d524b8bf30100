"""How a training went, as drawings: what the features tell of labels, loss, signs of collapse, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volssl.evaluation.figures import Curve, history_figure
from volssl.evaluation.history import scalars_in, series_of
from volssl.evaluation.page import Picture, readable, svg_picture

Rows = Sequence[Mapping[str, Any]]
# Told in words, or as the level of another drawing.
NOT_DRAWN = ("encoder_epoch", "loss_floor", "loss_settled", "probe_scans", "probe_validation_scans")


@dataclass(frozen=True)
class Panel:
    """A drawing of scalars that belong together.

    Attributes:
        title: what they are, for the axis and the caption.
        names: of the scalars in the log, with what the legend calls each.
        says: what to look for.
        level: a line to hold them against: a scalar of the log, whose last value it has, or a number; with its name.
        over: `step` or `epoch`.
        limits: of the axis, where the scalars have some.
        wide: whether it has the page's width for itself.
    """

    title: str
    names: Mapping[str, str]
    says: str
    level: tuple[str | float, str] | None = None
    over: str = "step"
    limits: tuple[float, float] | None = None
    wide: bool = False


PROBE = Panel(
    "AUC on validation",
    {"probe_linear_auc": "linear probe", "probe_knn_auc": "nearest neighbours"},
    "What frozen features tell of the labels; epoch 0 is before training, and guessing has .5",
    level=(0.5, "guessing"),
    over="epoch",
    wide=True,
)
PANELS = (
    Panel("Loss", {"loss": "loss"}, "of the training batches", level=("loss_floor", "telling no scan from another")),
    Panel(
        "Feature spread",
        {"feature_std": "spread"},
        "1 is features that fill their sphere, 0 collapse",
        level=(0.1, "collapse is told below"),
    ),
    Panel("Effective rank", {"effective_rank": "effective rank"}, "along how many directions features differ"),
    Panel(
        "Prototype use",
        {"prototype_entropy": "evenness (entropy over ln K)", "prototypes_dead": "share hardly used"},
        "1 is even; a prototype used less than a tenth of its even share is hardly used",
        limits=(-0.03, 1.03),
    ),
    Panel(
        "Damage undone",
        {"undone": "share"},
        "1 is all that was done to the crops undone, 0 what giving them back as they are comes to",
        level=(0.0, "given back as they are"),
    ),
    Panel("Turns told right", {"accuracy": "share"}, "of the training batches", limits=(-0.03, 1.03)),
    Panel(
        "AUC on validation patients",
        {"validation_auc": "classifier"},
        "of the classifier after each epoch",
        level=(0.5, "guessing"),
        over="epoch",
    ),
)


def probe_picture(rows: Rows, *, kept: int | None) -> Picture | None:
    """The probes' AUC over epochs, the epoch that was kept marked; None where there were none."""
    return panel_picture(rows, PROBE, "", marked=kept)


def course_pictures(rows: Rows) -> list[Picture]:
    """A drawing of each panel whose scalars were logged, of each part of a combined method, then of each other scalar.

    The parts' scalars have the part's name before theirs: `swav_loss`.
    """
    logged = scalars_in(rows)
    drawn: set[str] = {*PROBE.names}
    pictures = []
    parts = ["", *dict.fromkeys(part_of(name) for name in logged if part_of(name))]
    for panel in PANELS:
        for part in parts:
            picture = panel_picture(rows, panel, part)
            if picture is not None:
                pictures.append(picture)
                drawn |= {f"{part}{name}" for name in panel.names}
    hidden = [name for name in logged if any(name == known or name.endswith(f"_{known}") for known in NOT_DRAWN)]
    others = [name for name in logged if name not in drawn and name not in hidden]
    panels = [Panel(readable(name), {name: readable(name)}, "") for name in others]
    return pictures + [picture for panel in panels if (picture := panel_picture(rows, panel, "")) is not None]


def part_of(name: str) -> str:
    """`swav_` of `swav_feature_std`; empty where the scalar is of the whole, or of no panel."""
    known = [one for panel in PANELS for one in panel.names if name.endswith(f"_{one}")]
    return name.removesuffix(max(known, key=len)) if known else ""


def panel_picture(rows: Rows, panel: Panel, part: str, *, marked: float | None = None) -> Picture | None:
    """One drawing, or None where none of its scalars was logged."""
    found = {legend: series_of(rows, f"{part}{name}", over=panel.over) for name, legend in panel.names.items()}
    curves = {legend: Curve(*series) for legend, series in found.items() if len(series[0])}
    if not curves:
        return None
    level = level_of(rows, panel, part)
    title = f"{panel.title} of {part.rstrip('_')}" if part else panel.title
    axes = {"x": readable(panel.over), "y": title}
    svg = history_figure(curves, **axes, level=level, marked=marked, limits=panel.limits, wide=panel.wide)
    ends = [ends_of(curve, panel.over, legend if len(panel.names) > 1 else "") for legend, curve in curves.items()]
    said = f"{title}: {'; '.join(ends)}."
    words = f" {panel.says[:1].upper()}{panel.says[1:]}." if panel.says else ""
    alt = f"{title} over {panel.over}s, {'; '.join(ends)}"
    return svg_picture(svg, alt=alt, caption=said + words)


def level_of(rows: Rows, panel: Panel, part: str) -> tuple[float, str] | None:
    """The value of a panel's line and its name, where there is one."""
    if panel.level is None:
        return None
    value, name = panel.level
    if isinstance(value, str):
        _, values = series_of(rows, f"{part}{value}")
        return (float(values[-1]), name) if len(values) else None
    return value, name


def ends_of(curve: Curve, over: str, legend: str) -> str:
    """How a curve begins and ends, in words."""
    x, y = curve
    words = f"from {y[0]:.4g} at {over} {x[0]:.0f} to {y[-1]:.4g} at {over} {x[-1]:.0f}"
    return f"{legend} {words}" if legend else words
