"""Vessels that enhance like small metastases: arteries, veins along sulci and across gyri, as chains of short tubes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volssl.simulate.compose import Grid
from volssl.simulate.lattice import START_MM, STEP_MM, Field, Fields
from volssl.simulate.patient import Patient

Points = npt.NDArray[np.floating[Any]]  # (..., 3), mm along R, A, S
STRIDE_MM = 2.5  # between the joints of a vessel
FINE_MM = 1.0  # tubes are laid into slices of this thickness at most, and averaged

# Middles of named vessels in head mm, on the right, with radii at both ends; mirrored for the left.
PAIRED: tuple[tuple[tuple[tuple[float, float, float], ...], float, float, str], ...] = (
    (((14, 0, -46), (12, 8, -32), (10, 14, -26), (13, 8, -18)), 2.2, 2.0, "artery"),  # internal carotid
    (((13, 8, -18), (24, 9, -15), (36, 12, -9)), 1.7, 1.4, "artery"),  # middle cerebral
    (((36, 12, -9), (41, 4, 0), (42, -6, 8), (46, -18, 12), (54, -30, 15)), 1.2, 0.7, "artery"),
    (((36, 12, -9), (40, 16, 0), (43, 14, 10), (49, 12, 18)), 1.1, 0.6, "artery"),
    (((12, 10, -18), (3, 18, -15), (2, 36, -4), (2, 42, 10), (2, 32, 28), (2, 8, 38)), 1.4, 0.7, "artery"),
    (((2, 3, -16), (13, -8, -15), (19, -22, -11), (15, -40, -3), (11, -62, 4)), 1.3, 0.7, "artery"),  # posterior
    (((8, -14, -52), (5, -4, -44), (0.5, -1, -38)), 1.6, 1.7, "artery"),  # vertebral
    (((2, 8, 9), (2, -8, 12), (2.5, -24, 8), (1, -33, 3)), 0.9, 1.4, "vein"),  # internal cerebral
    (((8, 4, -17), (15, -10, -13), (16, -22, -6), (3, -35, 2)), 0.8, 1.5, "vein"),  # basal, of Rosenthal
    (((17, -14, 18), (13, 2, 16), (5, 9, 12), (2, 8, 9)), 0.5, 0.9, "vein"),  # thalamostriate
    (((5, 30, 10), (2, 20, 14), (2, 9, 11)), 0.5, 0.8, "vein"),  # septal
    (((16, 4, -26), (15, -4, -27), (14, -12, -28)), 3.0, 2.4, "vein"),  # cavernous sinus
    (((58, -38, -20), (50, -42, -34), (40, -38, -44)), 4.2, 3.6, "vein"),  # sigmoid sinus
)
SINGLE: tuple[tuple[tuple[tuple[float, float, float], ...], float, float, str], ...] = (
    (((0, -1, -38), (0.5, 3, -27), (0, 3, -16)), 1.8, 1.5, "artery"),  # basilar
    (((0, -33, 3), (0, -40, 7), (0, -46, 10)), 1.8, 2.4, "vein"),  # the great vein, of Galen
    (((0, 30, 32), (0, 5, 38), (0, -25, 32), (0, -46, 12)), 0.6, 1.2, "vein"),  # inferior sagittal sinus
)


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of vessels: where they begin and end in scanner mm (N, 3), their radius and signal (N,)."""

    start_mm: Points
    end_mm: Points
    radius_mm: Field
    signal: Field


def draw_vessels(
    rng: np.random.Generator,
    patient: Patient,
    skull: Fields,
    brain: Fields,
    rotation: Points,
    shift_mm: Points,
    *,
    venous: float,
    arterial: float,
) -> Tubes:
    """One patient's vessels; `venous` and `arterial` are their signals where white matter's is 1.

    Args:
        rotation: head to scanner, 3 x 3.
        shift_mm: of the head in the scanner.
    """
    grow = np.array(patient.vault_mm) / (68.0, 80.0, 75.0)
    chains: list[tuple[Points, Field, float]] = []
    for points, first_mm, last_mm, kind in _named(rng):
        line = _smooth(rng, np.array(points, float) * grow)
        radius = np.linspace(first_mm, last_mm, len(line)) * np.exp(rng.normal(0, 0.12))
        chains.append((line @ rotation.T + shift_mm, radius, venous if kind == "vein" else arterial))
    around = _Surroundings(skull, brain)
    caliber = float(np.exp(rng.normal(0, 0.12)))
    up = rotation @ np.array([0.0, 0.0, 1.0])
    for line, radius in _sulcal(rng, around, int(rng.integers(170, 280)), caliber):
        chains.append((line, radius, arterial if rng.random() < 0.5 else venous))
    for line, radius in _cortical(rng, around, int(rng.integers(26, 46)), caliber, up):
        chains.append((line, radius, venous))
    for line, radius in _medullary(rng):
        chains.append((line @ rotation.T + shift_mm, radius, venous))
    return _pieces(rng, chains)


