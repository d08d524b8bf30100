"""Volume files as archives and public data sets really hold them, and what must become of each."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from scipy import ndimage

from tests.data.awkward import Case
from tests.data.sources import block, write_nifti, write_series

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SEEDS = 1000  # these volumes' own: two cases of equal voxels would be one volume

Rows = list[dict[str, Any]]
Voxels = list[np.ndarray]


def hu(seed: int) -> np.ndarray:
    return block(SEEDS + seed)


def brain(seed: int) -> np.ndarray:
    """A skull-stripped head: 0 around tissue of about 35 HU, no air; (R, A, S) int16."""
    values = np.zeros((24, 20, 12), np.int16)
    values[4:-4, 4:-4, 2:-2] = np.random.RandomState(SEEDS + seed).normal(35, 12, (16, 12, 8)).round()
    return values


def nifti(array: np.ndarray, *, name: str = "S1.nii.gz", **header: float | int) -> Callable[[Path], object]:
    """Writes one NIfTI file, fields of its header set by hand: nibabel would choose its own."""

    def build(folder: Path) -> None:
        image = nib.Nifti1Image(array, AFFINE)
        for field in ("scl_slope", "scl_inter"):
            image.header[field] = {"scl_slope": 1, "scl_inter": 0}[field]
        data = header_bytes(image, header) + array.tobytes(order="F")
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    return build


def header_bytes(image: nib.Nifti1Image, fields: dict[str, Any]) -> bytes:
    """352 bytes, as they begin a NIfTI file."""
    header = image.header.copy()
    for name, value in fields.items():
        header[name] = value
    header["vox_offset"] = 352
    return bytes(header.binaryblock) + bytes(4)


def same(
    expected: np.ndarray, modality: str = "CT", within: float = 0.0, ct: type[np.signedinteger] = np.int16
) -> Callable[[Rows, Voxels], None]:
    """One volume of these voxels, in the same order along each axis; `ct` is the type that CT is stored as."""

    def expect(rows: Rows, voxels: Voxels) -> None:
        assert [row["modality"] for row in rows] == [modality]
        assert voxels[0].shape == (1, *expected.shape)
        assert rows[0]["dtype"] == str(voxels[0].dtype)
        assert voxels[0].dtype == (ct if modality == "CT" else np.float32)
        assert np.abs(voxels[0][0].astype(float) - expected).max() <= within

    return expect


def itk_image(array: np.ndarray) -> SimpleITK.Image:
    """An image whose axes run left, posterior, superior, of an (R, A, S) array."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0)))
    image.SetSpacing((2.0, 2.0, 3.0))
    return image


def write_itk(array: np.ndarray, name: str) -> Callable[[Path], object]:
    return lambda folder: SimpleITK.WriteImage(itk_image(array), str(folder / name))


# ---- names and containers ------------------------------------------------------------------------------------------


