"""Awkward DICOM: what scanners, archives and anonymisers make of a series, and what must become of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    PositronEmissionTomographyImageStorage,
    RawDataStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    SpatialRegistrationStorage,
    TwelveLeadECGWaveformStorage,
    XRayRadiationDoseSRStorage,
)

from tests.data.awkward import Case
from tests.data.dicom_sources import (
    SYNTAXES,
    Edit,
    apart,
    as_mr,
    both,
    moved,
    setting,
    stored_as,
    write_as,
    write_enhanced,
    write_legacy_converted,
    write_object,
)
from tests.data.sources import ROOT_UID, block, write_series

Expect = Callable[[list[dict[str, Any]], list[np.ndarray]], None]
FIRST = 4000  # studies are numbered from here, and so are the seeds of their voxels
PARTED = "told apart by"
IN_ORDER, ALIKE, BY_ORIGIN = "the order of instance numbers", "equal instance numbers", "the origin of their slices"


def volumes(*expected: np.ndarray) -> Expect:
    """The rows hold these voxels (R, A, S), in any order."""

    def expect(rows: list[dict[str, Any]], voxels: list[np.ndarray]) -> None:
        left = [array[0].astype(np.float64) for array in voxels]
        for one in expected:
            match = [index for index, array in enumerate(left) if array.shape == one.shape and (array == one).all()]
            assert match, f"no volume of {[array.shape for array in left]} has the expected voxels"
            left.pop(match[0])

    return expect


def gaps(*expected_mm: float) -> Expect:
    """The rows' slices are so far apart."""

    def expect(rows: list[dict[str, Any]], voxels: list[np.ndarray]) -> None:
        np.testing.assert_allclose(sorted(row["spacing_mm"][2] for row in rows), sorted(expected_mm), atol=1e-4)

    return expect


def every(*expects: Expect) -> Expect:
    def expect(rows: list[dict[str, Any]], voxels: list[np.ndarray]) -> None:
        for one in expects:
            one(rows, voxels)

    return expect


def two(seed: int, *edits: Edit, shared: Edit | None = None, spacing_mm: float = 3.0) -> Callable[[Path], None]:
    """As many stacks of one series as edits, in one folder each; their voxels are `block(seed)`, `block(seed + 1)`."""

    def build(folder: Path) -> None:
        for number, edit in enumerate(edits):
            write_series(
                folder / f"part{number}",
                block(seed + number),
                study=seed,
                spacing_mm=(2.0, 2.0, spacing_mm),
                edit=both(*([shared] if shared else []), apart(number + 1), edit),
            )

    return build


def one(seed: int, edit: Edit | None = None, drop: Sequence[int] = ()) -> Callable[[Path], None]:
    """A series of `block(seed)`, some files of it missing."""

    def build(folder: Path) -> None:
        write_series(folder, block(seed), study=seed, edit=edit)
        for index in drop:
            (folder / f"IM{index:04d}").unlink()

    return build


def only(index: int, edit: Edit) -> Edit:
    """A change of one slice."""
    return lambda dataset, number: edit(dataset, number) if number == index else None


def beside(build: Callable[[Path], object], more: Callable[[Path], object]) -> Callable[[Path], None]:
    def both_of_them(folder: Path) -> None:
        build(folder)
        more(folder)

    return both_of_them


def _parted(name: str, seed: int, by: str, first: Edit, second: Edit) -> Case:
    """Two even stacks of one series, which no tag tells apart."""
    expect = every(volumes(block(seed), block(seed + 1)), gaps(3, 3))
    return Case(name, two(seed, first, second), 2, notes=(f"{PARTED} {by}",), expect=expect)


def _shuffled(folder: Path) -> None:
    write_series(folder, block(4000), study=4000, order=np.random.RandomState(1).permutation(12).tolist())


def _scout(seed: int) -> Callable[[Path], None]:
    edit = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])

    def build(folder: Path) -> None:
        (folder / "scout").mkdir()
        write_series(folder / "scout", block(seed)[..., :1], study=seed, edit=both(apart(9), edit))

    return build


