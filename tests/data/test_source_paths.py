"""The private list of paths: written and read again to the letter, whatever a path holds, and small in memory."""

from __future__ import annotations

import stat
from pathlib import Path

from volssl.data.source_paths import PackedPaths, block, read_paths, write_paths

ODD = ("/a/plain.dcm", '/a/"quoted",.dcm', "/a/two\nlines\r.dcm", "/a/no utf-8 \udcff.dcm", "/a/ä 漢.dcm")


def test_paths_and_blocks_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "paths.csv"
    write_paths(file, {"b": ODD, "a": ODD[:1]}, {2: ("c", *ODD[1:]), 1: ("a", ODD[0])})
    settled, blocks = read_paths(file)
    assert dict(settled) == {"a": ODD[:1], "b": ODD}
    assert dict(blocks) == {1: ("a", ODD[0]), 2: ("c", *ODD[1:])}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_line_that_was_cut_off_is_missing_from_its_block_alone(tmp_path: Path) -> None:
    file = tmp_path / "paths.csv"
    write_paths(file, {"a": ODD}, {1: ("b", "/b/1", "/b/2")})
    with file.open("a") as out:
        out.write(block(2, "c", ["/c/1", "/c/2"])[:-4])
    settled, blocks = read_paths(file)
    assert settled["a"] == ODD
    assert dict(blocks) == {1: ("b", "/b/1", "/b/2"), 2: ("c", "/c/1")}


def test_a_list_that_holds_the_same_is_left_alone_and_any_other_is_written(tmp_path: Path) -> None:
    file = tmp_path / "paths.csv"
    write_paths(file, {"a": ODD}, {})
    first = file.stat().st_ino, file.stat().st_mtime_ns
    write_paths(file, {"a": ODD}, {})
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == first
    for paths in (ODD[:-1], (*ODD, "/a/more"), (*ODD[:-1], "/a/other")):
        write_paths(file, {"a": paths}, {})
        assert read_paths(file)[0]["a"] == paths
    file.chmod(0o644)
    write_paths(file, {"a": paths}, {})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_slice_s_path_takes_ten_bytes_of_memory() -> None:
    held: PackedPaths[str] = PackedPaths()
    held["a"] = [f"/archive/2019/patient-4711/CT.1.2.840.113619.2.55.3.604688119.{i:04d}.dcm" for i in range(500)]
    assert len(held["a"]) == 500
    assert len(held._packed["a"]) < 500 * 10