def _renamed(array: np.ndarray, written: str, name: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        write_nifti(folder / written, array, AFFINE)
        (folder / written).rename(folder / name)

    return build


def _itk_renamed(array: np.ndarray, written: str, name: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        write_itk(array, written)(folder)
        (folder / written).rename(folder / name)

    return build


def _dicom_called(array: np.ndarray, folder_name: str, ending: str, study: int) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        write_series(folder / folder_name, array, study=study)
        for path in list((folder / folder_name).iterdir()):
            path.rename(path.with_name(path.name + ending))

    return build


def _in_microns(folder: Path) -> None:
    image = nib.Nifti1Image(hu(60), np.diag([2000.0, 2000, 3000, 1]))
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, folder / "S1.nii.gz")


def _packed_by_bzip2(folder: Path) -> None:
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 24 20 12\nendian: little\nencoding: bzip2\n\n"
    (folder / "S1.nrrd").write_bytes(header.encode() + bz2.compress(hu(61).tobytes(order="F")))


def _part_elsewhere(folder: Path) -> None:
    (folder / "in").mkdir()
    hu(62).tofile(folder / "voxels")
    header = "ObjectType = Image\nNDims = 3\nDimSize = 24 20 12\nElementType = MET_SHORT\n"
    (folder / "in" / "S1.mhd").write_text(header + "ElementDataFile = ../voxels\n")


def _nifti_2(folder: Path) -> None:
    nib.save(nib.Nifti2Image(hu(3), AFFINE), folder / "S1.nii.gz")


def _big_endian_pair(folder: Path) -> None:
    image = nib.Nifti1Pair(hu(4).astype(">i2"), AFFINE, header=nib.nifti1.Nifti1PairHeader(endianness=">"))
    nib.save(image, folder / "S1.img")


def _gzipped_pair(folder: Path) -> None:
    nib.save(nib.Nifti1Pair(hu(5), AFFINE), folder / "S1.img.gz")


def _analyze(folder: Path) -> None:
    nib.save(nib.AnalyzeImage(hu(6), AFFINE), folder / "S1.img")


def _lone_parts(folder: Path) -> None:
    nib.save(nib.Nifti1Pair(hu(7), AFFINE), folder / "S1.img")
    (folder / "S1.hdr").rename(folder / "S2.hdr")


def _detached_without_raw(folder: Path) -> None:
    for name in ("S1.mhd", "S2.nhdr"):
        SimpleITK.WriteImage(itk_image(hu(8)), str(folder / name), useCompression=True)
    for part in (*folder.glob("*.zraw"), *folder.glob("*.raw.gz")):
        part.unlink()


def _listed_slices(folder: Path) -> None:
    SimpleITK.WriteImage(itk_image(hu(9)), str(folder / "S1.mhd"))
    slices = np.fromfile(folder / "S1.raw", np.int16).reshape(12, -1)
    (folder / "S1.raw").unlink()
    for index, values in enumerate(slices):
        values.tofile(folder / f"part{index:02d}.raw")
    text = (folder / "S1.mhd").read_text().replace("S1.raw", "LIST")
    (folder / "S1.mhd").write_text(text + "".join(f"part{index:02d}.raw\n" for index in range(12)))


def _linked(folder: Path) -> None:
    write_nifti(folder / "z" / "S1.nii.gz", hu(10), AFFINE)
    (folder / "again").symlink_to(folder / "z")
    (folder / "S2.nii.gz").symlink_to(folder / "z" / "S1.nii.gz")
    (folder / "z" / "loop").symlink_to(folder)


# ---- geometry --------------------------------------------------------------------------------------------------------

TILT = np.radians(12)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]]) @ np.diag(
    [2.0, 2.0, 3.0]
)
SHEARED = AFFINE.copy()
SHEARED[:3, 3] = 5, 6, 7
SHEARED[1, 2] = 3 * np.tan(TILT)  # each slice lies further anterior


def _oblique_kept(rows: Rows, voxels: Voxels) -> None:
    np.testing.assert_allclose(np.reshape(rows[0]["affine"], (4, 4)), OBLIQUE, atol=1e-5)
    same(hu(11))(rows, voxels)


def _made_straight(rows: Rows, voxels: Voxels) -> None:
    """Against SciPy's interpolation at the places of the straight grid's voxels."""
    affine = np.reshape(rows[0]["affine"], (4, 4))
    spacing = np.linalg.norm(SHEARED[:3, :3], axis=0)
    np.testing.assert_allclose(affine[:3, :3], np.diag(spacing), atol=1e-5)
    back = np.linalg.inv(SHEARED) @ affine
    straight = voxels[0][0].astype(float)
    expected = ndimage.affine_transform(
        hu(12).astype(float), back[:3, :3], back[:3, 3], straight.shape, order=1, mode="constant", cval=np.nan
    )
    inside = np.isfinite(expected)
    assert inside.mean() > 0.5
    assert np.abs(straight - expected)[inside].max() <= 0.51
    index = np.moveaxis(np.indices(straight.shape), 0, -1) @ back[:3, :3].T + back[:3, 3]
    outside = (np.abs(index - (np.array(hu(12).shape) - 1) / 2) > np.array(hu(12).shape) / 2 + 0.01).any(axis=-1)
    assert outside.mean() > 0.05
    assert (straight[outside] == -1024).all()


def _two_forms(folder: Path) -> None:
    image = nib.Nifti1Image(hu(13), AFFINE)
    other = AFFINE.copy()
    other[0, 3] = 10.0
    image.set_sform(AFFINE, 1)
    image.set_qform(other, 1)
    nib.save(image, folder / "S1.nii.gz")


def _sform_used(rows: Rows, voxels: Voxels) -> None:
    np.testing.assert_allclose(np.reshape(rows[0]["affine"], (4, 4)), AFFINE, atol=1e-5)
    same(hu(13))(rows, voxels)


def _broken_sform(folder: Path) -> None:
    image = nib.Nifti1Image(hu(14), AFFINE)
    image.set_qform(AFFINE, 1)
    data = header_bytes(image, {"sform_code": 1, "srow_x": [0, 0, 0, 0], "scl_slope": 1, "scl_inter": 0})
    (folder / "S1.nii").write_bytes(data + hu(14).tobytes(order="F"))


