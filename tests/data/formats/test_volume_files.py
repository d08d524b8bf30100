"""Volume files keep their voxels and their place, and are refused where they are not one volume."""

from __future__ import annotations

import bz2
import gzip
import itertools
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from tests.data.sources import block, write_nifti
from volssl.data import Store, checks, prepare
from volssl.data.discovery import Found
from volssl.data.formats.volume_files import BROKEN, VolumeFile, read_volume_headers
from volssl.data.volume import RefusedError, Volume


def files_of(path: Path, kind: str = "nifti") -> tuple[VolumeFile, ...]:
    (outcome,) = read_volume_headers([Found.at(path, path.parent, kind)])
    if isinstance(outcome, RefusedError):
        raise outcome
    return outcome


def read(path: Path, kind: str = "nifti") -> Volume:
    (file,) = files_of(path, kind)
    return file.read()


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SLA", "ARI"])
def test_each_voxel_stays_where_it_is_in_space(tmp_path: Path, codes: str) -> None:
    hu = block(0)
    there = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    ras_affine = np.array([[2.0, 0, 0, -7], [0, 2.5, 0, 5], [0, 0, 3, -90], [0, 0, 0, 1]])
    turned = nib.orientations.apply_orientation(hu, there)
    affine = ras_affine @ nib.orientations.inv_ornt_aff(there, hu.shape)
    volume = read(write_nifti(tmp_path / "v.nii.gz", turned, affine))
    np.testing.assert_array_equal(volume.array, hu)
    np.testing.assert_allclose(volume.affine, ras_affine, atol=1e-5)


def test_an_oblique_volume_keeps_its_affine_exactly(tmp_path: Path) -> None:
    tilt = np.radians(12)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 3.0])
    affine[:3, 3] = [40, -11, 7]
    hu = block(1)
    volume = read(write_nifti(tmp_path / "v.nii", hu, affine))
    corners = np.array([*itertools.product((0, 23), (0, 19), (0, 11))])
    for r, a, s in corners:  # the same voxel, the same place
        assert volume.array[r, a, s] == hu[23 - r, a, s]
        np.testing.assert_allclose(volume.affine @ [r, a, s, 1], affine @ [23 - r, a, s, 1], atol=1e-4)
    assert volume.first_slice_z_mm == pytest.approx((affine @ [0, 0, 0, 1])[2], abs=1e-4)
    assert volume.slice_step_z_mm == pytest.approx(affine[2, 2], abs=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, (2, 2, 3), atol=1e-5)


@pytest.mark.parametrize(("suffix", "kind"), [(".nrrd", "nrrd"), (".mha", "metaimage"), (".mhd", "metaimage")])
def test_itk_formats_read_as_nifti_does(tmp_path: Path, suffix: str, kind: str) -> None:
    hu = block(2)
    nifti = read(write_nifti(tmp_path / "v.nii.gz", hu, np.diag([-2.0, -2.0, 3.0, 1.0])))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "v.nii.gz")), str(tmp_path / f"v{suffix}"))
    other = read(tmp_path / f"v{suffix}", kind)
    np.testing.assert_array_equal(other.array, nifti.array)
    np.testing.assert_allclose(other.affine, nifti.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("reason", "array"),
    [
        ("dimensions", np.zeros((8, 8, 8, 2, 3), np.int16)),
        ("dimensions", np.zeros((8, 8), np.int16)),
        ("colour", np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))),
    ],
)
def test_what_is_not_one_volume_is_refused(tmp_path: Path, reason: str, array: np.ndarray) -> None:
    with pytest.raises(RefusedError) as caught:
        read(write_nifti(tmp_path / "v.nii", array))
    assert caught.value.reason == reason