def _types(*image_type: str) -> Edit:
    return setting(ImageType=list(image_type))


def _step_and_shoot(dataset: Dataset, index: int) -> None:
    dataset.AcquisitionNumber, dataset.AcquisitionTime = index + 1, f"1010{index:02d}"


def _numbers(first: int, step: int = 1) -> Edit:
    return lambda dataset, index: setattr(dataset, "InstanceNumber", first + step * index)


def _minute(minute: int) -> Edit:
    """Slices taken one a second from this minute on, each phase numbered from 1."""

    def edit(dataset: Dataset, index: int) -> None:
        dataset.AcquisitionNumber, dataset.InstanceNumber = 1, index + 1
        dataset.AcquisitionTime = dataset.ContentTime = f"10{minute:02d}{index:02d}"

    return edit


def _aside(dataset: Dataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x - 5, y, z + 1.5]


def _taken_in_turns(dataset: Dataset, index: int) -> None:
    """Every second slice first, and numbered along the stack."""
    dataset.InstanceNumber = index + 1
    dataset.AcquisitionTime = dataset.ContentTime = f"1010{index // 2 + 30 * (index % 2):02d}"


def _shifted_up(stored: np.ndarray, *, signed: bool = False) -> Edit:
    """Twelve bits at the upper end of sixteen, as HighBit says; what lies below them is no picture."""
    below = np.random.RandomState(8).randint(0, 16, stored.shape).astype(np.uint16)
    edit = stored_as((stored.astype(np.uint16) << 4) | below, 12, signed=signed)
    return both(edit, setting(HighBit=15))


def _inverted(seed: int, *, signed: bool = False) -> Edit:
    """MONOCHROME1 whose stored values are inverted in twelve bits; slope and intercept are those of the picture."""
    stored, ends, intercept = np.clip(block(seed), -1024, 2047) + (0 if signed else 1024), -1 if signed else 4095, -1024
    edit = stored_as((ends - stored).astype(np.int16), 12, signed=signed)
    return both(edit, setting(PhotometricInterpretation="MONOCHROME1", RescaleIntercept=0 if signed else intercept))


def _own_slope(seed: int) -> Edit:
    hu = block(seed)

    def edit(dataset: Dataset, index: int) -> None:
        slope, intercept = (1, -1024) if index % 2 else (0.5, -1100)
        stored = np.rint((hu[::-1, ::-1, index].T - intercept) / slope).astype(np.uint16)
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelData = slope, intercept, stored.tobytes()
        dataset.BitsStored, dataset.HighBit = 16, 15

    return edit


def _padded(seed: int, value: int) -> np.ndarray:
    """Signed HU, with padding along one edge."""
    hu = block(seed)
    hu[0] = value
    return hu


def _padding(seed: int, tag: int, vr: str, limit: int | None = None) -> Edit:
    def edit(dataset: Dataset, index: int) -> None:
        stored_as(_padded(seed, -2000), signed=True)(dataset, index)
        dataset.RescaleIntercept = 0
        dataset.add_new("PixelPaddingValue", vr, tag)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)

    return edit


def _padding_expected(seed: int) -> np.ndarray:
    return _padded(seed, -1024)


def _enhanced(seed: int, modality: str = "CT", **more: Any) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        stored = block(seed) + 1024
        order = np.random.RandomState(seed).permutation(12).tolist()
        intercept = -1024 if modality == "CT" else 0
        write_enhanced(
            folder / "object.dcm", stored, study=seed, modality=modality, order=order, intercept=intercept, **more
        )

    return build


def _two_echoes(folder: Path) -> None:
    stored = np.concatenate([block(4101), block(4102)], axis=2) + 1024

    def echo(frame: Dataset, index: int) -> None:
        timing = Dataset()
        timing.EffectiveEchoTime = 10.0 if index < 12 else 80.0
        frame.MREchoSequence = [timing]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, -30.0, -100.0 + index % 12 * 3.0]

    write_enhanced(
        folder / "object.dcm",
        stored,
        study=4101,
        modality="MR",
        intercept=0,
        order=[*range(0, 24, 2), *range(1, 24, 2)],
        edit_frame=echo,
    )