def _not_a_number_affine(folder: Path) -> None:
    nifti(hu(16), srow_y=[np.nan, 2, 0, 0])(folder)


# ---- several volumes, and none ---------------------------------------------------------------------------------------


def _four_axes(folder: Path) -> None:
    write_nifti(folder / "S1.nii.gz", np.stack([hu(20), hu(21), hu(22)], axis=3), AFFINE)


def _three_parts(rows: Rows, voxels: Voxels) -> None:
    found = {note: array for row, array in zip(rows, voxels, strict=True) for note in row["notes"] if "part" in note}
    for index in range(3):
        np.testing.assert_array_equal(found[f"part {index + 1} of 3"][0], hu(20 + index))


def _nrrd_series(folder: Path) -> None:
    """As 3D Slicer writes sequences: the first axis counts volumes."""
    both = np.stack([hu(23)[::-1, ::-1], hu(24)[::-1, ::-1]])
    header = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\nsizes: 2 24 20 12\n"
        "space directions: none (2,0,0) (0,2,0) (0,0,3)\nkinds: list domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    )
    (folder / "S1.seq.nrrd").write_bytes(header.encode() + both.tobytes(order="F"))


def _two_parts(rows: Rows, voxels: Voxels) -> None:
    found = {note: array for row, array in zip(rows, voxels, strict=True) for note in row["notes"] if "part" in note}
    np.testing.assert_array_equal(found["part 1 of 2"][0], hu(23))
    np.testing.assert_array_equal(found["part 2 of 2"][0], hu(24))


def _time_series(folder: Path) -> None:
    write_nifti(folder / "S1.nii.gz", np.stack([hu(25)] * 17, axis=3), AFFINE)


def _not_single_values(folder: Path) -> None:
    colours = np.zeros((24, 20, 12), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    write_nifti(folder / "colours.nii", colours, AFFINE)
    write_nifti(folder / "complex.nii", hu(26).astype(np.complex64), AFFINE)
    vectors = nib.Nifti1Image(np.zeros((24, 20, 12, 1, 3), np.float32), AFFINE)
    vectors.header.set_intent("vector")
    nib.save(vectors, folder / "vectors.nii")
    image = SimpleITK.GetImageFromArray(np.zeros((12, 20, 24, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(folder / "colours.nrrd"))


# ---- values ----------------------------------------------------------------------------------------------------------

HALVES = hu(33).astype(np.float64) + 0.37
HALVES[0, 0, :3] = -1207.4, -3024.0, -1024.6
BELOW = hu(34)
BELOW[:2] = -3024
AIR = np.random.RandomState(SEEDS + 39).randint(-1024, -900, (24, 20, 12)).astype(np.int16)
METAL = hu(36).astype(np.int32)  # beyond int16 on both sides
METAL[12, 10, 6], METAL[3, 4, 5], METAL[9, 9, 9] = 70_000, -40_001, 1 << 24
TITANIUM = hu(63).astype(np.float64)
TITANIUM[12, 10, 5:8] = 32767.4, 32767.6, 65535.25
GOLD = (hu(64).astype(np.int32) + 1024).astype(np.uint16)
GOLD[12, 10, 5:8] = 65535, 65534, 65533
DAMAGED = hu(65).astype(np.float64)
DAMAGED[12, 10, 6] = 2.0**31
UNSIGNED = (hu(32).astype(np.int32) + 1024).astype(np.uint16)


def _not_finite(folder: Path) -> None:
    values = hu(35).astype(np.float32)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    write_nifti(folder / "S1.nii.gz", values, AFFINE)


def _sidecar(said: str, values: np.ndarray) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        write_nifti(folder / "S1.nii.gz", values, AFFINE)
        (folder / "S1.json").write_text(json.dumps({"Modality": said, "PatientName": "Doe^Jane"}))

    return build


# ---- damage ----------------------------------------------------------------------------------------------------------


def _cut_short(folder: Path) -> None:
    for name in ("S1.nii.gz", "S2.nii", "S3.nrrd", "S4.mha"):
        SimpleITK.WriteImage(itk_image(hu(50)), str(folder / name))
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])


def _one_bit_of_a_gzip(folder: Path) -> None:
    """Inside of a stored block, so that it unpacks without complaint and only gzip's checksum tells."""
    plain = header_bytes(nib.Nifti1Image(hu(51), AFFINE), {"scl_slope": 1}) + hu(51).tobytes(order="F")
    data = bytearray(gzip.compress(plain, compresslevel=0))
    data[len(data) // 2] ^= 1
    (folder / "S1.nii.gz").write_bytes(data)


def _impossible_sizes(folder: Path) -> None:
    nifti(hu(52), name="S1.nii", dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])(folder)
    nifti(hu(52), name="S2.nii.gz", dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])(folder)
    nifti(hu(52), name="S3.nii", dim=[3, 24, -20, 12, 1, 1, 1, 1])(folder)
    nifti(hu(52), name="S4.nii", dim=[3, 24, 20, 13, 1, 1, 1, 1])(folder)
    SimpleITK.WriteImage(itk_image(hu(52)), str(folder / "S5.mha"))
    text = (folder / "S5.mha").read_bytes().replace(b"DimSize = 24 20 12", b"DimSize = 9999 9999 999")
    (folder / "S5.mha").write_bytes(text)