def test_a_fourth_axis_of_one_is_no_fourth_axis(tmp_path: Path) -> None:
    hu = block(3)
    np.testing.assert_array_equal(read(write_nifti(tmp_path / "v.nii", hu[..., None])).array, hu)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".nii.gz", "nifti"), (".nii", "nifti"), (".nrrd", "nrrd"), (".mha", "metaimage")]
)
def test_a_damaged_file_is_refused_without_its_path(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"Doe_Jane{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(4)), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedError) as caught:
        read(path, kind)
    assert caught.value.reason == "unreadable"
    assert "Doe" not in caught.value.sentence


def test_an_affine_without_inverse_is_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(block(5), np.eye(4))
    image.header["srow_z"] = 0
    image.header["sform_code"] = 1
    nib.save(image, tmp_path / "v.nii")
    header = bytearray((tmp_path / "v.nii").read_bytes())
    header[312:328] = bytes(16)  # srow_z
    (tmp_path / "v.nii").write_bytes(header)
    with pytest.raises(RefusedError) as caught:
        read(tmp_path / "v.nii")
    assert caught.value.reason == "geometry"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_of_several_volumes_is_a_source_a_part(tmp_path: Path, suffix: str) -> None:
    values = np.stack([block(seed) for seed in (11, 12, 13)], axis=3)
    path = write_nifti(tmp_path / f"v{suffix}", values.astype(">i4"))
    parts = files_of(path)
    assert [(part.part, part.parts, part.shape, part.voxels) for part in parts] == [
        (index, 3, (24, 20, 12), 5760) for index in range(3)
    ]
    assert len({part.source for part in parts}) == 3
    for index, part in enumerate(parts):
        volume = part.read()
        np.testing.assert_array_equal(volume.array, values[..., index])
        assert volume.notes == (f"part {index + 1} of 3",)


@pytest.mark.parametrize(("name", "kind"), [("v.mha", "metaimage"), ("v.nrrd", "nrrd")])
def test_itk_formats_of_several_volumes_are_read_a_part_at_a_time(tmp_path: Path, name: str, kind: str) -> None:
    values = np.stack([block(seed) for seed in (14, 15)])
    image = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(one.transpose(2, 1, 0)) for one in values])
    SimpleITK.WriteImage(image, str(tmp_path / name))
    parts = files_of(tmp_path / name, kind)
    assert [part.parts for part in parts] == [2, 2]
    for part, expected in zip(parts, values, strict=True):
        np.testing.assert_array_equal(part.read().array, expected[::-1, ::-1])  # ITK's axes run left and posterior


def test_so_many_volumes_as_only_a_series_of_times_has_are_refused_with_what_to_do(tmp_path: Path) -> None:
    values = np.stack([block(0)] * 17, axis=3)
    assert len(files_of(write_nifti(tmp_path / "v.nii", values[..., :16]))) == 16
    with pytest.raises(RefusedError) as caught:
        files_of(write_nifti(tmp_path / "v.nii", values))
    assert caught.value.reason == "time_series"
    assert "17 volumes, 16 are the most: write" in caught.value.sentence


def test_the_width_in_the_store_is_told_from_the_header_a_name_or_a_sidecar(tmp_path: Path) -> None:
    hu = block(16)
    widths = {
        "a.nii": (hu, 2),
        "b.nii": (hu.astype(np.float32), 4),
        "b_ct.nii": (hu.astype(np.float32), 2),
        "c_t1w.nii": (hu, 4),
        "d.nii": (hu.astype(np.float64), 2),
    }
    (tmp_path / "d.json").write_text('{"Modality": "CT"}')
    for name, (values, width) in widths.items():
        (file,) = files_of(write_nifti(tmp_path / name, values))
        assert file.stored_bytes_per_voxel == width, name


def test_a_folder_below_the_source_may_name_the_modality_but_not_the_source_itself(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "MR" / "P1" / "v.nii", block(26))
    for root, named in ((tmp_path, "MR"), (tmp_path / "MR", "")):
        ((file,),) = read_volume_headers([Found.at(path, root, "nifti")])
        assert file.read().origin.name_modality == named


def test_a_stamp_changes_with_each_file_that_decides_what_is_stored(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(block(17), np.eye(4)), tmp_path / "v.img")
    (file,) = files_of(tmp_path / "v.hdr")
    assert file.files == (tmp_path / "v.hdr", tmp_path / "v.img")
    stamps = {file.stamp}
    for name, mode in (("v.hdr", "ab"), ("v.img", "ab"), ("v.json", "wb")):
        with (tmp_path / name).open(mode) as changed:
            changed.write(b"{}")
        stamps.add(file.stamp)
    assert len(stamps) == 4


def test_the_raw_parts_of_a_header_file_are_files_of_the_source(tmp_path: Path) -> None:
    for name, kind, raw in (("a.mhd", "metaimage", "a.raw"), ("b.nhdr", "nrrd", "b.raw")):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(18)), str(tmp_path / name))
        (file,) = files_of(tmp_path / name, kind)
        assert file.files == (tmp_path / name, tmp_path / raw)


