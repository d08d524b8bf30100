"""Sources that tests build themselves: blocks of tissue in air, written as NIfTI files and DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

KEY = "00112233445566778899aabbccddeeff" * 2
ROOT_UID = "1.2.826.0.1.3680043.8.498"


def block(seed: int, shape: tuple[int, int, int] = (24, 20, 12)) -> np.ndarray:
    """(R, A, S) int16 HU: noisy tissue in air, different in every voxel that matters."""
    rng = np.random.RandomState(seed)
    hu = np.full(shape, -1000, dtype=np.int16)
    hu[3:-3, 4:-4, 1:-1] = rng.randint(-50, 300, (shape[0] - 6, shape[1] - 8, shape[2] - 2))
    return hu


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def write_cohort(folder: Path, n: int, shape: tuple[int, int, int] = (24, 20, 12)) -> Path:
    """`n` NIfTI studies S00, S01 ... of one patient each, with a fixed key."""
    for index in range(n):
        write_nifti(folder / "volumes" / f"S{index:02d}.nii.gz", block(index, shape))
    (folder / "volssl.key").write_text(KEY)
    return folder


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    study: int = 1,
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    order: Sequence[int] | None = None,
    step_mm: tuple[float, float, float] | None = None,
    edit: Callable[[Dataset, int], None] | None = None,
) -> list[str]:
    """Write (R, A, S) HU as an axial CT series; and return the SOPInstanceUIDs from inferior to superior.

    Args:
        study: numbers the UIDs.
        order: the number in the file name of each slice, so that names need not follow positions.
        step_mm: from slice to slice in LPS; not along z it is a tilted gantry.
        edit: changes a slice's dataset before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sops = []
    for index in range(hu.shape[2]):
        dataset = _slice(hu[::-1, ::-1, index].T, index, study, spacing_mm)
        step = np.array(step_mm or (0.0, 0.0, spacing_mm[2]))
        dataset.ImagePositionPatient = [round(float(x), 6) for x in np.array([-20.0, -30.0, -100.0]) + index * step]
        if edit:
            edit(dataset, index)
        name = order[index] if order is not None else index
        dataset.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
        sops.append(str(dataset.SOPInstanceUID))
    return sops


def new_object(sop_class: UID, number: str, *, study: int, series: int) -> Dataset:
    """A DICOM object that holds the UIDs and PatientID of its study, and nothing else."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{study}.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT_UID}.{study}.1", f"{ROOT_UID}.{study}.{series}"
    dataset.PatientID = f"PAT-{study}"
    return dataset


def _slice(hu: np.ndarray, index: int, study: int, spacing_mm: tuple[float, float, float]) -> Dataset:
    dataset = new_object(CTImageStorage, f"3.{index + 1}", study=study, series=2)
    dataset.PatientName, dataset.AccessionNumber = "Doe^Jane", f"ACC-{study}"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.PatientSex, dataset.PatientAge = (
        "19300102",
        "20240506",
        "F",
        "094Y",
    )
    dataset.StudyDescription, dataset.Manufacturer = "Head of Mrs Doe", "ACME"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [spacing_mm[1], spacing_mm[0]]
    dataset.Rows, dataset.Columns = hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = (hu.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    return dataset
