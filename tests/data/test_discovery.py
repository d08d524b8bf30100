"""What is read and what is passed over is decided by rules that can be said."""

from __future__ import annotations

import gzip
import io
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from rich.console import Console

from tests.data.sources import block, write_series
from volssl import progress
from volssl.data.dicom.mark import begins_as_dicom
from volssl.data.discovery import UNKNOWN, discover
from volssl.data.keys import plain_name

DICOM = bytes(128) + b"DICM"


def put(root: Path, *names: str, data: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def test_files_are_read_by_suffix_or_by_their_mark(tmp_path: Path) -> None:
    put(tmp_path, "a.nii", "b.NII.GZ", "c.nrrd", "d.mha", "e.mhd", "f.dcm", "g.IMA")
    put(tmp_path, "IM0001", "CT.1.2.840.1234", "odd.xyz", data=DICOM)
    put(tmp_path, "README", "thing.bin", "e.zraw", "x.png", "y.csv", ".hidden.nii", "DICOMDIR", "z.tar.gz")
    found = discover([tmp_path])
    assert {file.path.name: file.format for file in found.files} == {
        "README": UNKNOWN, "thing.bin": UNKNOWN,
        "a.nii": "nifti", "b.NII.GZ": "nifti", "c.nrrd": "nrrd", "d.mha": "metaimage", "e.mhd": "metaimage",
        "f.dcm": "dicom", "g.IMA": "dicom", "IM0001": "dicom", "CT.1.2.840.1234": "dicom", "odd.xyz": "dicom",
    }  # fmt: skip
    assert found.passed_over == {
        "raw parts of a header file": 1, "pictures": 1, "tables": 1,
        "hidden files and directory records": 2, "archives": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("masks/S1.nii.gz", True),
        ("x/Labels/S1.nii.gz", True),
        ("segmentations/liver.nii.gz", True),
        ("seg/IM1.dcm", False),
        ("S1_mask.nii.gz", True),
        ("S1-seg.nii.gz", True),
        ("S1.label.nrrd", True),
        ("mask.nii.gz", True),
        ("segment_study/S1.nii.gz", False),
        ("S1_masked.nii.gz", False),
        ("unlabel.nii.gz", False),
        ("S1.nii.gz", False),
    ],
)
def test_masks_are_told_by_folder_or_name(tmp_path: Path, name: str, mask: bool) -> None:
    put(tmp_path, name)
    found = discover([tmp_path])
    assert (len(found.files), found.passed_over["masks"]) == ((0, 1) if mask else (1, 0))


def test_dicom_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    suffixes = (".txt", ".jpg", ".csv", ".json", ".xml", ".zip", ".gz", ".key", ".pdf", ".raw")
    put(tmp_path, "labels/IM1", "masks/a/IM2.ima", "seg/IM_3", "IM4_mask", "IM5-seg.dcm", data=DICOM)
    put(tmp_path, *(f"s/IM{suffix}" for suffix in suffixes), "s/parts.mhd", data=DICOM)
    put(tmp_path, "DICOMDIR", ".IM6", ".cache/IM7", data=DICOM)
    found = discover([tmp_path])
    assert sum(file.format == "dicom" for file in found.files) == 5 + len(suffixes)
    assert found.passed_over == {"hidden files and directory records": 2, "hidden folders": 1}


