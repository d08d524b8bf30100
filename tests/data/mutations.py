"""Files damaged at random from a seed: bytes flipped, cut short, tags removed or filled with what does not belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset

from tests.data.sources import block, write_nifti, write_series

SHAPE, SPACING_MM = (24, 20, 6), (2.0, 2.0, 4.0)
WRONG = ("", "no number", "1\\2\\3\\4\\5", "-1", "1e400", "nan", "0", "65535", "\x00\xff", "9" * 60)


def flipped(data: bytes, rng: np.random.RandomState) -> bytes:
    """One to forty bytes take another value; half of the time all in the first kilobyte, where headers are."""
    mutated = bytearray(data)
    end = len(data) if rng.rand() < 0.5 else min(len(data), 1024)
    for place in rng.randint(end, size=rng.randint(1, 41)):
        mutated[place] = rng.randint(256)
    return bytes(mutated)


def cut(data: bytes, rng: np.random.RandomState) -> bytes:
    """The file ends early, now and then at once."""
    return data[: int(len(data) * rng.rand() ** 2)]


def without_tags(path: Path, rng: np.random.RandomState) -> None:
    """A DICOM file loses one to five of its elements."""
    dataset = pydicom.dcmread(path)
    keys = list(dataset.keys())
    for index in rng.permutation(len(keys))[: rng.randint(1, 6)]:
        del dataset[keys[index]]
    _save(dataset, path)


def with_wrong_values(path: Path, rng: np.random.RandomState) -> None:
    """One to three elements of a DICOM file are text that is no such value."""
    data = bytearray(path.read_bytes())
    dataset = pydicom.dcmread(path)
    places = [element for element in dataset if element.VR in ("DS", "IS", "UI", "CS", "US", "LO", "AS")]
    for index in rng.permutation(len(places))[: rng.randint(1, 4)]:
        element = places[index]
        start, length = element.file_tell, len(_raw(dataset, element.tag))
        wrong = WRONG[rng.randint(len(WRONG))].encode("latin-1")[:length]
        data[start : start + length] = wrong.ljust(length)
    path.write_bytes(data)


def _raw(dataset: Dataset, tag: pydicom.tag.BaseTag) -> bytes:
    return bytes(pydicom.dcmread(dataset.filename).get_item(tag).value or b"")


def _save(dataset: Dataset, path: Path) -> None:
    with path.open("wb") as file:
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)


def write_mutated_series(folder: Path, seed: int) -> list[Path]:
    """A series of six slices, each damaged in its own way."""
    rng = np.random.RandomState(seed)
    write_series(folder, block(seed, SHAPE), study=seed, spacing_mm=SPACING_MM)
    ways: list[Callable[[Path, np.random.RandomState], None]] = [
        lambda path, rng: _rewrite(path, flipped, rng),
        lambda path, rng: _rewrite(path, cut, rng),
        without_tags,
        with_wrong_values,
    ]
    paths = sorted(folder.iterdir())
    for path in paths:
        path = path.rename(path.with_suffix(".dcm")) if seed % 2 else path
        ways[rng.randint(len(ways))](path, rng)
    return sorted(folder.iterdir())


def write_mutated_file(folder: Path, seed: int) -> list[Path]:
    """A NIfTI, NRRD or MetaImage file, damaged."""
    rng = np.random.RandomState(seed)
    suffix = (".nii", ".nii.gz", ".nrrd", ".mha")[seed % 4]
    folder.mkdir(parents=True)
    path = folder / f"scan{suffix}"
    if suffix.startswith(".nii"):
        write_nifti(path, block(seed, SHAPE), np.diag([*SPACING_MM, 1.0]))
    else:
        image = SimpleITK.GetImageFromArray(block(seed, SHAPE).transpose(2, 1, 0))
        image.SetSpacing(SPACING_MM)
        SimpleITK.WriteImage(image, str(path), useCompression=bool(seed % 8 > 3))
    _rewrite(path, (flipped, cut, fields)[rng.randint(3)], rng)
    return [path]


def fields(data: bytes, rng: np.random.RandomState) -> bytes:
    """A field of a NIfTI header holds what does not belong there; in a text header, a digit changes."""
    mutated = bytearray(data)
    if len(data) > 352 and data[344:348] in (b"n+1\0", b"ni1\0"):
        header = nib.Nifti1Header(bytes(data[:348]))
        name = ("dim", "datatype", "pixdim", "scl_slope", "srow_x", "vox_offset", "quatern_b")[rng.randint(7)]
        raw = header.structarr
        value = np.array(rng.choice([-1, 0, 3, 1e9, -32768, 32767, np.nan, np.inf]))
        with np.errstate(invalid="ignore"):
            raw[name] = value.astype(raw[name].dtype)
        mutated[:348] = raw.tobytes()
        return bytes(mutated)
    digits = [place for place, byte in enumerate(data[:400]) if chr(byte).isdigit()]
    for place in rng.permutation(digits)[:3] if digits else []:
        mutated[place] = ord("0") + rng.randint(10)
    return bytes(mutated)


def _rewrite(path: Path, mutate: Callable[[bytes, np.random.RandomState], bytes], rng: np.random.RandomState) -> None:
    path.write_bytes(mutate(path.read_bytes(), rng))