def test_numbered_raw_parts_are_read_and_named(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(19).transpose(2, 1, 0)), str(tmp_path / "v.mhd"))
    slices = np.fromfile(tmp_path / "v.raw", np.int16).reshape(12, -1)
    text = (tmp_path / "v.mhd").read_text().replace("v.raw", "part%02d.raw 1 12 1")
    (tmp_path / "v.mhd").write_text(text)
    for index, values in enumerate(slices):
        values.tofile(tmp_path / f"part{index + 1:02d}.raw")
    (file,) = files_of(tmp_path / "v.mhd", "metaimage")
    assert [path.name for path in file.files] == ["v.mhd", *(f"part{index:02d}.raw" for index in range(1, 13))]
    np.testing.assert_array_equal(file.read().array, block(19)[::-1, ::-1])


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", ""])
def test_an_nrrd_file_lies_where_its_space_says(tmp_path: Path, space: str) -> None:
    """Worked out by hand: the origin and the first axis of a header in each of its own spaces."""
    place = "space directions: (2,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n" if space else "spacings: 2 2 3\n"
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\n{f'space: {space}' if space else '# no space'}\nsizes: 24 20 12\n"
        f"{place}kinds: domain domain domain\nendian: little\nencoding: raw\n\n"
    )
    hu = block(20)
    (tmp_path / "v.nrrd").write_bytes(header.encode() + hu.tobytes(order="F"))
    volume = read(tmp_path / "v.nrrd", "nrrd")
    if space.startswith("right"):
        np.testing.assert_array_equal(volume.array, hu)
        np.testing.assert_allclose(volume.affine[:3, 3], [10, 20, 30])
    else:  # the first axis runs left: the last voxel in RAS is the file's first
        np.testing.assert_array_equal(volume.array, hu[::-1, ::-1])
        origin = np.array([-10, -20, 30]) if space else np.zeros(3)
        np.testing.assert_allclose(volume.affine @ [23, 19, 0, 1], [*origin, 1])
    assert len(volume.notes) == (0 if space else 1)


