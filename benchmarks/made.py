"""Volumes that pack, decode and read like a scanner's: anatomy by hand, noise as a reconstruction leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless
from scipy import ndimage

Shape = tuple[int, int, int]
UID = "1.2.826.0.1.3680043.8.498.7"


def noisy_ct(shape: Shape = (512, 512, 108), seed: int = 0) -> np.ndarray:
    """A body in air, (R, A, S), int16 HU: fat, muscle, lungs, bone; noise of 30 HU within, 12 without."""
    rng = np.random.RandomState(seed)
    r, a, s = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    wobble = 0.05 * np.sin(3 * s + seed)
    hu = np.full(shape, -1000, np.float32)
    hu[(r / 0.85) ** 2 + (a / (0.62 + wobble)) ** 2 + 0 * s < 1] = -95
    hu[(r / 0.78) ** 2 + (a / (0.55 + wobble)) ** 2 + 0 * s < 1] = 45
    for side in (-0.36, 0.36):
        hu[((r - side) / 0.27) ** 2 + ((a - 0.05) / 0.36) ** 2 + (s / 0.9) ** 2 < 1] = -850
    hu[(r / 0.09) ** 2 + ((a + 0.38) / 0.09) ** 2 + 0 * s < 1] = 420
    for _ in range(24):
        at, size = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.03, 0.15, 3)
        axes = zip((r, a, s), at, size, strict=True)
        hu[sum(((x - c) / w) ** 2 for x, c, w in axes) < 1] = rng.uniform(-20, 160)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), (0.7, 0.7, 0.4))
    noise *= np.where(hu > -990, 30, 12) / noise.std()
    return np.rint(hu + noise).clip(-1024, 3071).astype(np.int16)


def noisy_mr(shape: Shape = (256, 256, 176), seed: int = 0) -> np.ndarray:
    """A head in Rician noise, (R, A, S), float32 of whole numbers, as scanners store them."""
    ct = noisy_ct(shape, seed).astype(np.float32)
    rng = np.random.RandomState(seed)
    signal = np.interp(ct, [-1024, -500, -100, 50, 150, 3071], [0, 0, 900, 500, 700, 100]).astype(np.float32)
    channels = [part + 25 * rng.standard_normal(shape).astype(np.float32) for part in (signal, 0 * signal)]
    return np.rint(np.hypot(*channels)).astype(np.float32)


def like(hu: np.ndarray, seed: int) -> np.ndarray:
    """Another volume of the same kind, made quickly: moved in plane, and turned end to end for odd seeds."""
    moved = np.roll(hu, (7 * seed, 3 * seed), axis=(0, 1))
    return np.ascontiguousarray(moved[:, :, ::-1] if seed % 2 else moved)


def write_series(folder: Path, hu: np.ndarray, count: int, *, jpeg2000: bool = False) -> list[Path]:
    """Write `count` axial CT series, each with its slices in another order, so that no two are the same volume.

    Args:
        hu: (R, A, S) int16.

    Returns:
        The folders.
    """
    template = _template(hu)
    stored = (hu[::-1, ::-1].transpose(2, 1, 0).astype(np.int32) + 1024).astype(np.uint16)
    planes = [_packed(template, plane) if jpeg2000 else plane.tobytes() for plane in stored]
    folders = []
    for series in range(count):
        where = folder / f"series{series:03d}"
        where.mkdir(parents=True)
        _write(where, template, planes[5 * series % len(planes) :] + planes[: 5 * series % len(planes)], series)
        folders.append(where)
    return folders


def _write(folder: Path, dataset: Dataset, planes: list[bytes], series: int) -> None:
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{UID}.{series}.1", f"{UID}.{series}.2"
    dataset.PatientID = f"MADE-{series}"
    for index, plane in enumerate(planes):
        dataset.SOPInstanceUID = f"{UID}.{series}.3.{index + 1}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [-200.0, -200.0, 2.5 * index]
        dataset.PixelData = plane
        dataset["PixelData"].is_undefined_length = dataset.file_meta.TransferSyntaxUID.is_compressed
        dataset.save_as(folder / f"IM{index:04d}.dcm", enforce_file_format=True)


def _packed(template: Dataset, plane: np.ndarray) -> bytes:
    """A slice's pixels as JPEG 2000, and the template told so."""
    template.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    template.PixelData = plane.tobytes()
    template["PixelData"].VR = "OW"
    template.compress(JPEG2000Lossless, generate_instance_uid=False)
    data: bytes = template.PixelData
    return data


def _template(hu: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{UID}.0.3.1"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.8]
    dataset.Columns, dataset.Rows = hu.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    return dataset