def _named(rng: np.random.Generator) -> list[tuple[Points, float, float, str]]:
    """The vessels that have a name, both sides, each a little elsewhere."""
    found: list[tuple[Points, float, float, str]] = []
    for points, first_mm, last_mm, kind in PAIRED:
        for side in (-1.0, 1.0):
            place = np.array(points, float) * (side, 1, 1)
            found.append((place + _sway(rng, len(points)), first_mm, last_mm, kind))
    for points, first_mm, last_mm, kind in SINGLE:
        found.append((np.array(points, float) + 0.6 * _sway(rng, len(points)), first_mm, last_mm, kind))
    return found


def _sway(rng: np.random.Generator, count: int) -> Points:
    return rng.normal(0, 1.2, 3) * (0.4, 1, 1) + rng.normal(0, 0.7, (count, 3))


def _smooth(rng: np.random.Generator, points: Points) -> Points:
    """The line through the points in steps of `STRIDE_MM`, rounded at corners and a little tortuous."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, along[-1], max(3, int(np.ceil(along[-1] / STRIDE_MM)) + 1))
    line = np.stack([np.interp(at, along, points[:, k]) for k in range(3)], axis=1)
    bent = ndimage.gaussian_filter1d(line, 1.2, axis=0, mode="nearest")
    return np.asarray(bent + 1.5 * ndimage.gaussian_filter1d(rng.normal(0, 0.8, line.shape), 1.5, axis=0))


class _Surroundings:
    """What a growing vessel feels: depth below the brain's surface and distance from the sulcus, with their slopes."""

    def __init__(self, skull: Fields, brain: Fields) -> None:
        self.brain, self.gyri, self.reach = brain["brain"], brain["gyri"], brain["reach"]
        self.base, self.cistern, self.inner = skull["base"], brain["cistern"], skull["inner"]
        fields: list[Field] = [self.brain, self.gyri]
        for field in (self.brain, self.gyri):
            s, r, a = (np.asarray(slope, np.float32) for slope in np.gradient(field, STEP_MM))
            fields += [r, a, s]
        self.stack = [*fields, self.reach]

    def at(self, points: Points) -> tuple[Field, Field, Points, Points, Field]:
        """Depth (N,), distance from the sulcus (N,), their slopes (N, 3), and the sulcus' depth (N,)."""
        index = [(points[:, k] - START_MM[axis]) / STEP_MM for k, axis in ((2, "S"), (0, "R"), (1, "A"))]
        values = [ndimage.map_coordinates(field, index, order=1, mode="nearest") for field in self.stack]
        return values[0], values[1], np.stack(values[2:5], 1), np.stack(values[5:8], 1), values[8]

    def knots(self, rng: np.random.Generator, where: npt.NDArray[np.bool_], count: int) -> Points:
        """`count` points at random within the lattice cells that `where` (S, R, A) marks."""
        chosen = np.argwhere(where)[rng.integers(int(where.sum()), size=count)]
        start = np.array([START_MM["R"], START_MM["A"], START_MM["S"]])
        return start + STEP_MM * (chosen[:, [1, 2, 0]] + rng.uniform(-0.5, 0.5, (count, 3)))


def _sulcal(rng: np.random.Generator, around: _Surroundings, count: int, caliber: float) -> list[tuple[Points, Field]]:
    """Arteries and veins that run in sulci, from their floor to the surface of the brain."""
    near = (around.brain > 0) & (np.abs(around.gyri) < 2.5) & (around.base > 5) & (around.brain < around.reach)
    point = around.knots(rng, near, count)
    toward = rng.normal(size=(count, 3))
    aim = around.at(point)[0]
    drift = rng.uniform(-0.9, 0.3, count)  # most rise to the surface
    steps = rng.integers(5, 22, count)
    path = []
    for _ in range(int(steps.max())):
        depth, away, rise, across, reach = around.at(point)
        aim = np.clip(aim + drift, 0.0, 0.9 * reach)
        across = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 0.15)
        rise = rise / np.maximum(np.linalg.norm(rise, axis=1, keepdims=True), 0.3)
        back = -np.clip(0.8 * away, -1.5, 1.5)[:, None] * across + np.clip(aim - depth, -1.5, 1.5)[:, None] * rise
        point = point + back
        path.append(point)
        toward = toward + 0.45 * rng.normal(size=toward.shape)
        toward -= (toward * across).sum(1, keepdims=True) * across
        toward -= 0.7 * (toward * rise).sum(1, keepdims=True) * rise
        toward /= np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-6)
        point = point + STRIDE_MM * toward
    lines = np.stack(path, axis=1)
    wide = caliber * np.clip(np.exp(rng.normal(np.log(0.68), 0.38, count)), 0.3, 1.6)
    return [
        (lines[i, :n], np.linspace(0.75, 1.1, n) * wide[i] * np.exp(0.12 * rng.normal(size=n)))
        for i, n in enumerate(steps)
    ]


