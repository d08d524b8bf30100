"""`paths.csv` of a folder of answers: what leads from a key back to the archive, for its owner alone."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from volssl.bundle.answer_keys import COLUMNS, AnswerKeys
from volssl.data.studies import Study
from volssl.data.volume import Origin


def study(path: Path, uid: str = "") -> Study:
    return Study(path=path, identity=uid or str(path), uid=uid, sources=())


def paths_of(folder: Path) -> list[str]:
    with (folder / "paths.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return sorted(row["path"] for row in csv.DictReader(file))


def test_each_line_is_on_the_disk_before_the_run_is_over(tmp_path: Path) -> None:
    keys = AnswerKeys(tmp_path / "out")
    for count, name in enumerate("abc", start=1):
        keys.enter(study(tmp_path / name), "one.json")
        assert paths_of(tmp_path / "out") == [str(tmp_path / name) for name in "abc"[:count]]


def test_nothing_is_written_before_the_first_key(tmp_path: Path) -> None:
    AnswerKeys(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_line_that_a_kill_cut_off_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    keys = AnswerKeys(tmp_path)
    for name in "ab":
        keys.enter(study(tmp_path / name), f"{name}.json")
    whole = (tmp_path / "paths.csv").read_bytes()
    (tmp_path / "paths.csv").write_bytes(whole[:-3])
    again = AnswerKeys(tmp_path)
    again.enter(study(tmp_path / "c"), "c.json")
    again.fold()
    assert paths_of(tmp_path) == [str(tmp_path / name) for name in "ac"]


def test_odd_paths_and_thousands_of_slices_are_read_back_as_they_were(tmp_path: Path) -> None:
    names = ['a,"b"', "line\nbreak", "\udce4rger", "line\rreturn"]
    sops = tuple(f"1.2.826.0.1.3680043.8.498.{10**38 + index}" for index in range(2500))
    for name in names:  # each run reads what the one before wrote
        keys = AnswerKeys(tmp_path)
        keys.enter(study(tmp_path / name), "one.json", Origin((), "dicom", series="1.2.3", sops=sops))
        keys.fold()
    last = AnswerKeys(tmp_path).earlier
    assert sorted(line["path"] for line in last) == sorted(str(tmp_path / name) for name in names)
    assert {line["sop_instance_uids"] for line in last} == {";".join(sops)}
    assert len(";".join(sops)) > 131072  # the longest field that Python's reader takes by default


def test_only_the_owner_reads_key_and_paths_where_new_files_are_open_to_all(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys = AnswerKeys(tmp_path / "out")
        for name in "ab":
            keys.enter(study(tmp_path / name))
        modes = [(tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("private.key", "paths.csv")]
        (tmp_path / "out" / "paths.csv").unlink()  # by a hand from outside, in the middle of a run
        keys.enter(study(tmp_path / "c"))
    finally:
        os.umask(before)
    assert [*modes, (tmp_path / "out" / "paths.csv").stat().st_mode & 0o777] == [0o600] * 3


def test_a_study_with_an_uid_keeps_its_key_wherever_it_lies_and_one_without_does_not(tmp_path: Path) -> None:
    keys = AnswerKeys(tmp_path)
    assert keys.of(study(Path("/a"), "1.2.3")) == keys.of(study(Path("/b"), "1.2.3"))
    assert keys.of(study(Path("/a"))) != keys.of(study(Path("/b")))
    assert AnswerKeys(tmp_path).of(study(Path("/a"))) == keys.of(study(Path("/a")))
    assert len(keys.of(study(Path("/a")))) == 24


def test_the_columns_are_those_that_the_card_names() -> None:
    card = Path(__file__).parents[2] / "bundles" / "head_ct_hemorrhage_classification" / "docs" / "README.md"
    assert all(f"`{column}`" in card.read_text() for column in COLUMNS)
