"""Writes a simulated scan as a DICOM series of CT or MR, one file a slice, which readers bring back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from volssl import __version__
from volssl.simulate.brain_mr import BrainMR
from volssl.simulate.head_ct import Head

INTERCEPT_HU = -1024
WINDOWS = (("40", "80", "BRAIN"), ("55", "200", "BLOOD"), ("600", "2800", "BONE"))


def write_ct_series(folder: Path, head: Head, *, study: str, patient: str, entropy: str) -> None:
    """Write a head CT; arguments as for `write_mr_series`."""
    header = _header(head, study, patient, entropy) | _ct_header(head)
    _write_slices(folder, (head.hu.astype(np.int32) - INTERCEPT_HU).astype(np.uint16), head.affine, header, entropy)


def write_mr_series(folder: Path, scan: BrainMR, *, study: str, patient: str, entropy: str) -> None:
    """Write `folder`/IM0001.dcm ... from inferior to superior.

    Args:
        study: the study's name, kept as its AccessionNumber.
        patient: `SIMA00-0001` becomes PatientID, and the name `SIM^A00-0001`.
        entropy: what the UIDs are derived from; the same text gives the same UIDs.
    """
    header = _header(scan, study, patient, entropy) | _mr_header(scan)
    _write_slices(folder, scan.signal.astype(np.uint16), scan.affine, header, entropy)


def _write_slices(folder: Path, stored: np.ndarray, affine: np.ndarray, header: dict[str, Any], entropy: str) -> None:
    """Write the slices of stored values (R, A, S)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, _ = stored.shape
    pixels = stored[::-1, ::-1].transpose(2, 1, 0)  # (R, A, S) -> (S, rows to posterior, columns to left)
    for index, plane in enumerate(pixels):
        dataset = Dataset()
        for name, value in header.items():
            setattr(dataset, name, value)
        dataset.Columns, dataset.Rows = columns, rows
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[entropy, "instance", str(index)])
        dataset.InstanceNumber = index + 1
        corner = affine @ np.array([columns - 1, rows - 1, index, 1.0])  # the most right and anterior voxel
        lps = (-corner[0], -corner[1], corner[2])
        dataset.ImagePositionPatient = [_decimal(v) for v in lps]
        dataset.SliceLocation = _decimal(lps[2])
        dataset.PixelData = np.ascontiguousarray(plane).tobytes()
        dataset.file_meta = _file_meta(dataset)
        dataset.save_as(folder / f"IM{index + 1:04d}.dcm", enforce_file_format=True)


def _decimal(value: float) -> str:
    """A DICOM decimal string: 16 characters at most."""
    return f"{value:.6f}"[:16]


def _header(scan: Head | BrainMR, study: str, patient: str, entropy: str) -> dict[str, Any]:
    """What the slices of a series share, of CT and of MR."""
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20200101",
        "StudyTime": "120000",
        "AccessionNumber": study,
        "Manufacturer": "volssl simulator",
        "InstitutionName": f"Simulated site {scan.site}",
        "PatientName": patient.replace("SIM", "SIM^"),
        "PatientID": patient,
        "PatientSex": scan.sex,
        "PatientBirthDate": f"{2020 - scan.age_years}0101",
        "PatientAge": f"{scan.age_years:03d}Y",
        "SliceThickness": _decimal(scan.spacing_mm[2]),
        "SpacingBetweenSlices": _decimal(scan.spacing_mm[2]),
        "SoftwareVersions": f"volssl {__version__}",
        "PatientPosition": "HFS",
        "StudyInstanceUID": generate_uid(entropy_srcs=[entropy, "study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[entropy, "series"]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[entropy, "frame"]),
        "StudyID": "1",
        "SeriesNumber": 2,
        "AcquisitionNumber": 1,
        "PositionReferenceIndicator": "",
        "ReferringPhysicianName": "",
        "Laterality": "",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PixelSpacing": [_decimal(scan.spacing_mm[1]), _decimal(scan.spacing_mm[0])],
        "BitsAllocated": 16,
        "PixelRepresentation": 0,
        "BurnedInAnnotation": "NO",
        "DerivationDescription": "Simulated by volssl; no patient was scanned",
    }


def _ct_header(head: Head) -> dict[str, Any]:
    center, width, explanation = (list(w) for w in zip(*WINDOWS, strict=True))
    return {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "ManufacturerModelName": head.scanner,
        "StudyDescription": "SIMULATED HEAD CT",
        "SeriesDescription": f"Head {head.spacing_mm[2]:g} mm {head.kernel}",
        "BodyPartExamined": "HEAD",
        "KVP": "120",
        "ConvolutionKernel": head.kernel,
        "BitsStored": 12,
        "HighBit": 11,
        "RescaleIntercept": INTERCEPT_HU,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": center,
        "WindowWidth": width,
        "WindowCenterWidthExplanation": explanation,
    }


def _mr_header(scan: BrainMR) -> dict[str, Any]:
    repetition, echo, inversion = scan.scanner.times_ms
    spin_echo = scan.scanner.sequence == "SE"
    header = {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "ManufacturerModelName": scan.scanner.name,
        "StudyDescription": "SIMULATED BRAIN MR",
        "SeriesDescription": f"T1 {scan.scanner.sequence} {scan.spacing_mm[2]:g} mm post contrast",
        "BodyPartExamined": "BRAIN",
        "ScanningSequence": "SE" if spin_echo else "GR",
        "SequenceVariant": "NONE" if spin_echo else "SP",
        "ScanOptions": "",
        "MRAcquisitionType": "2D" if spin_echo else "3D",
        "MagneticFieldStrength": _decimal(scan.scanner.tesla),
        "RepetitionTime": _decimal(repetition),
        "EchoTime": _decimal(echo),
        "EchoTrainLength": 1,
        "ContrastBolusAgent": "SIMULATED",
        "BitsStored": 16,
        "HighBit": 15,
    }
    return header | ({"InversionTime": _decimal(inversion)} if inversion else {})


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