def _cortical(
    rng: np.random.Generator, around: _Surroundings, count: int, caliber: float, up: Points
) -> list[tuple[Points, Field]]:
    """Veins on the brain's surface that climb to the sagittal sinus."""
    near = (np.abs(around.brain - 1) < 3) & (around.base > 14)
    point = around.knots(rng, near, count)
    toward = up + 0.5 * rng.normal(size=(count, 3))
    steps = rng.integers(10, 26, count)
    aim = rng.uniform(-1.2, 1.0, count)
    path = []
    for _ in range(int(steps.max())):
        depth, _, rise, _, _ = around.at(point)
        rise = rise / np.maximum(np.linalg.norm(rise, axis=1, keepdims=True), 0.3)
        point = point + np.clip(aim - depth, -2, 2)[:, None] * rise
        path.append(point)
        toward = toward + 0.25 * up + 0.35 * rng.normal(size=toward.shape)
        toward -= (toward * rise).sum(1, keepdims=True) * rise
        toward /= np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-6)
        point = point + STRIDE_MM * toward
    lines = np.stack(path, axis=1)
    wide = caliber * np.clip(np.exp(rng.normal(np.log(1.0), 0.3, count)), 0.5, 2.0)
    return [(lines[i, :n], np.linspace(0.6, 1.25, n) * wide[i]) for i, n in enumerate(steps)]


def _medullary(rng: np.random.Generator) -> list[tuple[Points, Field]]:
    """Thin straight veins of the white matter, and by chance a developmental venous anomaly; in head mm."""
    lines: list[tuple[Points, Field]] = []
    for _ in range(int(rng.integers(12, 36))):
        side, y = rng.choice((-1.0, 1.0)), rng.uniform(-45, 35)
        root = np.array([side * rng.uniform(13, 22), y, rng.uniform(14, 24)])
        tip = root + np.array([side * rng.uniform(4, 22), rng.normal(0, 5), rng.uniform(2, 22)])
        lines.append(_straight(rng, root, tip, rng.uniform(0.25, 0.5)))
    if rng.random() < 0.10:
        side = rng.choice((-1.0, 1.0))
        head = np.array([side * rng.uniform(18, 28), rng.uniform(-30, 28), rng.uniform(16, 34)])
        out = head + np.array([side * rng.uniform(14, 24), rng.normal(0, 6), rng.uniform(2, 14)])
        lines.append(_straight(rng, head, out, rng.uniform(0.8, 1.3)))
        for _ in range(int(rng.integers(4, 9))):
            lines.append(_straight(rng, head, head + rng.normal(0, (6, 8, 6)), rng.uniform(0.3, 0.55)))
    return lines


def _straight(rng: np.random.Generator, start: Points, end: Points, radius_mm: float) -> tuple[Points, Field]:
    line = _smooth(rng, np.stack([start, end]))
    return line, np.full(len(line), radius_mm)


def _pieces(rng: np.random.Generator, chains: list[tuple[Points, Field, float]]) -> Tubes:
    """The chains cut at their joints; along each the signal swings, as flow and saturation do."""
    starts, ends, radii, signals = [], [], [], []
    for line, radius, signal in chains:
        count = len(line) - 1
        if count < 1:
            continue
        swing = ndimage.gaussian_filter1d(rng.normal(0, 1, count), 1.5, mode="nearest") * 1.6
        starts.append(line[:-1])
        ends.append(line[1:])
        radii.append(0.5 * (radius[:-1] + radius[1:]))
        signals.append(1 + (signal - 1) * np.exp(rng.normal(0, 0.15) + 0.16 * swing))
    return Tubes(*(np.concatenate(parts) for parts in (starts, ends, radii, signals)))


