"""From distances to Hounsfield units: what each voxel of each slice holds, edges shared out by partial volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volssl.simulate.lattice import Field, Fields, Slicer, sigmoid
from volssl.simulate.lesions import Lesion
from volssl.simulate.mimics import Spot, add_spots
from volssl.simulate.patient import Patient

SKULL = ("vault", "inner", "base", "bone", "skin", "air", "fat", "globe", "patchy", "harden")
CORTEX_MM = 2.8
DISTENSION_MM = 0.5


@dataclass(frozen=True)
class Tissue:
    """One patient's Hounsfield units, and the widths that are too thin for the lattice."""

    white_hu: float
    grey_hu: float
    fluid_hu: float
    bone_hu: float
    falx_hu: float
    sinus_hu: float
    falx_mm: float
    sulcus_mm: float
    fissure_mm: float
    third_mm: float
    leukoaraiosis_hu: float


@dataclass(frozen=True)
class Grid:
    """Scanner positions of voxel centers along R, A, S in mm, the slice thickness, and the affine to RAS mm."""

    r_mm: npt.NDArray[np.floating[Any]]
    a_mm: npt.NDArray[np.floating[Any]]
    s_mm: npt.NDArray[np.floating[Any]]
    slice_mm: float
    affine: npt.NDArray[np.float64]


def draw_tissue(rng: np.random.Generator, patient: Patient) -> Tissue:
    """Draw tissue values; with atrophy sulci, fissures and the third ventricle widen and white matter darkens."""
    wear = patient.atrophy
    return Tissue(
        white_hu=float(rng.normal(27.5, 0.8) - 1.5 * wear),
        grey_hu=float(rng.normal(38.0, 0.8)),
        fluid_hu=float(rng.uniform(4, 9)),
        bone_hu=float(rng.uniform(1050, 1500)),
        falx_hu=float(rng.uniform(44, 76)),
        sinus_hu=float(rng.uniform(48, 80)),
        falx_mm=float(rng.uniform(0.5, 1.5)),
        sulcus_mm=0.75 + 1.5 * wear,
        fissure_mm=1.0 + 1.6 * wear,
        third_mm=1.3 + 2.8 * wear,
        leukoaraiosis_hu=float(rng.uniform(0, 9) * max(0.0, wear - 0.25)),
    )


def vessels(rng: np.random.Generator, skull: Fields, brain: Fields, y: Field, z: Field) -> Fields:
    """The dural sinuses on the lattice: `sinus`, mm inside the sagittal, straight and transverse sinuses."""
    inner, tent = skull["inner"], brain["tent"]
    wide = float(rng.uniform(0.8, 1.65))
    sagittal = np.minimum(
        0.65 * (7.5 * wide - inner) - np.abs(brain["middle"]), np.maximum(z - 15, np.minimum(z + 18, -55 - y))
    )
    transverse = np.minimum(3.8 * wide - np.abs(tent), np.minimum(6.0 * wide - inner, -38 - y))
    straight = np.minimum(2.8 * wide - np.sqrt(brain["middle"] ** 2 + tent**2), -36 - y)
    return {"sinus": np.clip(np.maximum.reduce((sagittal, transverse, straight)), -12, 12)}


def sample(
    fields: Fields, lesions: tuple[Lesion, ...], tissue: Tissue, spots: list[Spot], grid: Grid, subslice_mm: float
) -> tuple[Field, Field, Field]:
    """The noiseless scan in HU and the share inside the skull, (S, A, R); the lesions' shares (lesions, S, A, R)."""
    stack = {k: v for k, v in fields.items() if k != "thick"} | {
        f"lesion {i}": lesion.depth for i, lesion in enumerate(lesions)
    }
    slicer = Slicer(stack, grid.r_mm, grid.a_mm)
    parts = max(1, int(np.ceil(grid.slice_mm / subslice_mm)))
    offsets = ((np.arange(parts) + 0.5) / parts - 0.5) * grid.slice_mm
    shape = (len(grid.s_mm), len(grid.a_mm), len(grid.r_mm))
    image, cavity = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    blood = np.zeros((len(lesions), *shape), np.float32)
    pixel = float(grid.r_mm[1] - grid.r_mm[0])
    voxel = (pixel, pixel, grid.slice_mm / parts)
    for number, height in enumerate(grid.s_mm):
        for offset in offsets:
            cut = slicer.at(height + offset)
            part = outside(cut, tissue, pixel)
            cavity[number] += occupancy(cut["inner"], pixel) / np.float32(parts)
            rows, columns = inside_box(cut["inner"])
            if rows.stop > rows.start:
                window = {name: field[rows, columns] for name, field in cut.items()}
                shares = inside(part[rows, columns], window, lesions, tissue, pixel)
                blood[:, number, rows, columns] += shares / parts
                add_spots(part, spots, grid.r_mm, grid.a_mm, height + offset, voxel)
            image[number] += part / np.float32(parts)
    return image, cavity, blood