def without_suffix(folder: Path) -> dict[str, str]:
    """Writes a volume file of each kind under a name that does not say it; and returns their formats."""
    folder.mkdir(parents=True)
    big = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(block(0), np.eye(4)), folder / "a.nii")
    nib.save(nib.Nifti1Image(block(0).astype(">i2"), np.eye(4), big), folder / "b.nii")
    nib.save(nib.Nifti2Image(block(0), np.eye(4)), folder / "c.nii")
    nib.save(nib.Nifti1Image(block(0), np.eye(4)), folder / "d.nii.gz")
    nib.save(nib.Nifti2Image(block(0), np.eye(4)), folder / "e.nii.gz")
    for name in ("f.nrrd", "g.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(block(0)), str(folder / name))
    plain = (folder / "a.nii").read_bytes()
    (folder / "h.xyz").write_bytes(gzip.compress(plain, compresslevel=0))
    for path in list(folder.iterdir()):
        path.rename(folder / path.name[0])
    return {**dict.fromkeys("abcdeh", "nifti"), "f": "nrrd", "g": "metaimage"}


def test_volume_files_without_a_suffix_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    formats = without_suffix(tmp_path / "in")
    assert {file.path.name: file.format for file in discover([tmp_path]).files} == formats
    (tmp_path / "in" / "a").rename(tmp_path / "in" / "a_mask")  # rules for masks hold for them as well
    assert discover([tmp_path]).passed_over == {"masks": 1}


def test_raw_parts_that_a_source_claims_are_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "S1.mhd", "S1.raw", "part7.raw")
    found = discover([tmp_path])
    found.claim([tmp_path / "S1.mhd", tmp_path / "S1.raw"])
    assert found.passed_over == {"raw parts of a header file": 1}
    found.claim([tmp_path / "part7.raw", tmp_path / "S1.raw"])
    assert found.passed_over == {}


def test_a_file_named_outright_is_read_whatever_its_name(tmp_path: Path) -> None:
    put(tmp_path, "masks/S1_mask.nii.gz")
    (file,) = discover([tmp_path / "masks" / "S1_mask.nii.gz"]).files
    assert file.names == ("S1_mask", "masks")


def test_links_are_followed_once_and_the_store_is_not_entered(tmp_path: Path) -> None:
    put(tmp_path, "in/a/S1.nii", "in/store/S2.nii", "else/S3.nii")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "else")
    found = discover([tmp_path / "in", tmp_path / "in" / "a"], exclude=tmp_path / "in" / "store")
    assert sorted(file.path.name for file in found.files) == ["S1.nii", "S3.nii"]


def test_a_file_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    put(tmp_path, "in/z/S1.nii", "else/S2.nii", "else/S3.nii", "far/S4.nii", "in/.git/objects/S5.nii")
    (tmp_path / "in" / "a.nii").symlink_to(tmp_path / "in" / "z" / "S1.nii")  # met before the file itself
    (tmp_path / "in" / "b.nii").symlink_to(tmp_path / "else" / "S2.nii")  # before the folder that holds it
    (tmp_path / "in" / "c").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "d.nii").symlink_to(tmp_path / "far" / "S4.nii")
    (tmp_path / "in" / "e.nii").symlink_to(tmp_path / "in" / "d.nii")  # a link to a link
    (tmp_path / "in" / "f.nii").symlink_to(tmp_path / "in" / ".git" / "objects" / "S5.nii")
    (tmp_path / "in" / "g.nii").symlink_to(tmp_path / "nowhere")
    found = discover([tmp_path / "in", tmp_path / "far", tmp_path / "else" / "S3.nii", tmp_path / "in" / "z"])
    assert [file.path.relative_to(tmp_path).as_posix() for file in found.files] == [
        "in/z/S1.nii", "in/b.nii", "in/d.nii", "in/f.nii", "in/g.nii", "else/S3.nii",
    ]  # fmt: skip
    assert found.passed_over == {"hidden folders": 1}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "S1.nii")
    os.mkfifo(tmp_path / "S2.nii")
    (tmp_path / "S3.nii").symlink_to(tmp_path / "S2.nii")
    found = discover([tmp_path])
    assert ([file.path.name for file in found.files], found.passed_over.total()) == (["S1.nii"], 2)


def test_a_closed_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "open/S1.nii", "closed/S2.nii")
    listed = os.scandir

    def scan(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scan)
    assert discover([tmp_path]).passed_over == {"folders that may not be opened": 1}


