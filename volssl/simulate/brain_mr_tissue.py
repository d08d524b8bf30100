"""From distances to signals: what each voxel of a T1-weighted scan after contrast holds, before vessels and lesions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volssl.simulate.brain_mr_scanner import MRScanner
from volssl.simulate.compose import Grid, Tissue, brain_parts, inside_box, lay, occupancy
from volssl.simulate.lattice import Field, Fields, Slicer, sigmoid
from volssl.simulate.patient import Patient


@dataclass(frozen=True)
class Signals:
    """One study's signals, where white matter's is 1."""

    grey: float
    nuclei: float
    fluid: float
    venous: float
    arterial: float
    dura: float
    mucosa: float
    fat: float
    marrow: float
    muscle: float
    worn: float  # how much darker white matter is beside the ventricles
    strip_mm: float  # how far outside the brain the skull was cut off
    strip_sinus_mm: float  # how much of the sinuses was left


@dataclass(frozen=True)
class Scan:
    """A noiseless scan and shares of its voxels, each (S, A, R).

    `cavity`: inside the skull. `brain`: where brain is or was, sulci with it. `white`: white matter. `kept`: what
    skull stripping leaves.
    """

    signal: Field
    cavity: Field
    brain: Field
    white: Field
    kept: Field


def draw_signals(rng: np.random.Generator, patient: Patient, scanner: MRScanner) -> Signals:
    """Draw a study's signals; the dose and its timing differ from study to study."""
    enhancement = scanner.enhancement * float(np.exp(rng.normal(0, 0.13)))
    return Signals(
        grey=scanner.grey + float(rng.normal(0, 0.015)),
        nuclei=0.5 + 0.5 * scanner.grey + float(rng.normal(0, 0.02)),
        fluid=scanner.fluid + float(rng.normal(0, 0.02)),
        venous=1 + enhancement,
        arterial=1 + enhancement * scanner.arterial * float(np.exp(rng.normal(0, 0.08))),
        dura=1 + enhancement * float(rng.uniform(0.15, 0.6)),
        mucosa=1 + enhancement * float(rng.uniform(0.5, 0.9)),
        fat=float(rng.uniform(1.3, 1.8)),
        marrow=float(rng.uniform(0.5, 1.2)),
        muscle=float(rng.uniform(0.55, 0.75)),
        worn=float(rng.uniform(0, 0.28) * max(0.0, patient.atrophy - 0.2)),
        strip_mm=float(rng.uniform(0.2, 2.0)),
        strip_sinus_mm=float(rng.uniform(-0.5, 4.0)),
    )


def sample_scan(fields: Fields, widths: Tissue, signals: Signals, grid: Grid, subslice_mm: float) -> Scan:
    """Sample the lattice's anatomy; slices thicker than `subslice_mm` are averaged from thinner ones."""
    slicer = Slicer({k: v for k, v in fields.items() if k != "thick"}, grid.r_mm, grid.a_mm)
    parts = max(1, int(np.ceil(grid.slice_mm / subslice_mm - 1e-6)))
    offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * grid.slice_mm
    shape = (len(grid.s_mm), len(grid.a_mm), len(grid.r_mm))
    scan = Scan(*(np.zeros(shape, np.float32) for _ in range(5)))
    pixel = float(grid.r_mm[1] - grid.r_mm[0])
    for number, height in enumerate(grid.s_mm):
        for offset in offsets:
            cut = slicer.at(height + offset)
            part = _outside(cut, signals, pixel)
            rows, columns = inside_box(cut["inner"])
            if rows.stop > rows.start:
                window = {name: field[rows, columns] for name, field in cut.items()}
                shares = _inside(part[rows, columns], window, widths, signals, pixel)
                for name, share in shares.items():
                    getattr(scan, name)[number, rows, columns] += share / np.float32(parts)
            scan.signal[number] += part / np.float32(parts)
    return scan


def _outside(cut: Fields, signals: Signals, pixel: float) -> Field:
    """The slice without the inside of the skull: scalp, face, orbits, bone with its marrow, air; (A, R)."""
    image = np.zeros(cut["skin"].shape, np.float32)
    depth, base, patchy = cut["skin"], cut["base"], cut["patchy"]
    muscle = sigmoid(3.0 * patchy - 4.5 + 7.5 * np.clip((-base - 6) / 8, 0, 1))
    soft = np.float32(signals.fat) + np.float32(signals.muscle - signals.fat) * np.maximum(
        muscle, occupancy(1.8 - depth, pixel) * np.float32(0.8)
    )
    lay(image, occupancy(depth, pixel), soft)
    lay(image, occupancy(cut["fat"], pixel) * occupancy(depth - 2.0, pixel), signals.fat)
    lay(image, occupancy(cut["globe"], pixel), signals.fluid)
    into = np.minimum(cut["bone"], -cut["inner"])
    diploe = np.clip((into - 1.6) / 1.2, 0, 1)
    lay(image, occupancy(cut["bone"], pixel), 0.04 + diploe * np.float32(signals.marrow) * (0.75 + 0.2 * patchy))
    face = occupancy(cut["air"] + 2.5, pixel) * occupancy(-base - 4, pixel)  # the mucosa that lines the sinuses
    lay(image, face * occupancy(depth - 4.0, pixel), signals.mucosa)
    lay(image, occupancy(cut["air"], pixel) * occupancy(depth - 3.0, pixel), 0.0)
    return image


def _inside(image: Field, cut: Fields, widths: Tissue, signals: Signals, pixel: float) -> Fields:
    """Fill the cavity in place: fluid, brain, membranes and sinuses; the shares of a `Scan` in this slice."""
    parts = brain_parts(cut, widths, widths.sulcus_mm, pixel)
    grey, stem, sinus, ventricle = (parts[name] for name in ("grey", "stem", "sinus", "ventricle"))
    nuclei = occupancy(cut["nuclei"], pixel) * (1 - stem)
    matter = 1 + (signals.grey - 1) * np.maximum(grey, 0.35 * stem) + (signals.nuclei - signals.grey) * nuclei * grey
    matter -= signals.worn * np.exp(-np.clip(-cut["ventricle"], 0, None) / 5) * (1 - grey)
    matter += 0.015 * cut["patchy"]
    contents = signals.fluid + parts["tissue"] * (matter - signals.fluid)
    lay(contents, np.maximum(parts["membranes"], parts["tent"]), signals.dura)
    lay(contents, sinus, signals.venous * (1 + 0.05 * cut["patchy"]))
    lay(contents, occupancy(1.1 - cut["inner"], pixel) * (1 - sinus), 0.5 * signals.dura)  # the dura of the vault
    lay(image, parts["cavity"], contents)
    edge = cut["brain"] + signals.strip_mm + 0.8 * cut["patchy"]
    clear = (1 - ventricle) * (1 - sinus) * (1 - parts["membranes"])
    return {
        "cavity": parts["cavity"],
        "brain": occupancy(cut["brain"] - 1, pixel) * clear,
        "white": parts["tissue"] * (1 - grey),
        "kept": occupancy(np.minimum(edge, signals.strip_sinus_mm - cut["sinus"]), pixel),
    }