def inside_box(inner: Field) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around what is inside the skull; empty where nothing is."""
    near = inner > -3
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def occupancy(depth_mm: Field, pixel_mm: float) -> Field:
    """Share of a pixel that lies inside a border at `depth_mm` from its middle."""
    return np.asarray(np.clip(depth_mm * np.float32(1 / pixel_mm) + np.float32(0.5), 0, 1))


def sheet(distance_mm: Field, half_mm: Field | float, pixel_mm: float) -> Field:
    """Share of a pixel inside a sheet of half thickness `half_mm` whose middle is `distance_mm` away."""
    most = np.minimum(np.float32(1), np.maximum(np.float32(2 / pixel_mm) * half_mm, 0))
    return np.clip((half_mm - np.abs(distance_mm)) * np.float32(1 / pixel_mm) + np.float32(0.5), 0, most)


def lay(image: Field, share: Field, hu: Field | float) -> None:
    """Replace the share of each pixel by what has the value `hu`, in place."""
    image += share * (hu - image)


def outside(cut: Fields, tissue: Tissue, pixel: float) -> Field:
    """The slice without the inside of the skull: air, scalp, face, orbits, bone and sinuses, (A, R) in HU."""
    image = np.full(cut["skin"].shape, -1000, np.float32)
    depth, base, patchy = cut["skin"], cut["base"], cut["patchy"]
    muscle = sigmoid(3.0 * patchy - 4.5 + 7.5 * np.clip((-base - 6) / 8, 0, 1))
    soft = -88 + 140 * np.maximum(muscle, occupancy(1.8 - depth, pixel) * np.float32(0.9))
    lay(image, occupancy(depth, pixel), soft)
    lay(image, occupancy(cut["fat"], pixel) * occupancy(depth - 2.0, pixel), -82.0)
    lay(image, occupancy(cut["globe"], pixel), 14.0)
    into = np.minimum(cut["bone"], -cut["inner"])
    diploe = np.clip((into - 1.4) / 1.2, 0, 1)
    bone = np.float32(tissue.bone_hu) - diploe * (620 - 160 * patchy)
    lay(image, occupancy(cut["bone"], pixel), bone)
    lay(image, occupancy(cut["air"], pixel) * occupancy(depth - 3.0, pixel), -960.0)
    return image


def inside(image: Field, cut: Fields, lesions: tuple[Lesion, ...], tissue: Tissue, pixel: float) -> Field:
    """Fill the cavity in place: fluid, brain, membranes, sinuses and blood; each lesion's share (lesions, A, R)."""
    half = tissue.sulcus_mm + _distension(cut, lesions)
    parts = brain_parts(cut, tissue, half, pixel)
    cavity, ventricle, grey, sinus, membranes = (
        parts[name] for name in ("cavity", "ventricle", "grey", "sinus", "membranes")
    )
    tissue_share, stem = parts["tissue"], parts["stem"]
    brain = tissue.white_hu + (tissue.grey_hu - tissue.white_hu) * np.maximum(grey, 0.3 * stem)
    brain -= tissue.leukoaraiosis_hu * np.exp(-np.clip(-cut["ventricle"], 0, None) / 5) * (1 - grey)
    contents = tissue.fluid_hu + tissue_share * (brain - tissue.fluid_hu)
    lay(contents, np.maximum(membranes, parts["tent"]), tissue.falx_hu)
    lay(contents, sinus, tissue.sinus_hu)
    rooms: Fields = {
        "fluid": (1 - tissue_share) * (1 - ventricle) * (1 - sinus) * (1 - membranes) * cavity,
        "ventricle": ventricle * cavity,
        "brain": occupancy(cut["brain"] - 1, pixel) * (1 - ventricle) * (1 - sinus) * (1 - membranes),  # over sulci
        "dural": cavity * (1 - sinus),
    }
    shares = _bleed(contents, cut, lesions, rooms, pixel)
    contents += cut["harden"]
    lay(image, cavity, contents)
    return shares