def _two_stacks(folder: Path) -> None:
    stored = np.concatenate([block(4103), block(4104)], axis=2) + 1024

    def stack(frame: Dataset, index: int) -> None:
        frame.FrameContentSequence[0].StackID = str(1 + index // 12)
        z_mm = -100.0 + index * 3.0 + (50 if index >= 12 else 0)
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20.0, -30.0, z_mm]

    write_enhanced(folder / "object.dcm", stored, study=4103, edit_frame=stack)


def _no_pictures(folder: Path) -> None:
    objects = {
        "sr": (BasicTextSRStorage, "SR"),
        "dose.1": (XRayRadiationDoseSRStorage, "SR"),
        "state": (GrayscaleSoftcopyPresentationStateStorage, "PR"),
        "letter": (EncapsulatedPDFStorage, "DOC"),
        "key-pictures": (KeyObjectSelectionDocumentStorage, "KO"),
        "structures": (RTStructureSetStorage, "RTSTRUCT"),
        "electrocardiogram": (TwelveLeadECGWaveformStorage, "ECG"),
        "registration": (SpatialRegistrationStorage, "REG"),
        "kspace": (RawDataStorage, "MR"),
    }
    for name, (sop_class, modality) in objects.items():
        write_object(folder / f"{name}.dcm", sop_class, study=4060, modality=modality)


def _of_class(uid: str, modality: str) -> Edit:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
        dataset.Modality = modality

    return edit


def _rows_absurd(folder: Path) -> None:
    write_series(folder, block(4072), study=4072, edit=only(11, setting(Rows=65535, Columns=65535)))


def _cut_short(folder: Path) -> None:
    write_series(folder, block(4073), study=4073)
    path = folder / "IM0004"
    path.write_bytes(path.read_bytes()[:-300])


def _text_in_tag(folder: Path, name: str, text: bytes) -> None:
    """The value of a tag in the last file is overwritten with text of the same length."""
    path = folder / "IM0011"
    element = pydicom.dcmread(path).get_item(name)
    data = bytearray(path.read_bytes())
    start = element.value_tell
    data[start : start + element.length] = text.ljust(element.length)[: element.length]
    path.write_bytes(data)


def _damaged_tag(seed: int, name: str, text: bytes) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        write_series(folder, block(seed), study=seed)
        _text_in_tag(folder, name, text)

    return build