def test_a_header_that_promises_more_than_the_file_can_hold_is_refused_before_memory_is_asked_for(
    tmp_path: Path,
) -> None:
    image = nib.Nifti1Image(block(21), np.eye(4))
    image.header["dim"][1:4] = 1000, 1000, 1000  # 2 GB
    data = image.header.binaryblock + bytes(4000)
    for name, written in (("v.nii", data), ("v.nii.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(written)
        tracemalloc.start()
        with pytest.raises(RefusedError) as caught:
            read(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert caught.value.reason == "unreadable"
        assert "promises 20000" in caught.value.sentence
        assert peak < 2e6


@pytest.mark.parametrize(
    ("dtype", "slope", "copies"), [(np.int16, 1.0, 2.2), (np.float64, 1.0, 3.2), (np.int16, 0.5, 3.2)]
)
def test_reading_and_checking_takes_little_more_than_the_volume_itself(
    tmp_path: Path, dtype: type, slope: float, copies: float
) -> None:
    """In copies of the stored int16; 2.2 is what is read and what is stored. The header leaves the offset at 0."""
    values = np.random.RandomState(0).randint(-1000, 500, (256, 256, 100)).astype(dtype)
    image = nib.Nifti1Image(values, np.diag([1.0, 1, 2, 1]))
    image.header.set_slope_inter(slope, 0)
    (tmp_path / "v.nii.gz").write_bytes(
        gzip.compress(image.header.binaryblock + bytes(4) + values.tobytes(order="F"), compresslevel=0)
    )
    (file,) = files_of(tmp_path / "v.nii.gz")
    tracemalloc.start()
    volume = checks.check(file.read())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array, np.rint(values * slope))
    assert peak < copies * volume.array.nbytes + 16e6  # chunks, and the sample that is looked at


@pytest.mark.parametrize(
    "damage",
    [
        (b"(0,0,0)\n\n", b"(0,0,0)\xc3\n"),  # NrrdIO dies of a header without an end
        (b"# Complete", b"# \x00omplete"),
        (b"kinds: domain", b"kinds: \x00omain"),
        (b"kinds: domain", b"kinds: " + b"a" * 5000),
        (b"kinds: ", b"kinks: "),
        (b"dimension: 3", b"dimension: 33"),
    ],
)
def test_a_header_that_is_no_text_is_not_handed_to_nrrdio(tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    path = tmp_path / "v.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(23)), str(path))
    whole = path.read_bytes()
    assert damage[0] in whole
    path.write_bytes(whole.replace(*damage, 1))
    with pytest.raises(RefusedError) as caught:
        read(path, "nrrd")
    assert caught.value.reason in ("unreadable", "dimensions")
    assert caught.value.sentence not in BROKEN.values()  # it was refused before


@pytest.mark.parametrize(
    ("name", "kind"), [("v.nii", "nifti"), ("v.hdr", "nifti"), ("v.nhdr", "nrrd"), ("v.mhd", "metaimage")]
)
def test_a_file_without_compression_that_lacks_one_byte_is_refused_by_its_header(
    tmp_path: Path, name: str, kind: str
) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(25)), str(tmp_path / name))
    raw = next(path for path in tmp_path.iterdir() if path.suffix in (".nii", ".img", ".raw"))
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(RefusedError) as caught:
        files_of(tmp_path / name, kind)
    assert caught.value.reason == "unreadable"
    assert "it is cut short" in caught.value.sentence


def test_what_users_write_into_a_header_may_be_long(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(block(24))
    image.SetMetaData("note", "ä" * 9000)
    SimpleITK.WriteImage(image, str(tmp_path / "v.nrrd"))
    assert b":=" in (tmp_path / "v.nrrd").read_bytes()
    assert read(tmp_path / "v.nrrd", "nrrd").array.shape == (12, 20, 24)


def test_a_refusal_names_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    (folder / "v.mhd").write_text("ObjectType = Image\nNDims = 3\nElementDataFile = Doe_Jane.raw\n")
    (folder / "v.nrrd").write_text("NRRD0004\ndimension: 3\ndata file: Doe_Jane.raw")
    (folder / "v.hdr").write_bytes(nib.Nifti1Pair(block(22), np.eye(4)).header.binaryblock)
    (folder / "v.nii").symlink_to(folder / "nowhere")
    kinds = {"v.mhd": "metaimage", "v.nrrd": "nrrd", "v.hdr": "nifti", "v.nii": "nifti"}
    outcomes = read_volume_headers([Found.at(folder / name, folder, kind) for name, kind in kinds.items()])
    assert [one.reason for one in outcomes] == ["missing_part", "missing_part", "missing_part", "unreadable"]
    assert not any("Doe" in one.sentence for one in outcomes)


@pytest.mark.parametrize(("written", "kind"), [("v.nii.gz", "nifti"), ("v.nrrd", "nrrd"), ("v.mha", "metaimage")])
@pytest.mark.parametrize("name", ["IM0001", "scan.v2", "7"])
def test_a_name_without_suffix_is_no_hindrance(tmp_path: Path, written: str, kind: str, name: str) -> None:
    image = SimpleITK.GetImageFromArray(block(27).transpose(2, 1, 0))
    SimpleITK.WriteImage(image, str(tmp_path / written), useCompression=True)
    (tmp_path / written).rename(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name, kind).array, block(27)[::-1, ::-1])


@pytest.mark.parametrize(("unit", "of_mm", "word"), [("meter", 1e-3, "metres"), ("micron", 1e3, "microns")])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0), (1, 1)])
def test_lengths_in_other_units_are_brought_to_mm(
    tmp_path: Path, unit: str, of_mm: float, word: str, codes: tuple[int, int]
) -> None:
    affine = np.array([[2.0, 0, 0, -7], [0, 2.5, 0, 5], [0, 0, 3, -90], [0, 0, 0, 1]])
    written = np.diag([of_mm, of_mm, of_mm, 1]) @ affine
    image = nib.Nifti1Image(block(28), written)
    image.header.set_xyzt_units(unit, "sec")
    for code, form in zip(codes, (image.set_sform, image.set_qform), strict=True):
        form(written if code else None, code)
    image.to_filename(tmp_path / "v.nii")
    volume = read(tmp_path / "v.nii")
    np.testing.assert_allclose(volume.spacing_mm, (2, 2.5, 3), rtol=1e-5)
    if any(codes):
        np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
    assert volume.notes[-1] == f"the header gives lengths in {word}: they were brought to mm"
    assert len(volume.notes) == (1 if any(codes) else 2)  # the two forms are no further apart than in mm


