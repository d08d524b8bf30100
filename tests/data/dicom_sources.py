"""DICOM objects that tests build themselves: MR, compressed slices, enhanced multi-frame objects, and no pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.data.sources import ROOT_UID, new_object, write_series

Edit = Callable[[Dataset, int], None]
SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_lossless": JPEGLossless,
    "jpeg_lossless_sv1": JPEGLosslessSV1,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}


def both(*edits: Edit) -> Edit:
    """One change of a slice after another."""

    def edit(dataset: Dataset, index: int) -> None:
        for one in edits:
            one(dataset, index)

    return edit


def setting(**values: object) -> Edit:
    """The same tags in every slice."""
    return lambda dataset, _: [setattr(dataset, name, value) for name, value in values.items()] and None


def apart(number: int) -> Edit:
    """SOPInstanceUIDs that no other stack of the series has."""
    return lambda dataset, _: setattr(dataset, "SOPInstanceUID", f"{dataset.SOPInstanceUID}.{number}")


def moved(z_mm: float) -> Edit:
    """The whole stack up by so much."""

    def edit(dataset: Dataset, index: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(float(z) + z_mm, 4)]

    return edit


def as_mr(dataset: Dataset, index: int) -> None:
    """An MR slice whose values are the stored ones: HU plus 1024."""
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.Modality, dataset.EchoTime = "MR", 10
    del dataset.RescaleSlope, dataset.RescaleIntercept


def stored_as(stored: np.ndarray, bits: int = 16, *, signed: bool = False) -> Edit:
    """Stored values (R, A, S) of `bits` bits in the type of the array, whatever the slice held."""

    def edit(dataset: Dataset, index: int) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = stored.itemsize * 8, bits, bits - 1
        dataset.PixelRepresentation = int(signed)
        dataset.PixelData = np.ascontiguousarray(stored[::-1, ::-1, index].T).tobytes()

    return edit


def write_as(folder: Path, hu: np.ndarray, syntax: UID, *, study: int, edit: Edit | None = None) -> None:
    """A series, each file then written anew in a transfer syntax."""
    write_series(folder, hu, study=study, edit=edit)
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.PixelData  # noqa: B018 - read before the file is written over
        if syntax in (JPEGLossless, JPEGLosslessSV1):
            _into_jpeg(dataset, path)
        elif syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
            dataset.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        with path.open("wb") as file:
            little = syntax != ExplicitVRBigEndian
            pydicom.dcmwrite(
                file,
                _fresh(dataset),
                implicit_vr=syntax == ImplicitVRLittleEndian,
                little_endian=little,
                enforce_file_format=True,
            )


def _into_jpeg(dataset: Dataset, path: Path) -> None:
    """Let ITK encode: it writes selection value 1, which either syntax of lossless JPEG may hold."""
    image = SimpleITK.GetImageFromArray(dataset.pixel_array.astype(np.uint16)[np.newaxis])
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(path.with_suffix(".jpeg.dcm")))
    writer.Execute(image)
    encoded = pydicom.dcmread(path.with_suffix(".jpeg.dcm"))
    assert encoded.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    dataset.PixelData = encoded.PixelData
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    path.with_suffix(".jpeg.dcm").unlink()


def _fresh(dataset: Dataset) -> Dataset:
    """The same without the encoding it was read in."""
    fresh = Dataset()
    fresh.update(dataset)
    fresh.file_meta = dataset.file_meta
    return fresh


def write_enhanced(
    path: Path,
    stored: np.ndarray,
    *,
    study: int,
    modality: str = "CT",
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0),
    intercept: float = -1024,
    order: list[int] | None = None,
    edit_frame: Edit | None = None,
    edit: Edit | None = None,
) -> None:
    """An enhanced object by hand: geometry, scaling and position of each frame in its functional groups.

    Args:
        stored: (R, A, frame) stored values, from the lowest frame up.
        order: of the frames in the file.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{study}.3.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT_UID}.{study}.1", f"{ROOT_UID}.{study}.2"
    dataset.PatientID, dataset.Modality, dataset.ImageType = f"PAT-{study}", modality, ["ORIGINAL", "PRIMARY"]
    dataset.Columns, dataset.Rows, dataset.NumberOfFrames = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = order or list(range(stored.shape[2]))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame(index, spacing_mm[2], intercept, edit_frame) for index in frames]
    )
    dataset.PixelData = b"".join(stored[::-1, ::-1, index].T.astype("<u2").tobytes() for index in frames)
    if edit:
        edit(dataset, 0)
    dataset.save_as(path, enforce_file_format=True)


def _frame(index: int, step_mm: float, intercept: float, edit: Edit | None) -> Dataset:
    content, position, values = Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionNumber, content.StackID, content.InStackPositionNumber = 1, "1", index + 1
    position.ImagePositionPatient = [-20.0, -30.0, -100.0 + index * step_mm]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, intercept, "HU" if intercept else "US"
    frame = Dataset()
    frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([position])
    frame.PixelValueTransformationSequence = Sequence([values])
    if edit:
        edit(frame, index)
    return frame


def write_legacy_converted(folder: Path, hu: np.ndarray, *, study: int, modality: str = "CT") -> list[str]:
    """A classic series made one legacy converted enhanced object by highdicom; and its SOPInstanceUIDs upward."""

    def complete(dataset: Dataset, index: int) -> None:
        if modality == "MR":
            as_mr(dataset, index)
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = f"{ROOT_UID}.{study}.4", ""
        dataset.PatientBirthDate, dataset.StudyID, dataset.StudyTime, dataset.SeriesNumber = "", "1", "", 1
        dataset.ReferringPhysicianName, dataset.InstanceNumber = "", index + 1
        dataset.ContentDate, dataset.ContentTime, dataset.AcquisitionDate = "20240506", "101010", "20240506"
        dataset.AcquisitionTime, dataset.Laterality, dataset.PatientPosition = "101010", "", "HFS"
        dataset.SliceThickness, dataset.KVP, dataset.AcquisitionNumber = 3, 120, 1
        dataset.WindowCenter, dataset.WindowWidth = 40, 80

    sops = write_series(folder, hu, study=study, edit=complete)
    paths = sorted(folder.iterdir())
    kind = "LegacyConvertedEnhancedCTImage" if modality == "CT" else "LegacyConvertedEnhancedMRImage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = getattr(highdicom.legacy, kind)(
            [pydicom.dcmread(path) for path in paths],
            series_instance_uid=f"{ROOT_UID}.{study}.22",
            series_number=2,
            sop_instance_uid=f"{ROOT_UID}.{study}.33",
            instance_number=1,
        )
    for path in paths:
        path.unlink()
    converted.save_as(folder / "converted.dcm")
    return sops


def write_object(path: Path, sop_class: UID, *, study: int, modality: str) -> None:
    """An object without a picture."""
    dataset = new_object(sop_class, f"7.{len(path.name)}", study=study, series=5)
    dataset.Modality = modality
    dataset.save_as(path, enforce_file_format=True)