def test_raw_parts_belong_to_a_header_or_are_told_to_lack_it(tmp_path: Path) -> None:
    put(tmp_path, "pair/S1.hdr", "pair/S1.img", "gz/S2.HDR.gz", "gz/S2.IMG.gz", "m/S3.mhd", "m/S3.raw", "m/part7.raw")
    put(tmp_path, "lone/S4.img", "lone/S5.zraw", "lone/S6.hdr")
    put(tmp_path, "lone/S7.img", data=DICOM)
    found = discover([tmp_path])
    assert [file.path.name for file in found.files if file.format == UNKNOWN] == ["S4.img", "S5.zraw"]
    assert [(file.path.name, file.format) for file in found.readable] == [
        ("S2.HDR.gz", "nifti"), ("S6.hdr", "nifti"), ("S7.img", "dicom"), ("S3.mhd", "metaimage"), ("S1.hdr", "nifti"),
    ]  # fmt: skip
    assert found.passed_over == {"raw parts of a header file": 4}
    assert plain_name("S1.hdr") == plain_name("S1.HDR.GZ") == "S1"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("first", ["SpecificCharacterSet", "ImageType", "SOPClassUID"])
def test_dicom_without_preamble_is_told_by_its_first_elements(tmp_path: Path, syntax: str, first: str) -> None:
    dataset = Dataset()
    values = {
        "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["ORIGINAL", "PRIMARY"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "1.2.3", "PatientName": "Doe^Jane",
    }  # fmt: skip
    for name in list(values)[list(values).index(first) :]:
        setattr(dataset, name, values[name])
    big = syntax == ExplicitVRBigEndian
    dataset.save_as(
        tmp_path / "bare",
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=not big,
        enforce_file_format=False,
    )
    data = (tmp_path / "bare").read_bytes()
    assert data[128:132] != b"DICM"
    assert begins_as_dicom(data)
    assert [file.format for file in discover([tmp_path]).files] == ["dicom"]


def test_a_slice_without_preamble_and_meta_header_is_told(tmp_path: Path) -> None:
    write_series(tmp_path / "s", block(0)[:, :, :1])
    (path,) = (tmp_path / "s").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[132:])  # the preamble cut off, group 0002 first
    assert len(discover([tmp_path]).files) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00",
        b"just a text, of some length, that nobody would take for DICOM" * 4,
        bytes(600),
        struct.pack("<HHI", 8, 5, 10) + b"ISO_IR 100" + struct.pack("<HHI", 8, 5, 10),  # the same element again
        struct.pack("<HHI", 8, 5, 4_000_000_000) + bytes(500),  # a length that nothing has
        struct.pack("<HHI", 8, 0x60, 2) + b"CT" + struct.pack("<HHI", 0x10, 0x10, 4),  # begins too late
        struct.pack("<HH2sH", 2, 0, b"ZZ", 4) + bytes(500),  # no such kind of value
        struct.pack("<i", 348) + bytes(336) + b"n+1\0" + bytes(200),  # NIfTI's mark in the wrong place
        struct.pack("<i", 349) + bytes(340) + b"n+1\0" + bytes(200),
        gzip.compress(b"a text" * 200, mtime=0),
        gzip.compress(bytes(1000), mtime=0)[:12] + b"\xff" * 40,  # a gzip that does not unpack
        b"NRRD is a format",
        b"ObjectType = Mesh\nNDims = 3\n",
    ],
)
def test_what_only_resembles_a_scan_is_not_taken_for_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "unknown").write_bytes(data)
    found = discover([tmp_path])
    assert ([file.format for file in found.files], found.readable, found.passed_over) == ([UNKNOWN], [], {})


def test_a_running_count_is_shown_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=80, record=True, file=io.StringIO())
    monkeypatch.setattr(progress, "console", screen)
    assert list(progress.counting(range(1234), "Files found")) == [*range(1234)]
    assert "Files found 1,234" in screen.export_text()


def test_every_folder_up_to_the_source_may_be_the_studys_name(tmp_path: Path) -> None:
    put(tmp_path, "export/P7/study one/head/IM1.dcm")
    (file,) = discover([tmp_path / "export"]).files
    assert file.names == ("IM1", "head", "study one", "P7", "export")
    assert [plain_name(text) for text in (" S1.nii.gz ", "S1.NRRD", "S1", "a.b")] == ["S1", "S1", "S1", "a.b"]