def brain_parts(cut: Fields, widths: Tissue, sulcus_mm: Field | float, pixel: float) -> Fields:
    """Shares of each pixel (A, R) that the parts of the brain and its coverings hold.

    `cavity`: inside the skull. `tissue`: brain, without fluid. `ventricle`. `stem`. `grey`: of the tissue. `membranes`:
    the falx. `tent`. `sinus`. `sulcus_mm` is half the width of a sulcus at the surface.
    """
    cavity = occupancy(cut["inner"], pixel)
    above = occupancy(np.maximum(cut["tent"], -cut["tent_edge"] - 4), pixel)
    medial = np.maximum(np.abs(cut["middle"]) - widths.fissure_mm, -cut["fissure"])
    depth = np.minimum(cut["brain"], medial)
    half = sulcus_mm * np.clip(1.25 - depth / cut["reach"], 0, 1)
    sulci = sheet(cut["gyri"], half, pixel)
    stem = occupancy(cut["stem"], pixel)
    third = np.minimum(widths.third_mm - np.abs(cut["middle"]), cut["third"])
    ventricle = np.maximum(occupancy(cut["ventricle"], pixel), occupancy(third, pixel))
    tissue_share = occupancy(depth, pixel) * (1 - sulci) * (1 - occupancy(cut["cistern"], pixel))
    tissue_share = np.maximum(tissue_share, stem * occupancy(cut["brain"] - 1, pixel)) * (1 - ventricle)
    beyond = np.maximum(np.abs(cut["gyri"]) - half, 0)
    deeper = np.maximum(depth - cut["reach"], 0)
    pia = np.minimum(depth, np.sqrt(beyond * beyond + deeper * deeper))
    grey = np.maximum(occupancy(CORTEX_MM - pia, pixel), occupancy(cut["nuclei"], pixel)) * above * (1 - stem)
    grey = np.maximum(grey, (1 - above) * (1 - stem) * np.clip(0.55 + 0.2 * cut["patchy"], 0, 1))
    return {
        "cavity": cavity,
        "tissue": tissue_share,
        "ventricle": ventricle,
        "stem": stem,
        "grey": grey,
        "membranes": sheet(cut["middle"], widths.falx_mm, pixel) * occupancy(cut["falx"], pixel),
        "tent": sheet(cut["tent"], widths.falx_mm, pixel) * occupancy(cut["tent_edge"], pixel),
        "sinus": occupancy(cut["sinus"], pixel),
    }


def _distension(cut: Fields, lesions: tuple[Lesion, ...]) -> Field | float:
    """How much subarachnoid blood widens the sulci it fills, in mm."""
    blood = [cut[f"lesion {number}"] for number, lesion in enumerate(lesions) if lesion.kind == "subarachnoid"]
    return DISTENSION_MM * np.clip(np.maximum.reduce(blood) / 4, 0, 1) if blood else 0.0


ROOM = {
    "subarachnoid": "fluid",
    "subdural": "dural",
    "epidural": "dural",
    "intraventricular": "ventricle",
    "intraparenchymal": "brain",
}


def _bleed(contents: Field, cut: Fields, lesions: tuple[Lesion, ...], rooms: Fields, pixel: float) -> Field:
    """Lay the lesions into the contents in place, each within its room; their shares (lesions, A, R)."""
    shares = np.zeros((len(lesions), *contents.shape), np.float32)
    for number, lesion in enumerate(lesions):
        depth, room = cut[f"lesion {number}"], rooms[ROOM[lesion.kind]]
        if lesion.edema_mm:
            rim = np.clip((depth + lesion.edema_mm) / lesion.edema_mm, 0, 1)
            contents -= 8 * rim * room
        shares[number] = occupancy(depth, pixel) * room
        uneven = lesion.hu + 2.0 * cut["patchy"]
        lay(contents, shares[number] * np.float32(lesion.share), uneven)
    return shares