def test_the_forms_of_a_header_in_metres_are_compared_in_mm(tmp_path: Path) -> None:
    image = nib.Nifti1Image(block(28), np.diag([0.002, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    other = image.affine.copy()
    other[0, 3] = 0.01
    image.set_sform(image.affine, 1)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "v.nii")
    assert "up to 10 mm apart" in read(tmp_path / "v.nii").notes[0]


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 24 20 12\nendian: little\nspacings: 2 2 3\n"
META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 24 20 12\nElementType = MET_SHORT\nElementSpacing = 2 2 3\n"
    "ElementDataFile = "
)


@pytest.mark.parametrize(
    ("name", "kind", "header"),
    [
        ("v.nhdr", "nrrd", NRRD + "encoding: raw\ndata file: ../Doe.raw\n"),
        ("v.nhdr", "nrrd", NRRD + "encoding: raw\ndata file: in/../../Doe.raw\n"),
        ("v.nhdr", "nrrd", NRRD + "encoding: raw\ndata file: /etc/passwd\n"),
        ("v.nhdr", "nrrd", NRRD + "encoding: raw\ndata file: LIST\n../Doe.raw\n"),
        ("v.mhd", "metaimage", META + "../Doe.raw\n"),
        ("v.mhd", "metaimage", META + "/etc/passwd\n"),
        ("v.mhd", "metaimage", META + "LIST\nnear.raw\n../Doe.raw\n"),
        ("v.mhd", "metaimage", META + "../Doe%02d.raw 1 12 1\n"),
    ],
)
def test_a_raw_part_outside_of_the_headers_folder_is_not_opened(
    tmp_path: Path, name: str, kind: str, header: str
) -> None:
    for raw in ("Doe.raw", *(f"Doe{number:02d}.raw" for number in range(1, 13)), "in/near.raw"):
        (tmp_path / raw).parent.mkdir(exist_ok=True)
        block(29).tofile(tmp_path / raw)
    (tmp_path / "in" / name).write_text(header)
    with pytest.raises(RefusedError) as caught:
        read(tmp_path / "in" / name, kind)
    assert caught.value.reason == "missing_part"
    assert caught.value.sentence == "The header names a raw part outside of its own folder: move it there."


def test_a_raw_part_in_the_headers_folder_or_below_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for raw in ("below/v.raw", "./v.raw", str(tmp_path / "v.raw")):
        block(29).ravel(order="F").tofile(tmp_path / raw)
        (tmp_path / "v.mhd").write_text(META + raw + "\n")
        np.testing.assert_array_equal(read(tmp_path / "v.mhd", "metaimage").array, block(29)[::-1, ::-1])


@pytest.mark.parametrize(
    ("name", "kind", "data", "sentence"),
    [
        ("v.nii.gz", "nifti", lambda packed: packed[:-3000], "The compressed data is damaged or cut short."),
        ("v.nii.gz", "nifti", lambda packed: packed[:-8] + bytes(8), "The compressed data is damaged or cut short."),
        ("v.nii.gz", "nifti", lambda packed: packed[:20], "The compressed data is damaged or cut short."),
        ("v.nrrd", "nrrd", lambda packed: packed[:-3000], BROKEN["voxels"]),
        ("v.nrrd", "nrrd", lambda packed: packed.replace(b"type: short", b"type: shirt"), BROKEN["header"]),
        ("v.mha", "metaimage", lambda packed: packed[:-3000], BROKEN["voxels"]),
    ],
)
def test_a_refusal_says_in_plain_words_what_is_likely(
    tmp_path: Path, name: str, kind: str, data: Callable[[bytes], bytes], sentence: str
) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(30)), str(tmp_path / name), useCompression=True)
    whole = (tmp_path / name).read_bytes()
    assert data(whole) != whole
    (tmp_path / name).write_bytes(data(whole))
    with pytest.raises(RefusedError) as caught:
        read(tmp_path / name, kind)
    assert (caught.value.reason, caught.value.sentence) == ("unreadable", sentence)


@pytest.mark.parametrize(("encoding", "named"), [("bzip2", "bzip2"), ("bz2", "bzip2"), ("Doe", "of its header")])
def test_an_encoding_that_is_not_read_is_said(tmp_path: Path, encoding: str, named: str) -> None:
    packed = bz2.compress(block(31).tobytes())
    (tmp_path / "v.nrrd").write_bytes(f"{NRRD}encoding: {encoding}\n\n".encode() + packed)
    with pytest.raises(RefusedError) as caught:
        read(tmp_path / "v.nrrd", "nrrd")
    assert caught.value.reason == "transfer_syntax"
    assert caught.value.sentence == f"The encoding {named} is not read: save the file with gzip, or raw."


def test_each_raw_part_is_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the row of its header, or passed over; also where it lies below the header, or is called anyhow."""
    (tmp_path / "in" / "below").mkdir(parents=True)
    for index, raw in enumerate(("S0.raw", "below/S1.raw", "S2.dat")):
        block(32 + index).ravel(order="F").tofile(tmp_path / "in" / raw)
        (tmp_path / "in" / f"S{index}.mhd").write_text(META + raw + "\n")
    nib.save(nib.Nifti1Pair(block(35), np.diag([2.0, 2, 3, 1])), tmp_path / "in" / "S3.img")
    (tmp_path / "in" / "unnamed.raw").write_bytes(b"x")
    summary = prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    assert Store.open(tmp_path / "store").rows["files"].to_pylist() == [2, 2, 2, 2]
    assert (summary.rejected, summary.passed_over) == ({}, {"raw parts of a header file": 1})
    assert "Passed over by rule: raw parts of a header file (1)." in capsys.readouterr().err