def _without_preamble(folder: Path) -> None:
    write_series(folder, block(4080), study=4080)
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        with path.with_suffix(".dcm").open("wb") as file:
            pydicom.dcmwrite(file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        path.unlink()


def _unknown_syntax(folder: Path) -> None:
    write_as(folder, block(4048, (40, 36, 12)), SYNTAXES["jpeg_2000"], study=4048)
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = MPEG2MPML
        dataset.save_as(path)


def _syntax(seed: int, name: str) -> Case:
    hu = block(seed, (40, 36, 12))
    return Case(
        f"syntax_{name}",
        lambda folder: write_as(folder, hu, SYNTAXES[name], study=seed),
        expect=volumes(hu),
    )


def _oblique_affine(rows: list[dict[str, Any]], voxels: list[np.ndarray]) -> None:
    affine = np.array(rows[0]["affine"]).reshape(4, 4)
    np.testing.assert_allclose(np.abs(affine[:3, 0]) / 2, [0.8, 0.6, 0], atol=1e-5)


def _oblique(dataset: Dataset, index: int) -> None:
    dataset.ImageOrientationPatient = [0.8, 0.6, 0, -0.6, 0.8, 0]


def _jitter(dataset: Dataset, index: int) -> None:
    dataset.ImageOrientationPatient = [1, 0.0004 * (index % 3), 0, 0, 1, 0.0003 * (index % 2)]
    dataset.PixelSpacing = [2.0, 2.0 + 0.0004 * (index % 2)]


def _rounded(folder: Path) -> None:
    """Slices every .625 mm whose positions are told to a tenth."""

    def edit(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [-20.0, -30.0, round(-100 + 0.625 * index, 1)]

    write_series(folder, block(4086, (24, 20, 40)), study=4086, edit=edit)


def _turned_grey(seed: int) -> np.ndarray:
    stored = block(seed).astype(np.float64) + 1024
    return np.asarray(stored.min() + stored.max() - stored)


METAL = np.rint((block(4200) + 1024.3) / 1.5).astype(np.uint16)
METAL[12, 10, 5:8] = 65535, 30001, 22528
OVERLAY = (np.random.RandomState(7).randint(0, 16, (24, 20, 12)) << 12).astype(np.uint16)
RANGE_12 = np.clip(block(4053), -1024, 2047)
BYTES = np.clip(block(4054), 0, 250).astype(np.uint8)

CASES = [
    Case("names_shuffled", _shuffled, expect=volumes(block(4000))),
    Case("scout_in_series", beside(one(4001), _scout(4001)), reasons={"localizer": 1}, expect=volumes(block(4001))),
    Case(
        "two_phases",
        two(4002, setting(AcquisitionNumber=1), setting(AcquisitionNumber=2)),
        2,
        notes=(f"one of 2 stacks of a series, {PARTED} acquisition",),
        expect=volumes(block(4002), block(4003)),
    ),
    Case(
        "interleaved_even_by_tag",
        two(4004, setting(AcquisitionNumber=1), both(moved(1.5), setting(AcquisitionNumber=2))),
        2,
        notes=(f"{PARTED} acquisition",),
        expect=every(volumes(block(4004), block(4005)), gaps(3, 3)),
    ),
    Case(
        "interleaved_uneven_by_tag",
        two(4006, setting(ConvolutionKernel="H31"), both(moved(1), setting(ConvolutionKernel="H60")), spacing_mm=5.0),
        2,
        notes=(f"{PARTED} kernel",),
        expect=every(volumes(block(4006), block(4007)), gaps(5, 5)),
    ),
    Case(
        "interleaved_without_tag",
        two(4008, setting(), moved(1), spacing_mm=5.0),
        2,
        notes=("told apart by position alone",),
        expect=every(volumes(block(4008), block(4009)), gaps(5, 5)),
    ),
    _parted("interleaved_even_by_number", 4110, IN_ORDER, _numbers(1), both(moved(1.5), _numbers(13))),
    _parted("interleaved_even_numbered_alike", 4112, ALIKE, _numbers(1), both(moved(1.5), _numbers(1))),
    _parted("phases_numbered_one_after_the_other", 4114, IN_ORDER, _numbers(1), _numbers(13)),
    _parted("phases_numbered_in_turns", 4116, IN_ORDER, _numbers(1, 2), _numbers(2, 2)),
    _parted("phases_by_time_alone", 4118, "the order of content times", _minute(10), _minute(15)),
    _parted("interleaved_with_other_origins", 4120, BY_ORIGIN, _numbers(1), both(_aside, _numbers(1))),
    Case("mr_taken_in_turns", one(4122, both(as_mr, _taken_in_turns)), expect=volumes(block(4122) + 1024)),
    Case("step_and_shoot", one(4010, _step_and_shoot), expect=every(volumes(block(4010)), gaps(3))),
    Case(
        "magnitude_and_phase",
        two(4012, _types("ORIGINAL", "PRIMARY", "M"), _types("ORIGINAL", "PRIMARY", "P"), shared=as_mr),
        2,
        notes=(f"{PARTED} image type",),
        expect=volumes(block(4012) + 1024, block(4013) + 1024),
    ),
    Case(
        "echoes_in_and_out_of_phase",
        two(
            4014,
            both(setting(EchoTime=2.3), _types("ORIGINAL", "PRIMARY", "OUT_PHASE")),
            both(setting(EchoTime=4.6), _types("ORIGINAL", "PRIMARY", "IN_PHASE")),
            both(setting(EchoTime=4.6), _types("ORIGINAL", "PRIMARY", "WATER")),
            shared=as_mr,
        ),
        3,
        notes=(f"{PARTED} image type",),
        expect=volumes(*(block(4014 + index) + 1024 for index in range(3))),
    ),
    Case(
        "b_values",
        two(4018, setting(DiffusionBValue=0.0), setting(DiffusionBValue=1000.0), shared=as_mr),
        2,
        notes=(f"{PARTED} b-value",),
    ),
    Case(
        "two_kernels",
        two(4020, setting(ConvolutionKernel="B30f"), setting(ConvolutionKernel="B70s")),
        2,
        notes=(f"{PARTED} kernel",),
        expect=volumes(block(4020), block(4021)),
    ),
    Case(
        "projection_in_series",
        two(4022, setting(), _types("DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP")),
        reasons={"derived": 1},
        expect=volumes(block(4022)),
    ),
    Case("reformatted", one(4024, _types("DERIVED", "SECONDARY", "MPR")), notes=("derived or reformatted",)),
    Case("subtraction", one(4025, _types("DERIVED", "PRIMARY", "SUBTRACTION")), 0, {"derived": 1}),
    Case("diffusion_map", one(4026, both(as_mr, _types("DERIVED", "PRIMARY", "DIFFUSION", "ADC"))), 0, {"derived": 1}),
    Case("screen_save", one(4027, _types("DERIVED", "SECONDARY", "SCREEN SAVE")), 0, {"derived": 1}),
    Case("mosaic", one(4028, both(as_mr, _types("ORIGINAL", "PRIMARY", "M", "MOSAIC"))), 0, {"mosaic": 1}),
    Case("enhanced_ct", _enhanced(4100), expect=every(volumes(block(4100)), gaps(3))),
    Case(
        "enhanced_mr_two_echoes",
        _two_echoes,
        2,
        notes=(f"{PARTED} echo",),
        expect=volumes(block(4101) + 1024, block(4102) + 1024),
    ),
    Case("enhanced_two_stacks", _two_stacks, 2, expect=volumes(block(4103), block(4104))),
    Case(
        "enhanced_fewer_groups_than_frames",
        _enhanced(4105, edit=lambda dataset, _: dataset.PerFrameFunctionalGroupsSequence.pop()),
        0,
        {"multi_frame": 1},
    ),
    Case(
        "legacy_converted_ct",
        lambda folder: write_legacy_converted(folder, block(4106), study=4106),
        expect=every(volumes(block(4106)), lambda rows, _: _has_sops(rows)),
    ),
    Case(
        "legacy_converted_mr",
        lambda folder: write_legacy_converted(folder, block(4107), study=4107, modality="MR"),
        expect=volumes(block(4107) + 1024),
    ),
    Case("frames_without_groups", one(4108, setting(NumberOfFrames=3)), 0, {"multi_frame": 1}),
    *(_syntax(4040 + index, name) for index, name in enumerate(SYNTAXES)),
    Case("syntax_without_decoder", _unknown_syntax, 0, {"transfer_syntax": 1}),
    Case("slope_a_slice", one(4049, _own_slope(4049)), expect=volumes(block(4049))),
    Case(
        "inverted_ct_stays_hu",
        one(4050, setting(PhotometricInterpretation="MONOCHROME1")),
        notes=("changes no Hounsfield unit",),
        expect=volumes(block(4050)),
    ),
    Case(
        "inverted_ct_becomes_hu",
        one(4123, _inverted(4123)),
        notes=("only so are they Hounsfield units",),
        expect=volumes(np.clip(block(4123), -1024, 2047)),
    ),
    Case(
        "inverted_signed_ct_becomes_hu",
        one(4124, _inverted(4124, signed=True)),
        notes=("only so are they Hounsfield units",),
        expect=volumes(np.clip(block(4124), -1024, 2047)),
    ),
    Case(
        "inverted_mr_is_turned",
        one(4051, both(as_mr, setting(PhotometricInterpretation="MONOCHROME1"))),
        notes=("MONOCHROME1) was turned",),
        expect=volumes(_turned_grey(4051)),
    ),
    Case(
        "beyond_int16_in_dicom",
        one(4200, both(stored_as(METAL), setting(RescaleSlope=1.5, RescaleIntercept=-1024.3))),
        notes=("HU do not fit into int16: they are stored as int32",),
        expect=volumes(np.rint(METAL * 1.5 - 1024.3)),
    ),
    Case(
        "overlay_above_twelve_bits",
        one(4052, stored_as((block(4052) + 1024).astype(np.uint16) | OVERLAY, 12)),
        expect=volumes(block(4052)),
    ),
    Case(
        "sign_not_carried_on",
        one(4053, both(stored_as(RANGE_12.astype(np.uint16) & 0xFFF, 12, signed=True), setting(RescaleIntercept=0))),
        expect=volumes(RANGE_12),
    ),
    Case(
        "bits_at_the_upper_end",
        one(4125, _shifted_up(block(4125) + 1024)),
        expect=volumes(block(4125)),
    ),
    Case(
        "signed_bits_at_the_upper_end",
        one(4126, both(_shifted_up(block(4126), signed=True), setting(RescaleIntercept=0))),
        expect=volumes(block(4126)),
    ),
    Case(
        "deflated_bits_at_the_upper_end",
        lambda folder: write_as(
            folder, block(4127), SYNTAXES["deflated"], study=4127, edit=_shifted_up(block(4127) + 1024)
        ),
        expect=volumes(block(4127)),
    ),
    Case("eight_bits", one(4054, both(as_mr, stored_as(BYTES, 8))), expect=volumes(BYTES)),
    Case(
        "padding_signed",
        one(4055, _padding(4055, -2000, "SS")),
        notes=("240 padding voxels became air",),
        expect=volumes(_padding_expected(4055)),
    ),
    Case(
        "padding_as_63536",
        one(4056, _padding(4056, 63536, "US")),
        notes=("240 padding voxels became air",),
        expect=volumes(_padding_expected(4056)),
    ),
    Case(
        "padding_range",
        one(4057, _padding(4057, -3000, "SS", -1500)),
        notes=("240 padding voxels became air",),
        expect=volumes(_padding_expected(4057)),
    ),
    Case(
        "padding_zero_is_water",
        one(4058, both(stored_as(block(4058), signed=True), setting(RescaleIntercept=0, PixelPaddingValue=0))),
        expect=volumes(block(4058)),
    ),
    Case(
        "scale_not_told",
        one(
            4059,
            both(
                stored_as(block(4059), signed=True),
                lambda dataset, _: [delattr(dataset, f"Rescale{name}") for name in ("Slope", "Intercept")] and None,
            ),
        ),
        notes=("no slope and intercept is told",),
        expect=volumes(block(4059)),
    ),
    Case("not_hounsfield", one(4061, setting(RescaleType="MGML")), 0, {"rescale": 1}),
    Case("modality_lut", one(4999, setting(ModalityLUTSequence=[Dataset()])), 0, {"rescale": 1}),
    Case(
        "no_pictures",
        _no_pictures,
        0,
        {
            "structured_report": 1,
            "dose_report": 1,
            "presentation_state": 1,
            "encapsulated_document": 1,
            "key_objects": 1,
            "rt_object": 1,
            "waveform": 1,
            "not_an_image": 1,
            "raw_data": 1,
        },
    ),
    Case("secondary_capture", one(4062, _of_class(SecondaryCaptureImageStorage, "OT")), 0, {"secondary_capture": 1}),
    Case(
        "secondary_capture_frames",
        one(
            4063, both(_of_class(MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "CT"), setting(NumberOfFrames=1))
        ),
        0,
        {"secondary_capture": 1},
    ),
    Case("segmentation_object", one(4064, _of_class(SegmentationStorage, "SEG")), 0, {"segmentation": 1}),
    Case("dose_grid", one(4065, _of_class(RTDoseStorage, "RTDOSE")), 0, {"rt_object": 1}),
    Case("another_modality", one(4066, _of_class(PositronEmissionTomographyImageStorage, "PT")), 0, {"modality": 1}),
    Case("colours", one(4067, setting(PhotometricInterpretation="PALETTE COLOR")), 0, {"colour": 1}),
    Case("missing_slice", one(4068, drop=[5]), 0, {"missing_slices": 1}),
    Case("few_slices", one(4069, drop=range(4, 12)), 0, {"few_slices": 1}),
    Case("uneven_gaps", one(4070, only(6, moved(1))), 0, {"uneven_slices": 1}),
    Case(
        "doubled_with_other_pixels",
        beside(one(4071), lambda folder: _again(folder, 4071, block(4271)[..., :3])),
        0,
        {"duplicate_slices": 1},
    ),
    Case(
        "doubled_with_the_same_pixels",
        beside(one(4074), lambda folder: _again(folder, 4074, block(4074)[..., :3])),
        notes=("3 slices with the pixels of another at their place were passed over",),
        expect=volumes(block(4074)),
    ),
    Case(
        "copies",
        beside(one(4075), lambda folder: write_series(folder / "again", block(4075), study=4075)),
        notes=("12 copies of slices were passed over",),
        expect=volumes(block(4075)),
    ),
    Case("size_absurd", _rows_absurd, reasons={"pixels": 1}, expect=volumes(block(4072)[..., :11])),
    Case("pixels_left_out", one(4128, lambda dataset, _: delattr(dataset, "PixelData")), 0, {"pixels": 1}),
    Case("slice_cut_short", _cut_short, 0, {"pixels": 1}),
    Case(
        "place_no_number",
        _damaged_tag(4076, "ImagePositionPatient", b"here\\there\\nowhere"),
        reasons={"geometry": 1},
        expect=volumes(block(4076)[..., :11]),
    ),
    Case("slope_no_number", _damaged_tag(4077, "RescaleIntercept", b"nan"), reasons={"rescale": 1}),
    Case(
        "place_missing",
        one(4078, only(11, lambda dataset, _: delattr(dataset, "ImagePositionPatient"))),
        reasons={"geometry": 1},
        expect=volumes(block(4078)[..., :11]),
    ),
    Case(
        "rows_missing",
        one(4079, only(11, lambda dataset, _: delattr(dataset, "Rows"))),
        reasons={"unreadable": 1},
        expect=volumes(block(4079)[..., :11]),
    ),
    Case("mark_of_dicom_missing", _without_preamble, expect=volumes(block(4080))),
    Case("oblique_slices", one(4081, _oblique), reasons={}, expect=_oblique_affine),
    Case("plane_jitters", one(4082, _jitter), expect=volumes(block(4082))),
    Case("one_uid_for_all_slices", one(4083, setting(SOPInstanceUID=f"{ROOT_UID}.1")), expect=volumes(block(4083))),
    Case(
        "one_series_uid_for_two_patients",
        two(4084, setting(PatientID="PAT-A"), setting(PatientID="PAT-B")),
        2,
        expect=volumes(block(4084), block(4085)),
    ),
    Case("positions_rounded_to_a_tenth", _rounded, expect=volumes(block(4086, (24, 20, 40)))),
    Case(
        "tilted_gantry",
        lambda folder: write_series(folder, block(4087), study=4087, step_mm=(0.0, 1.0, 3.0)),
        notes=("a gantry tilt of 18.4 degrees was taken out by resampling",),
    ),
    Case(
        "scan_in_two_planes",
        two(4088, setting(), setting(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])),
        2,
        notes=("a gantry tilt of 36.9 degrees",),
    ),
]


def _has_sops(rows: list[dict[str, Any]]) -> None:
    assert len(set(rows[0]["sop"])) == 12


def _again(folder: Path, seed: int, hu: np.ndarray) -> None:
    """The lowest slices once more, under other SOPInstanceUIDs."""
    write_series(folder / "again", hu, study=seed, edit=apart(5))
