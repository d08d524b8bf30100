"""An evaluation's figures on the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table


def summary(metrics: dict[str, Any]) -> Table:
    """The figures for the terminal: a row an output, then one a subgroup of the first, each with its interval."""
    counts = f"{metrics['n_studies']} studies of {metrics['n_patients']} patients"
    title = f"{metrics['split']}: {counts}; 95 % intervals"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    columns = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
    shown.add_column("output", overflow="fold")  # the one whose width is anyone's; a cut figure would be a wrong one
    for name in ("positive", *columns.values()):
        shown.add_column(name, justify="right", no_wrap=True, min_width=16 if name in columns.values() else None)
    for name, figures in metrics["outputs"].items():
        cells = [with_interval(figures["metrics"].get(column)) for column in columns]
        shown.add_row(name, f"{figures['positives']}/{figures['n']}", *cells)
    first = metrics["outputs"][next(iter(metrics["outputs"]))]
    for column, groups in first["subgroups"].items():
        for index, (group, figures) in enumerate(groups.items()):
            cells = [with_interval(figures["metrics"].get(name)) for name in columns]
            mark = " (small)" if figures["small"] else ""
            counts = f"{figures['positives']}/{figures['n']}"
            shown.add_row(f"{column} {group}{mark}", counts, *cells, end_section=index == len(groups) - 1)
    return shown


def beside(metrics: dict[str, Any]) -> Table | None:
    """Internal and external AUC for the terminal, a row an output; None where nothing internal is known."""
    internal = metrics["internal"]
    if internal is None:
        return None
    title = f"AUC on {internal['n_patients']} test patients of the run's own store, and here"
    shown = Table("output", "internal", "external", title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name, figures in metrics["outputs"].items():
        shown.add_row(name, with_interval(internal["auc"].get(name)), with_interval(figures["metrics"]["auc"]))
    return shown


def with_interval(figure: dict[str, Any] | None) -> str:
    """`.91 (.88–.94)`, or a dash where the figure cannot be worked out."""
    if not figure or figure["value"] is None:
        return "–"
    text = f"{figure['value']:.2f}"
    return f"{text} ({figure['low']:.2f}–{figure['high']:.2f})" if figure["low"] is not None else text
