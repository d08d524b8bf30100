"""What is read and what is passed over is decided by rules that can be said."""

from __future__ import annotations

from pathlib import Path

import pytest

from volssl.data.discovery import discover
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
        "a.nii": "nifti", "b.NII.GZ": "nifti", "c.nrrd": "nrrd", "d.mha": "metaimage", "e.mhd": "metaimage",
        "f.dcm": "dicom", "g.IMA": "dicom", "IM0001": "dicom", "CT.1.2.840.1234": "dicom", "odd.xyz": "dicom",
    }  # fmt: skip
    assert found.passed_over == {
        "files of other kinds": 2, "raw parts of a header file": 1, "pictures": 1, "tables": 1,
        "hidden files and directory records": 2, "archives": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("masks/S1.nii.gz", True),
        ("x/Labels/S1.nii.gz", True),
        ("segmentations/liver.nii.gz", True),
        ("seg/IM1.dcm", True),
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


def test_every_folder_up_to_the_source_may_be_the_studys_name(tmp_path: Path) -> None:
    put(tmp_path, "export/P7/study one/head/IM1.dcm")
    (file,) = discover([tmp_path / "export"]).files
    assert file.names == ("IM1", "head", "study one", "P7", "export")
    assert [plain_name(text) for text in (" S1.nii.gz ", "S1.NRRD", "S1", "a.b")] == ["S1", "S1", "S1", "a.b"]
