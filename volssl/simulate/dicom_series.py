"""Writes a simulated head as a DICOM CT series, one file a slice, which readers bring back to the same HU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from volssl import __version__
from volssl.simulate.head_ct import Head

INTERCEPT_HU = -1024
WINDOWS = (("40", "80", "BRAIN"), ("55", "200", "BLOOD"), ("600", "2800", "BONE"))


def write_series(folder: Path, head: Head, *, study: str, patient: str, entropy: str) -> None:
    """Write `folder`/IM0001.dcm ... from inferior to superior.

    Args:
        study: the study's name, kept as its AccessionNumber.
        patient: `SIMA00-0001` becomes PatientID, and the name `SIM^A00-0001`.
        entropy: what the UIDs are derived from; the same text gives the same UIDs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = (head.hu.astype(np.int32) - INTERCEPT_HU).astype(np.uint16)
    pixels = stored[::-1, ::-1].transpose(2, 1, 0)  # (R, A, S) -> (S, rows to posterior, columns to left)
    header = _series_header(head, study, patient, entropy)
    for index, plane in enumerate(pixels):
        dataset = Dataset()
        dataset.update(header)
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[entropy, "instance", str(index)])
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [_decimal(v) for v in _first_pixel_lps(head, index)]
        dataset.SliceLocation = _decimal(_first_pixel_lps(head, index)[2])
        dataset.PixelData = np.ascontiguousarray(plane).tobytes()
        dataset.file_meta = _file_meta(dataset)
        dataset.save_as(folder / f"IM{index + 1:04d}.dcm", enforce_file_format=True)


def _first_pixel_lps(head: Head, index: int) -> np.ndarray:
    """Position of the first row's first column, which is the most right and anterior voxel, in DICOM's LPS mm."""
    columns, rows, _ = head.hu.shape
    ras = head.affine @ np.array([columns - 1, rows - 1, index, 1.0])
    return np.array([-ras[0], -ras[1], ras[2]])


def _decimal(value: float) -> str:
    """A DICOM decimal string: 16 characters at most."""
    return f"{value:.6f}"[:16]


def _series_header(head: Head, study: str, patient: str, entropy: str) -> Dataset:
    """All that the slices of a series share."""
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 192"
    d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    d.SOPClassUID = CTImageStorage
    d.StudyDate, d.StudyTime, d.AccessionNumber = "20200101", "120000", study
    d.Modality, d.Manufacturer, d.ManufacturerModelName = "CT", "volssl simulator", head.scanner
    d.InstitutionName = f"Simulated site {head.site}"
    d.StudyDescription, d.SeriesDescription = "SIMULATED HEAD CT", f"Head {head.spacing_mm[2]:g} mm {head.kernel}"
    d.PatientName, d.PatientID, d.PatientSex = patient.replace("SIM", "SIM^"), patient, head.sex
    d.PatientBirthDate, d.PatientAge = f"{2020 - head.age_years}0101", f"{head.age_years:03d}Y"
    d.BodyPartExamined, d.SliceThickness, d.KVP = "HEAD", _decimal(head.spacing_mm[2]), "120"
    d.SpacingBetweenSlices = _decimal(head.spacing_mm[2])
    d.SoftwareVersions, d.ConvolutionKernel, d.PatientPosition = f"volssl {__version__}", head.kernel, "HFS"
    d.StudyInstanceUID = generate_uid(entropy_srcs=[entropy, "study"])
    d.SeriesInstanceUID = generate_uid(entropy_srcs=[entropy, "series"])
    d.FrameOfReferenceUID = generate_uid(entropy_srcs=[entropy, "frame"])
    d.StudyID, d.SeriesNumber, d.AcquisitionNumber, d.PositionReferenceIndicator = "1", 2, 1, ""
    d.ReferringPhysicianName, d.Laterality = "", ""
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Columns, d.Rows = head.hu.shape[:2]
    d.PixelSpacing = [_decimal(head.spacing_mm[1]), _decimal(head.spacing_mm[0])]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 12, 11, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = INTERCEPT_HU, 1, "HU"
    d.WindowCenter, d.WindowWidth, d.WindowCenterWidthExplanation = (list(w) for w in zip(*WINDOWS, strict=True))
    d.BurnedInAnnotation, d.DerivationDescription = "NO", "Simulated by volssl; no patient was scanned"
    return d


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
