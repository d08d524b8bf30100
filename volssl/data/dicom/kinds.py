"""What kind of DICOM object a slice is, and why it is no slice of a CT or MR volume."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    UID_dictionary,
)

from volssl.data.volume import RefusedError

if TYPE_CHECKING:
    from volssl.data.dicom.headers import Header

CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
MR_CLASSES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
ENHANCED = (*CT_CLASSES[1:], *MR_CLASSES[1:])

# Parts of the keywords of pydicom's dictionary, the first that fits; what is not named here and has a picture is told
# by its modality.
_CLASSES = {
    "SecondaryCapture": ("secondary_capture", "A secondary capture is a picture of a screen, not a scan."),
    "RadiationDoseSR": ("dose_report", "A dose report tells of radiation; it holds no picture."),
    "SR": ("structured_report", "A structured report holds no picture."),
    "KeyObjectSelection": ("key_objects", "A key object selection names pictures; it holds none."),
    "PresentationState": ("presentation_state", "A presentation state tells how to show pictures; it holds none."),
    "Encapsulated": ("encapsulated_document", "An encapsulated document, such as a PDF, is no scan."),
    "RealWorldValueMapping": ("not_an_image", "A real world value mapping is no picture."),
    "Waveform": ("waveform", "A waveform, such as an ECG, is no picture."),
    "Spectroscopy": ("spectroscopy", "Spectra are no picture."),
    "RawData": ("raw_data", "Raw data of a scanner is no picture yet."),
    "Segmentation": ("segmentation", "A segmentation is somebody's reading of a scan, not a scan."),
    "ParametricMap": ("derived", "A parametric map is computed from scans."),
    "RT": ("rt_object", "An object of radiotherapy is no scan."),
}
_LOCALIZER = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
_COMPUTED = {"MIP", "MINIP", "MNIP", "AVIP", "PROJECTION", "VRT", "SSD", "RENDERING", "RENDERED", "CPR", "CURVED"}
_COMPUTED |= {"ADC", "EADC", "CBF", "CBV", "MTT", "TTP", "TMAX", "SCREEN", "SCREENSAVE", "3DRENDERING", "RGB"}
_COMPUTED |= {"RCBF", "RCBV", "PBP", "TENSOR", "COLFA"}
_COMPUTED_IF_DERIVED = {"PERFUSION", "SUBTRACTION", "SUBTRACT", "SUB", "FA", "DIVISION", "QUANTITY", "STD"}
_HOUNSFIELD = ("", "HU", "US", "HU_MOD")  # US: unspecified, which writers of CT use for HU

Check = Callable[["Header"], RefusedError | None]


def modality_of_class(sop_class: str) -> str:
    """`CT` or `MR` where the class says so; else empty."""
    return "CT" if sop_class in CT_CLASSES else "MR" if sop_class in MR_CLASSES else ""


def without_picture(sop_class: str) -> RefusedError:
    """Why an object without rows and columns is refused."""
    if modality_of_class(sop_class):
        return RefusedError("unreadable", "The header tells no size of the picture: it is damaged, or cut short.")
    return _by_class(sop_class) or RefusedError("not_an_image", "A DICOM object without a picture.")


def refusal(one: Header) -> RefusedError | None:
    """Why a slice is of no kind that is read; None where it is."""
    for check in (_class, _modality, _image_type, _frames, _colour, _units):
        found = check(one)
        if found:
            return found
    return None


def is_derived(one: Header) -> bool:
    """Whether the pixels were computed from others, in a way that leaves them a scan: reformatted, filtered."""
    return "DERIVED" in one.image_type[:1] or bool({"REFORMATTED", "MPR"} & set(one.image_type))


def _by_class(sop_class: str) -> RefusedError | None:
    keyword = UID(sop_class).keyword if sop_class in UID_dictionary else ""
    for part, (reason, sentence) in _CLASSES.items():
        if part in keyword:
            return RefusedError(reason, sentence)
    return None


def _class(one: Header) -> RefusedError | None:
    if modality_of_class(one.sop_class):
        return None
    return _by_class(one.sop_class)


def _modality(one: Header) -> RefusedError | None:
    told = modality_of_class(one.sop_class)
    name = UID(one.sop_class).name if one.sop_class in UID_dictionary else ""
    if name and not told:
        return RefusedError("modality", f"The object is of the class {name}; CT and MR are read.")
    if one.modality in ("CT", "MR"):
        return None
    kind = one.modality if re.fullmatch("[A-Z]{2}", one.modality) else "another"
    return RefusedError("modality", f"The modality is {kind}; CT and MR are read.")


def _image_type(one: Header) -> RefusedError | None:
    words = {word for value in one.image_type for word in re.split(r"[ _\-/]", value)} | set(one.image_type)
    if words & _LOCALIZER:
        return RefusedError("localizer", "A localizer, or scout, is no volume.")
    if "MOSAIC" in words:
        return RefusedError("mosaic", "Each picture is a mosaic of slices, which only its maker's own tags take apart.")
    if words & _COMPUTED or {"MAX", "IP"} <= words or {"MIN", "IP"} <= words:
        return RefusedError("derived", "A projection, rendering, map or screen save is computed from a scan.")
    if "DERIVED" in words and words & _COMPUTED_IF_DERIVED:
        return RefusedError("derived", "A subtraction, projection or map is computed from scans.")
    return None


def _frames(one: Header) -> RefusedError | None:
    if one.frame is None and one.frames > 1:
        return RefusedError("multi_frame", f"{one.frames} frames in a file, and nothing says where each lies.")
    return None


def _colour(one: Header) -> RefusedError | None:
    if one.samples != 1 or one.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        return RefusedError("colour", "The pixels are colours, not single values.")
    return None


def _units(one: Header) -> RefusedError | None:
    if one.slope == 0:
        return RefusedError("rescale", "A rescale slope of zero leaves no picture.")
    if one.modality == "CT" and one.rescale_type not in _HOUNSFIELD:
        return RefusedError("rescale", "The values are not Hounsfield units but another quantity.")
    return None