def _not_what_the_name_says(folder: Path) -> None:
    for name in ("S1.nii", "S2.nii.gz", "S3.nrrd", "S4.mha", "S5.hdr"):
        (folder / name).write_bytes(b"<html>404 not found</html>" * 40)
    (folder / "S6.nii.gz").write_bytes(b"")


CASES = [
    Case("suffix_in_capitals", _renamed(hu(0), "S1.nii.gz", "S1.NII.GZ"), expect=same(hu(0))),
    Case("gzip_that_is_called_nii", _renamed(hu(1), "S1.nii.gz", "S1.nii"), expect=same(hu(1))),
    Case("plain_that_is_called_nii_gz", _renamed(hu(2), "S1.nii", "S1.nii.gz"), expect=same(hu(2))),
    Case("nifti_without_suffix", _renamed(hu(54), "S1.nii.gz", "S1"), expect=same(hu(54))),
    Case("nrrd_without_suffix", _itk_renamed(hu(55), "S1.nrrd", "S1"), expect=same(hu(55))),
    Case("metaimage_without_suffix", _itk_renamed(hu(56), "S1.mha", "S1.v2"), expect=same(hu(56))),
    Case("dicom_called_labels", _dicom_called(hu(57), "labels", ".dcm", 957), expect=same(hu(57))),
    Case("dicom_called_pictures", _dicom_called(hu(58), "s", ".jpg", 958), expect=same(hu(58))),
    Case("dicom_called_masks", _dicom_called(hu(59), "s", "_mask", 959), expect=same(hu(59))),
    Case("lengths_in_microns", _in_microns, notes=("lengths in microns",), expect=same(hu(60))),
    Case("packed_by_bzip2", _packed_by_bzip2, stored=0, reasons={"transfer_syntax": 1}),
    Case("raw_part_elsewhere", _part_elsewhere, stored=0, reasons={"missing_part": 1, "unknown_format": 1}),
    Case("nifti_2", _nifti_2, expect=same(hu(3))),
    Case("pair_of_header_and_image", _big_endian_pair, expect=same(hu(4))),
    Case("pair_gzipped", _gzipped_pair, expect=same(hu(5))),
    Case("analyze", _analyze, stored=0, reasons={"analyze": 1}),
    Case("halves_of_a_pair", _lone_parts, stored=0, reasons={"missing_part": 2}),
    Case("raw_part_lost", _detached_without_raw, stored=0, reasons={"missing_part": 2}),
    Case("raw_parts_listed", _listed_slices, expect=same(hu(9))),
    Case("links", _linked, expect=same(hu(10))),
    Case("oblique", lambda folder: write_nifti(folder / "S1.nii.gz", hu(11), OBLIQUE), expect=_oblique_kept),
    Case(
        "sheared",
        lambda folder: write_nifti(folder / "S1.nii.gz", hu(12), SHEARED),
        notes=("a grid sheared by 12.0 degrees was resampled",),
        expect=_made_straight,
    ),
    Case("two_forms", _two_forms, notes=("up to 10 mm apart: the sform was used",), expect=_sform_used),
    Case("sform_without_inverse", _broken_sform, notes=("the qform was used",), expect=same(hu(14))),
    Case(
        "no_form",
        nifti(hu(15)[::-1], sform_code=0, qform_code=0),  # by NIfTI's first method the first axis runs to the left
        notes=("no orientation",),
        expect=same(hu(15)),
    ),
    Case("affine_not_a_number", _not_a_number_affine, stored=0, reasons={"geometry": 1}),
    Case("several_in_one", _four_axes, stored=3, notes=("part 1 of 3", "part 3 of 3"), expect=_three_parts),
    Case("sequence_of_slicer", _nrrd_series, stored=2, notes=("part 2 of 2",), expect=_two_parts),
    Case("series_of_times", _time_series, stored=0, reasons={"time_series": 1}),
    Case("vectors_and_colours", _not_single_values, stored=0, reasons={"colour": 4}),
    Case(
        "slope_and_intercept",
        nifti((hu(30).astype(np.int32) * 2 + 2000).astype(np.int16), scl_slope=0.5, scl_inter=-1000),
        expect=same(hu(30)),
    ),
    Case("slope_not_a_number", nifti(hu(31), scl_slope=np.nan, scl_inter=np.nan), expect=same(hu(31))),
    Case("slope_zero", nifti(hu(37), scl_slope=0, scl_inter=5), expect=same(hu(37))),
    Case("unsigned", nifti(UNSIGNED, scl_slope=1, scl_inter=-1024), expect=same(hu(32))),
    Case("float64", nifti(HALVES), expect=same(HALVES, within=0.5)),
    Case("far_below_air", write_itk(BELOW, "S1.mha"), expect=same(BELOW)),
    Case("not_finite", _not_finite, notes=("3 voxels that were not finite",), expect=same(hu(35))),
    Case(
        "beyond_int16",
        nifti(METAL),
        notes=("values from -40001 to 16777216 HU do not fit into int16: they are stored as int32",),
        expect=same(METAL, ct=np.int32),
    ),
    Case("beyond_int16_float64", nifti(TITANIUM), notes=("int32",), expect=same(TITANIUM, within=0.5, ct=np.int32)),
    Case(
        "beyond_int16_by_slope",
        nifti(GOLD, scl_slope=1, scl_inter=-1024.25),
        notes=("int32",),
        expect=same(GOLD - 1024.25, within=0.5, ct=np.int32),
    ),
    Case("beyond_int16_metaimage", write_itk(METAL - 1, "S1.mha"), expect=same(METAL - 1, ct=np.int32)),
    Case("beyond_float32", nifti(DAMAGED), stored=0, reasons={"intensity_range": 1}),
    Case("constant", nifti(np.full((24, 20, 12), 7, np.int16)), stored=0, reasons={"constant": 1}),
    Case("two_values", nifti((hu(38) > -500).astype(np.uint8)), stored=0, reasons={"mask": 1}),
    Case("all_air", nifti(AIR), stored=0, reasons={"empty": 1}),
    Case(
        "stripped_and_named",
        nifti(brain(40), name="CT_head.nii.gz"),
        notes=("the modality CT was told from the name", "no air"),
        expect=same(brain(40)),
    ),
    Case(
        "stripped_with_sidecar",
        _sidecar("CT", brain(41)),
        notes=("the modality CT was told from its JSON sidecar",),
        expect=same(brain(41)),
    ),
    Case(
        "stripped_and_unnamed",
        nifti(brain(42)),
        notes=("the modality CT was told from the values", "no air"),
        expect=same(brain(42)),
    ),
    Case("stripped_and_stretched", nifti(brain(53) * 7), stored=0, reasons={"modality_unknown": 1}),
    Case("sidecar_of_another_kind", _sidecar("PT", brain(43)), stored=0, reasons={"modality": 1}),
    Case("clear_values_beat_names", nifti(hu(44), name="T1w.nii.gz"), expect=same(hu(44))),
    Case(
        "shifted_by_1024",
        nifti(np.maximum(hu(45) + 1024, 0), name="S1_ct.nii.gz"),
        stored=0,
        reasons={"not_hu": 1},
    ),
    Case(
        "eight_bit_picture",
        nifti(np.clip((brain(46) + 10.0) * 3.2, 0, 255).astype(np.uint8), name="S1_ct.nii.gz"),
        stored=0,
        reasons={"not_hu": 1},
    ),
    Case("water_far_from_zero", nifti(brain(47) * 20 - 1, name="S1_ct.nii.gz"), stored=0, reasons={"not_hu": 1}),
    Case(
        "scaled_to_one",
        nifti((brain(48) / 100).astype(np.float32), name="S1_ct.nii.gz"),
        stored=0,
        reasons={"intensity_range": 1},
    ),
    Case("cut_short", _cut_short, stored=0, reasons={"unreadable": 4}),
    Case("one_bit_of_a_gzip", _one_bit_of_a_gzip, stored=0, reasons={"unreadable": 1}),
    Case("impossible_sizes", _impossible_sizes, stored=0, reasons={"too_large": 2, "unreadable": 2, "dimensions": 1}),
    Case("not_what_the_name_says", _not_what_the_name_says, stored=0, reasons={"unreadable": 6}),
]