def lay_tubes(tubes: Tubes, grid: Grid) -> tuple[Field, Field]:
    """The share of each voxel that vessels hold, and that share times their signal: (S, A, R) each.

    Every tube is laid into a window of pixels around it, in slices of `FINE_MM` at most, whose average is returned.
    """
    shape = (len(grid.s_mm), len(grid.a_mm), len(grid.r_mm))
    parts = max(1, int(np.ceil(grid.slice_mm / FINE_MM)))
    fine_mm, pixel = grid.slice_mm / parts, float(grid.r_mm[1] - grid.r_mm[0])
    width_mm = float(np.cbrt(pixel * pixel * fine_mm))  # over which an edge is shared out
    low = float(grid.s_mm[0]) - grid.slice_mm / 2
    reach = tubes.radius_mm + width_mm / 2
    bottom = np.minimum(tubes.start_mm[:, 2], tubes.end_mm[:, 2]) - reach
    top = np.maximum(tubes.start_mm[:, 2], tubes.end_mm[:, 2]) + reach
    first = np.maximum(np.ceil((bottom - low) / fine_mm - 0.5), 0).astype(int)
    last = np.minimum(np.floor((top - low) / fine_mm - 0.5), shape[0] * parts - 1).astype(int)
    count = np.maximum(last - first + 1, 0)
    which = np.repeat(np.arange(len(count)), count)  # a pair of tube and fine slice each
    layer = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count) + first[which]
    share = np.zeros((shape[0] * parts, shape[1] * shape[2]), np.float32)
    weighted = np.zeros_like(share)
    wide = np.linalg.norm(tubes.end_mm - tubes.start_mm, axis=1) / 2 + reach
    for size in (3, 5, 9, 99):  # windows of a few sizes, so that thin vessels do not pay for wide ones
        half = np.ceil(wide[which] / pixel).astype(int)
        mine = (half <= size) & (half > {3: 0, 5: 3, 9: 5, 99: 9}[size])
        if mine.any():
            window = int(half[mine].max())
            _lay_windows(tubes, grid, which[mine], layer[mine], window, low, fine_mm, width_mm, share, weighted)
    grouped = (shape[0], parts, shape[1], shape[2])
    return share.reshape(grouped).mean(axis=1), weighted.reshape(grouped).mean(axis=1)


def _lay_windows(
    tubes: Tubes,
    grid: Grid,
    which: npt.NDArray[np.int_],
    layer: npt.NDArray[np.int_],
    half: int,
    low_mm: float,
    fine_mm: float,
    width_mm: float,
    share: Field,
    weighted: Field,
) -> None:
    """Lay pairs of tube and fine slice into `share` and `weighted` (layers, A x R) in place, where they hold less."""
    pixel = float(grid.r_mm[1] - grid.r_mm[0])
    rows, columns = len(grid.a_mm), len(grid.r_mm)
    start = tubes.start_mm[which].astype(np.float32)
    along = (tubes.end_mm - tubes.start_mm)[which].astype(np.float32)
    middle = start + along / 2
    offsets = np.arange(-half, half + 1)
    column = np.rint((middle[:, 0] - grid.r_mm[0]) / pixel).astype(int)[:, None] + offsets  # (pairs, window)
    row = np.rint((middle[:, 1] - grid.a_mm[0]) / pixel).astype(int)[:, None] + offsets
    r = (grid.r_mm[0] + column * pixel - start[:, :1]).astype(np.float32)[:, None, :]
    a = (grid.a_mm[0] + row * pixel - start[:, 1:2]).astype(np.float32)[:, :, None]
    s = (low_mm + (layer + 0.5) * fine_mm - start[:, 2]).astype(np.float32)[:, None, None]
    u, v, w = (along[:, k][:, None, None] for k in range(3))
    length = np.maximum(u * u + v * v + w * w, 1e-6)
    t = np.clip((r * u + a * v + s * w) / length, 0, 1)
    distance = np.sqrt((r - t * u) ** 2 + (a - t * v) ** 2 + (s - t * w) ** 2)
    radius = tubes.radius_mm[which].astype(np.float32)[:, None, None]
    edge = np.float32(width_mm)
    held = np.clip((radius - distance) / edge + 0.5, 0, 1)
    # Spread over a soft edge a tube would hold π(r² + w²/12), or πR³/3w with R = r + w/2 where r < w/2: brought to πr².
    thick, reach = radius**2 / (radius**2 + edge**2 / 12), radius + edge / 2
    held = held * np.where(radius < edge / 2, 3 * edge * radius**2 / reach**3, thick)
    there = (held > 0) & ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[:, None, :]
    at = (layer[:, None, None] * (rows * columns) + row[:, :, None] * columns + column[:, None, :])[there]
    np.maximum.at(share.reshape(-1), at, held[there])
    bright = held * tubes.signal[which].astype(np.float32)[:, None, None]
    np.maximum.at(weighted.reshape(-1), at, bright[there])
