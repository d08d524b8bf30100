"""`volssl inspect`: one page by which a person finds the bad scans of a store. It names keys, and no path."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from volssl.bundle.simulated import simulated_notice
from volssl.data import Store
from volssl.data.ledger import REJECTED
from volssl.data.reasons import REASONS
from volssl.data.splits import SPLITS
from volssl.data.store import STORE_RECORD
from volssl.errors import UserError
from volssl.evaluation.contact_sheet import CT_WINDOW_HU, Tile, chosen, grey_levels, tile_picture
from volssl.evaluation.figures import histogram_figure, voxel_figure
from volssl.evaluation.metrics import Floats
from volssl.evaluation.oddness import FEWEST, MEASURES, ODD, Measure, flags, short, with_unit, z_scores
from volssl.evaluation.page import Picture, number, svg_picture, write_page
from volssl.progress import counted, track

PAGE = "inspect.html"
VOXEL_VOLUMES = 64  # of a modality whose voxels are read for the histogram
VOXEL_SLICES = 4  # of each of them
VOXEL_STRIDE_TO = 128  # voxels along R and A that a slice keeps at most
EDGES = {"CT": np.arange(-1050.0, 1511.0, 20.0), "MR": np.linspace(-0.1, 1.5, 129)}
NUMBER = re.compile(r"[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
SCALARS = ("id", "patient", "study", "modality", "split", "fold", "group", "source_format", "files", "air_share")
INTENSITIES = ("intensity_mean", "intensity_std", "intensity_low", "intensity_high")


def inspect_store(store: Path, out: Path, *, sheet: int = 200) -> Path:
    """Write the page: counts, refusals, notes, histograms, and a contact sheet with the oddest volumes first.

    It reads one slice of each volume on the sheet and four of 64 volumes a modality, whatever the store's size.

    Args:
        store: the folder that `volssl prepare` wrote.
        out: an HTML file, or a folder for `inspect.html`.
        sheet: most tiles of the contact sheet.

    Returns:
        The page.

    Raises:
        UserError: the folder holds no store, or `out` is a file of another kind.
    """
    if out.suffix.lower() not in ("", ".html", ".htm"):
        raise UserError(f"{out} is no page: name an HTML file, such as {out.with_suffix('.html')}, or a folder")
    opened = Store.open(store)
    table = volume_table(opened)
    scores = z_scores(table)
    worst = scores.abs().max(axis=1)
    tiles = list(_tiles(opened, table, scores, chosen(scores, sheet)))
    refused = _refused(opened.path)
    passed_over = json.loads((opened.path / STORE_RECORD).read_text()).get("passed_over", {})
    return write_page(
        "inspect.html.j2",
        out if out.suffix else out / PAGE,
        title=f"Store of {counted(len(table), 'volume')}",
        simulated=simulated_notice(opened),
        facts=_facts(table),
        headline=_headline(table, worst, refused),
        splits=_splits(table),
        refused=refused,
        passed_over=passed_over,
        notes=_note_kinds(opened),
        modalities=[_modality(opened, name, rows, scores) for name, rows in table.groupby("modality")],
        tiles=tiles,
        volumes=len(table),
        odd=ODD,
        fewest=FEWEST,
        window=CT_WINDOW_HU,
        voxel_volumes=VOXEL_VOLUMES,
        voxel_slices=VOXEL_SLICES,
    )


def volume_table(store: Store) -> pd.DataFrame:
    """A row a volume, indexed by id: what the manifest tells, with the columns of `MEASURES`."""
    columns = store.columns(*SCALARS, *INTENSITIES, "shape", "spacing_mm", "foreground")
    table = columns.select([*SCALARS, *INTENSITIES]).to_pandas().set_index("id")
    lists = {
        name: columns[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        for name, width in (("shape", 3), ("spacing_mm", 3), ("foreground", 6))
    }
    shape, spacing = lists["shape"], lists["spacing_mm"]
    table["spacing_in_plane_mm"] = np.sqrt(spacing[:, 0] * spacing[:, 1])
    table["spacing_slice_mm"] = spacing[:, 2]
    for axis, name in enumerate("ras"):
        table[f"voxels_{name}"] = shape[:, axis]
        table[f"extent_{name}_mm"] = shape[:, axis] * spacing[:, axis]
    table["slice"] = (lists["foreground"][:, 4] + lists["foreground"][:, 5]) // 2
    table["copy"] = table["group"].notna() & (table["group"] != table.index)
    return table


def note_kind(note: str) -> str:
    """A note without its numbers, so that equal ones can be counted."""
    return NUMBER.sub("…", note)


def _headline(table: pd.DataFrame, worst: pd.Series, refused: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """What matters first: (name, figure, in words)."""
    compared = (table["modality"].value_counts() >= FEWEST).any()
    odd, copies = int((worst >= ODD).sum()), int(table["copy"].sum())
    rejected = sum(line["sources"] for line in refused)
    return [
        ("Volumes", f"{len(table):,}", f"of {counted(table['patient'].nunique(), 'patient')}"),
        ("Rejected", f"{rejected:,}", f"for {counted(len(refused), 'reason')}, told below" if refused else "no source"),
        ("Odd", f"{odd:,}", "unlike the others of their modality" if compared else "too few to compare"),
        ("Near-duplicates", f"{copies:,}", "of another volume, kept out of pretraining"),
    ]


def _facts(table: pd.DataFrame) -> dict[str, str]:
    folds = table["fold"].dropna()
    facts = {
        "Patients": f"{table['patient'].nunique():,}",
        "Studies": f"{table['study'].nunique():,}",
        "Files they were read from": f"{int(table['files'].sum()):,}",
        "Modalities": _counts(table["modality"]),
        "Formats": _counts(table["source_format"]),
        "Acquisitions": f"{table['group'].nunique():,}, near-duplicates counted once",
    }
    return facts | {"Folds": f"{folds.nunique()} over {counted(len(folds), 'volume')}" if len(folds) else "none drawn"}


def _splits(table: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """(split, volumes, patients, volumes in each fold), in the usual order."""
    lines = []
    for split in [*SPLITS, *sorted(set(table["split"].dropna()) - set(SPLITS))]:
        rows = table[table["split"] == split]
        counts = sorted(rows["fold"].dropna().astype(int).value_counts().items())
        folds = " · ".join(f"{fold}: {n:,}" for fold, n in counts)
        lines.append((split, f"{len(rows):,}", f"{rows['patient'].nunique():,}", folds or "–"))
    return lines


def _refused(store: Path) -> list[dict[str, Any]]:
    """Reasons with what each means, sources and files, the commonest first."""
    sources: Counter[str] = Counter()
    files: Counter[str] = Counter()
    meaning: dict[str, str] = {}
    if (store / REJECTED).exists():
        with (store / REJECTED).open(encoding="utf-8", errors="replace", newline="") as file:
            for record in csv.DictReader(file):
                reason = record["reason"]
                sources[reason] += 1
                files[reason] += int(record["files"])
                meaning.setdefault(reason, REASONS.get(reason, record["sentence"]))
    return [
        {"reason": reason, "meaning": meaning[reason], "sources": count, "files": files[reason]}
        for reason, count in sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    ]


def _note_kinds(store: Store) -> list[tuple[str, int]]:
    """Kinds of notes and how many volumes have each, the commonest first."""
    notes = store.columns("notes")["notes"].combine_chunks().flatten().value_counts().to_pylist()
    kinds: Counter[str] = Counter()
    for note in notes:
        kinds[note_kind(note["values"])] += note["counts"]
    return sorted(kinds.items(), key=lambda item: (-item[1], item[0]))


def _modality(store: Store, name: str, rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """The histograms of one modality."""
    of_volumes = [_measure_picture(measure, name, rows, scores) for measure in MEASURES]
    return {
        "name": name,
        "volumes": len(rows),
        "voxels": _voxel_picture(store, name, rows),
        "sampled": min(len(rows), VOXEL_VOLUMES),
        "pictures": [picture for picture in of_volumes if picture is not None],
    }


def _measure_picture(measure: Measure, modality: str, rows: pd.DataFrame, scores: pd.DataFrame) -> Picture | None:
    finite = rows[np.isfinite(rows[measure.column].astype(float))]
    if finite.empty:
        return None
    values = finite[measure.column].to_numpy(dtype=np.float64)
    odd = np.zeros(len(values), bool)
    if measure.floor is not None:
        odd = scores.loc[finite.index, measure.column].abs().to_numpy() >= ODD
    unit = {"intensity": "HU" if modality == "CT" else "", "voxels": ""}.get(measure.unit, measure.unit)
    low, middle, high = (with_unit(v, measure, modality) for v in (values.min(), np.median(values), values.max()))
    said = f"{measure.title}: {low} " + (f"to {high}, median {middle}" if low != high else "in all")
    said += f", {int(odd.sum()):,} odd" if odd.any() else ""
    svg = histogram_figure(
        values,
        label=f"{measure.title} ({unit})" if unit else measure.title,
        marked=values[odd],
        whole=measure.unit == "voxels",
    )
    return svg_picture(svg, alt=f"Histogram. {said}.", caption=f"{said}.")


def _voxel_picture(store: Store, modality: str, rows: pd.DataFrame) -> Picture | None:
    """Values of voxels in the foreground of a bounded sample; the ids are hashes, so the first are a fair draw."""
    edges = EDGES["CT" if modality == "CT" else "MR"]
    shares = []
    ids = list(rows.sort_index().index[:VOXEL_VOLUMES])
    for volume_id in track(ids, f"Reading voxels of {modality}", len(ids)):
        try:
            values = _sampled_voxels(store, volume_id)
        except UserError:
            continue  # its tile says so, and `volssl check` does
        scale = 1.0 if modality == "CT" else max(float(rows.loc[volume_id, "intensity_high"]), 1e-6)
        counts, _ = np.histogram(values / scale, edges)
        shares.append(counts / values.size)
    if not shares:
        return None
    told: Floats = np.array(shares)
    outside = 100 * (1 - told.sum(axis=1).mean())
    label = "HU" if modality == "CT" else "Intensity / percentile 99.5 of the volume's foreground"
    marks = {-1000.0: "air", 0.0: "water", 1000.0: "bone"} if modality == "CT" else {}
    read = counted(len(shares), "volume")
    caption = f"Stored voxels in the foreground of {read}, {number(outside, 1)} % of them beyond the axis."
    svg = voxel_figure(edges, told, label=label, marks=marks)
    return svg_picture(svg, alt=f"Histogram of {label}.", caption=caption)


def _sampled_voxels(store: Store, volume_id: str) -> np.ndarray:
    """Every n-th voxel of a few slices, evenly through the foreground."""
    scan = store.scan(volume_id)
    r, a, (low, high) = scan.foreground
    depths = {int(low + (high - low) * (i + 0.5) / VOXEL_SLICES) for i in range(VOXEL_SLICES)}
    step = tuple(-(-(edge[1] - edge[0]) // VOXEL_STRIDE_TO) for edge in (r, a))
    slices = [scan.read((r, a, (s, s + 1)))[0, :: step[0], :: step[1], 0] for s in sorted(depths)]
    return np.concatenate([part.ravel() for part in slices])


def _tiles(store: Store, table: pd.DataFrame, scores: pd.DataFrame, ids: list[str]) -> Iterator[Tile]:
    unreadable: list[Tile] = []
    readable: list[Tile] = []
    for volume_id in track(ids, "Reading slices", len(ids)):
        tile = _tile(store, volume_id, table.loc[volume_id], scores.loc[volume_id])
        (readable if tile.picture else unreadable).append(tile)
    yield from (*unreadable, *readable)


def _tile(store: Store, volume_id: str, row: pd.Series, scores: pd.Series) -> Tile:
    scan = store.scan(volume_id)
    shape, spacing = scan.shape, scan.spacing_mm
    said = flags(row, scores)
    low, high = grey_levels(scan.modality, float(row["intensity_low"]), float(row["intensity_high"]))
    depth = int(row["slice"])
    picture = None
    try:
        axial = scan.read(((0, shape[0]), (0, shape[1]), (depth, depth + 1)))[0, :, :, 0]
        alt = f"Axial slice {depth + 1} of {shape[2]} of volume {volume_id[:8]}"
        picture = tile_picture(axial, (spacing[0], spacing[1]), low=low, high=high, alt=alt)
    except UserError:
        said.insert(0, "cannot be read: run volssl check")
    lines = (
        "×".join(map(str, shape)),
        " × ".join(map(short, spacing)) + " mm",
        f"{row['modality']} · {row['split'] or 'no split'}",
    )
    return Tile(volume_id, picture, lines, tuple(said), row["group"][:8] if row["copy"] else None)


def _counts(column: pd.Series) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in column.value_counts().sort_index().items())
