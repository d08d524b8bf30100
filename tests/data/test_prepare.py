"""Prepare: every source ends as a volume or with its reason, once, whatever interrupts; and names nobody."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.data.sources import KEY, ROOT_UID, block, write_cohort, write_nifti, write_series
from volssl.data import Store, checks, ledger, preparation, prepare
from volssl.data.formats.volume_files import VolumeFile
from volssl.data.store import JOURNAL
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import Volume
from volssl.errors import UserError

RUN = "from volssl.data import prepare; prepare(['{cohort}'], '{store}', workers={workers})"


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store that its content decides; `paths.csv` too, as the sources lie in one place."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def rejected(store: Path) -> dict[str, str]:
    with (store / "rejected.csv").open() as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file)}


def paths(store: Path) -> dict[str, str]:
    with (store / "paths.csv").open() as file:
        return {row["key"]: row["path"] for row in csv.DictReader(file)}


def test_what_is_stored_is_what_was_written(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 3)
    summary = prepare([cohort], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    assert (summary.stored, summary.known, summary.volumes, summary.patients) == (3, 0, 3, 3)
    for volume_id, path in paths(tmp_path / "store").items():
        hu = block(int(Path(path).name[1:3]))
        np.testing.assert_array_equal(store.read(volume_id), hu[np.newaxis])
        np.testing.assert_array_equal(store.read(volume_id, ((2, 9), (0, 5), (11, 12))), hu[np.newaxis, 2:9, :5, 11:])
        assert store.scan(volume_id).read().dtype == np.int16


def test_the_store_keeps_the_thresholds_that_its_volumes_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_cohort(tmp_path / "cohort", 1)
    monkeypatch.setattr(checks, "THRESHOLDS", replace(checks.THRESHOLDS, air_max_share=0.99))
    prepare([cohort], tmp_path / "store", workers=0)
    kept = json.loads((tmp_path / "store" / "store.json").read_text())["thresholds"]
    assert kept == asdict(checks.THRESHOLDS)
    assert (kept["air_max_share"], kept["slices_min"], kept["extent_min_mm"]) == (0.99, 5, 20.0)


def test_a_second_run_changes_no_file_and_reads_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = write_cohort(tmp_path / "cohort", 3)
    write_nifti(cohort / "volumes" / "flat.nii.gz", np.zeros((20, 20, 20), np.int16))
    prepare([cohort], tmp_path / "store", workers=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.*") if path.name != ".lock"}
    monkeypatch.setattr(preparation.Writer, "__call__", lambda *_: pytest.fail("a volume was read again"))
    summary = prepare([cohort], tmp_path / "store", workers=0)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.*") if path.name != ".lock"}
    assert (summary.stored, summary.known, dict(summary.rejected)) == (0, 3, {"constant": 1})
    assert before == after


def test_processes_give_the_same_store_as_none(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 5)
    prepare([cohort], tmp_path / "alone", workers=0)
    subprocess.run([sys.executable, "-c", RUN.format(cohort=cohort, store=tmp_path / "pair", workers=2)], check=True)
    assert files(tmp_path / "alone") == files(tmp_path / "pair")


def test_killed_and_repeated_it_gives_the_same_store_and_does_nothing_twice(tmp_path: Path) -> None:
    cohort, store = write_cohort(tmp_path / "cohort", 30, (70, 70, 40)), tmp_path / "killed"
    prepare([cohort], tmp_path / "whole", workers=0)
    written: dict[str, int] = {}
    for wait_for in (1, 17):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN.format(cohort=cohort, store=store, workers=0)], stderr=subprocess.DEVNULL
        )
        journal = store / JOURNAL
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < wait_for):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was at work, not done
        with pytest.raises(UserError, match="cut short"):
            Store.open(store)
        assert stat.S_IMODE((store / "paths.csv").stat().st_mode) == 0o600
        for name, data in files(store).items():
            assert (b"/cohort/" in data) == (name == "paths.csv"), f"a path stands in {name}"
        done = journal.read_bytes().count(b"\n")
        assert done >= wait_for
        for path, mtime in written.items():
            assert (store / path).stat().st_mtime_ns == mtime
        with (store / "paths.csv").open("ab") as file:
            file.write(f'"#{done + 1}",""\n"abc","/co\n'.encode())  # for an entry that was never made, and cut
        written = {f"volumes/{path.name}": path.stat().st_mtime_ns for path in (store / "volumes").glob("*.b2nd")}
    (store / "volumes" / f".{0:024x}.b2nd.1.tmp").write_bytes(b"half a volume")
    with journal.open("ab") as file:
        file.write(b'{"key": "half a li')
    summary = prepare([cohort], store, workers=0)
    assert summary.known >= 17
    assert summary.stored + summary.known == 30
    assert files(store) == files(tmp_path / "whole")


def test_a_volume_that_a_power_cut_left_short_is_read_again(tmp_path: Path) -> None:
    cohort, store = write_cohort(tmp_path / "cohort", 6, (70, 70, 40)), tmp_path / "store"
    prepare([cohort], tmp_path / "whole", workers=0)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.format(cohort=cohort, store=store, workers=0)], stderr=subprocess.DEVNULL
    )
    journal = store / JOURNAL
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 3):
        time.sleep(0.002)
    process.kill()
    process.wait()
    first, second, *_ = sorted((store / "volumes").glob("*.b2nd"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-100])
    prepare([cohort], store, workers=0)
    assert files(store) == files(tmp_path / "whole")


@pytest.mark.parametrize("last", ["manifest.parquet", "rejected.csv", "paths.csv"])
def test_killed_while_it_folds_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """An older store is added to: what its list of paths holds, and what was appended, must not mix."""
    cohort = write_cohort(tmp_path / "cohort", 3)
    for store in ("killed", "whole"):
        prepare([cohort], tmp_path / store, workers=0)
    write_nifti(cohort / "volumes" / "S01.nii.gz", block(99, (25, 21, 13)))
    write_nifti(cohort / "volumes" / "S07.nii.gz", block(7))
    (cohort / "volumes" / "S08.nii.gz").write_bytes(b"nothing")
    prepare([cohort], tmp_path / "whole", workers=0)
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        done = replace(source, target)
        if target.name == last:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare([cohort], tmp_path / "killed", workers=0)
    assert (tmp_path / "killed" / JOURNAL).exists()
    write_nifti(cohort / "volumes" / "S09.nii.gz", block(9))
    monkeypatch.setattr(ledger.Ledger, "fold", lambda _: os._exit(9))
    child = os.fork()
    if not child:
        try:
            prepare([cohort], tmp_path / "killed", workers=0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9 << 8
    monkeypatch.undo()
    for store in ("killed", "whole"):
        summary = prepare([cohort], tmp_path / store, workers=0)
        assert (summary.volumes, summary.rejected) == (5, {"unreadable": 1})
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_entries_whose_paths_a_power_cut_took_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, store = write_cohort(tmp_path / "cohort", 6), tmp_path / "store"
    prepare([cohort], tmp_path / "whole", workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "fold", lambda _: pytest.fail("cut"))
        with pytest.raises(pytest.fail.Exception):
            prepare([cohort], store, workers=0)
    lines = (store / "paths.csv").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 6
    (store / "paths.csv").write_bytes(b"".join(lines[:-3]) + b'"ab')  # the fifth is named, and its path is lost
    journal = (store / JOURNAL).read_bytes()
    (store / JOURNAL).write_bytes(journal[:-9] + bytes(9))
    summary = prepare([cohort], store, workers=0)
    assert (summary.known, summary.stored) == (4, 2)
    assert files(store) == files(tmp_path / "whole")


def test_a_cohort_that_moved_has_the_same_ids_and_is_not_stored_twice(tmp_path: Path) -> None:
    write_cohort(tmp_path / "here", 2)
    write_series(tmp_path / "here" / "volumes" / "D1", block(50))
    prepare([tmp_path / "here"], tmp_path / "store", workers=0)
    ids = Store.open(tmp_path / "store").rows["id"].to_pylist()
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = prepare([tmp_path / "there"], tmp_path / "store", workers=0)
    assert (moved.stored, moved.known, moved.volumes) == (0, 3, 3)
    assert all("/there/" in path for path in paths(tmp_path / "store").values())
    prepare([tmp_path / "there" / "volumes"], tmp_path / "other", key=tmp_path / "there" / "volssl.key", workers=0)
    assert Store.open(tmp_path / "other").rows["id"].to_pylist() == ids


def test_another_key_gives_other_ids_and_is_refused_for_this_store(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 1)
    (tmp_path / "other.key").write_text("ff" * 32)
    prepare([cohort], tmp_path / "a", workers=0)
    prepare([cohort], tmp_path / "b", workers=0, key=tmp_path / "other.key")
    assert Store.open(tmp_path / "a").rows["id"] != Store.open(tmp_path / "b").rows["id"]
    assert Store.open(tmp_path / "a").key.hex() == KEY
    with pytest.raises(UserError, match="another key"):
        prepare([cohort], tmp_path / "a", workers=0, key=tmp_path / "other.key")


def test_without_any_key_one_is_made_and_kept(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", block(0))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    first = Store.open(tmp_path / "store").key
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    assert len(first) == 32
    assert Store.open(tmp_path / "store").key == first
    for name in ("private.key", "paths.csv"):
        assert stat.S_IMODE((tmp_path / "store" / name).stat().st_mode) == 0o600


def test_a_changed_file_replaces_its_volume(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 2)
    prepare([cohort], tmp_path / "store", workers=0)
    write_nifti(cohort / "volumes" / "S01.nii.gz", block(99, (25, 21, 13)))
    summary = prepare([cohort], tmp_path / "store", workers=0)
    assert (summary.stored, summary.known, summary.volumes) == (1, 1, 2)
    store = Store.open(tmp_path / "store")
    assert sorted(map(tuple, store.rows["shape"].to_pylist())) == [(24, 20, 12), (25, 21, 13)]
    assert {path.stem for path in (tmp_path / "store" / "volumes").iterdir()} == set(store.rows["id"].to_pylist())


def test_a_second_source_is_added_and_the_first_kept(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 2)
    (cohort / "patients.csv").write_text("study,patient,split,sex,age\nS00,Ann,test,F,93\nS01,Bob,train,M,45\n")
    prepare([cohort], tmp_path / "store", workers=0)
    write_nifti(tmp_path / "more" / "T00.nii.gz", block(77))
    prepare([tmp_path / "more"], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").rows.to_pylist()
    assert len(rows) == 3
    told = {(row["split"], row["sex"], row["age_years"], row["age_band"]) for row in rows if row["sex"]}
    assert told == {("test", "F", 90, "80+"), ("train", "M", 45, "40-59")}


def test_one_volume_under_two_names_is_stored_once_and_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", block(3))
    for _ in range(2):
        summary = prepare([tmp_path / "in"], tmp_path / "store", workers=0)
        assert summary.rejected == {"duplicate": 1}
    assert Store.open(tmp_path / "store").rows.num_rows == 1
    ((key, reason),) = rejected(tmp_path / "store").items()
    assert (reason, Path(paths(tmp_path / "store")[key]).name) == ("duplicate", "b.nii.gz")


def test_the_same_voxels_are_stored_once_whatever_form_and_place_they_came_in(tmp_path: Path) -> None:
    hu = block(5)
    write_series(tmp_path / "in" / "D1", hu)
    write_series(tmp_path / "in" / "D2", hu, study=2)  # exported again, under new UIDs
    write_nifti(tmp_path / "in" / "N1.nii.gz", hu, np.diag([2.0, 2.0, 4.0, 1.0]))
    for _ in range(2):
        summary = prepare([tmp_path / "in"], tmp_path / "store", workers=0)
        assert (summary.volumes, summary.rejected) == (1, {"duplicate": 2})
    assert len(list((tmp_path / "store" / "volumes").iterdir())) == 1
    lines = (tmp_path / "store" / "paths.csv").read_text().splitlines()
    assert len(lines) == 1 + 12 + 12 + 1  # a line for each file
    shutil.rmtree(tmp_path / "in" / "D1")
    (tmp_path / "in" / "N1.nii.gz").unlink()
    assert prepare([tmp_path / "in"], tmp_path / "store", workers=0).volumes == 1


def test_every_file_is_a_row_a_refusal_or_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = write_cohort(tmp_path / "cohort", 2)
    write_nifti(cohort / "masks" / "S00.nii.gz", block(0))
    write_nifti(cohort / "volumes" / "S01_seg.nii.gz", block(1))
    (cohort / "labels.csv").write_text("study\nS00\n")
    (cohort / "volumes" / "broken.nii.gz").write_bytes(b"nothing")
    (cohort / "volumes" / "thing.dcm").write_bytes(b"nothing")
    summary = prepare([cohort], tmp_path / "store", workers=0)
    assert summary.stored == 2
    assert summary.passed_over == {"masks": 2, "tables": 1, "keys": 1}
    assert summary.rejected == {"unreadable": 2}
    assert "Passed over by rule: keys (1), masks (2), tables (1)." in capsys.readouterr().err
    assert {Path(paths(tmp_path / "store")[key]).name for key in rejected(tmp_path / "store")} == {
        "broken.nii.gz",
        "thing.dcm",
    }


def test_odd_names_and_dead_links_are_rows_like_others(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 1)
    (cohort / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    shutil.copy(cohort / "volumes" / "S00.nii.gz", os.fsdecode(os.fsencode(cohort) + b'/\xff,\n\r".nii.gz'))
    for _ in range(2):
        summary = prepare([cohort], tmp_path / "store", workers=0)
        assert summary.stored + summary.known == 1
        assert summary.rejected == {"unreadable": 1, "duplicate": 1}


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_store(tmp_path: Path) -> None:
    cohort, project = write_cohort(tmp_path / "cohort", 1), tmp_path / "project"
    write_nifti(project / "volumes" / "mine.nii.gz", block(5))
    (project / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis.txt' and is no store"):
        prepare([cohort], project, workers=0)
    (project / "thesis.txt").unlink()
    (project / "volumes" / "sub").mkdir()
    prepare([cohort], project, workers=0)
    assert (project / "volumes" / "mine.nii.gz").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        prepare([cohort], tmp_path / "file", workers=0)


def test_a_refusal_goes_when_its_file_is_repaired(tmp_path: Path) -> None:
    write_series(tmp_path / "in", block(1))
    whole = (tmp_path / "in" / "IM0005").read_bytes()
    for damage, reason in ((b"junk", "unknown_format"), (whole[:300], "unreadable")):
        (tmp_path / "in" / "IM0005").write_bytes(damage)
        with pytest.raises(UserError, match=reason):
            prepare([tmp_path / "in"], tmp_path / "store", workers=0)
        assert set(rejected(tmp_path / "store").values()) == {reason, "missing_slices"}
    (tmp_path / "in" / "IM0005").write_bytes(whole)
    assert prepare([tmp_path / "in"], tmp_path / "store", workers=0).volumes == 1
    assert rejected(tmp_path / "store") == {}
    assert Store.open(tmp_path / "store").rows["files"].to_pylist() == [12]


def test_a_store_without_its_key_is_not_given_another(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", block(0))
    store = tmp_path / "store"
    prepare([tmp_path / "in"], store, workers=0)
    key = (store / "private.key").read_text()
    (store / "private.key").unlink()
    with pytest.raises(UserError, match=r"private\.key is missing"):
        prepare([tmp_path / "in"], store, workers=0)
    (tmp_path / "other.key").write_text("ff" * 32)
    with pytest.raises(UserError, match="another key"):
        prepare([tmp_path / "in"], store, workers=0, key=tmp_path / "other.key")
    assert not (store / "private.key").exists()
    (tmp_path / "right.key").write_text(key)
    assert prepare([tmp_path / "in"], store, workers=0, key=tmp_path / "right.key").known == 1


@pytest.mark.parametrize("nifti_first", [True, False])
def test_of_the_same_voxels_the_source_that_names_its_patient_is_kept(tmp_path: Path, nifti_first: bool) -> None:
    write_nifti(tmp_path / "n" / "N1.nii.gz", block(5))
    write_series(tmp_path / "d" / "D1", block(5))
    write_series(tmp_path / "d" / "D2", block(6), study=1, edit=lambda d, i: setattr(d, "SeriesInstanceUID", "1.2.3"))
    for name in ("n", "d") if nifti_first else ("d", "n"):
        prepare([tmp_path / name], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").rows.to_pylist()
    assert [(row["source_format"], row["sex"], len(row["sop"])) for row in rows] == [("dicom", "F", 12)] * 2
    assert len({row["patient"] for row in rows}) == len({row["split"] for row in rows}) == 1
    ((key, reason),) = rejected(tmp_path / "store").items()
    assert (reason, Path(paths(tmp_path / "store")[key]).name) == ("duplicate", "N1.nii.gz")


def test_a_file_of_several_volumes_counts_once(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "two.nii.gz", np.stack([block(1), block(2)], axis=-1))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    assert sorted(Store.open(tmp_path / "store").rows["files"].to_pylist()) == [0, 1]


def test_a_script_without_a_main_guard_may_call_it(tmp_path: Path) -> None:
    cohort, script = write_cohort(tmp_path / "cohort", 2), tmp_path / "script.py"
    script.write_text(RUN.format(cohort=cohort, store=tmp_path / "store", workers=2) + "; print('ran')")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ran.stdout == "ran\n"
    assert Store.open(tmp_path / "store").rows.num_rows == 2


def test_a_scan_that_fails_in_an_unforeseen_way_is_told_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_cohort(tmp_path / "cohort", 3)
    read = VolumeFile.read

    def fail_at_one(self: VolumeFile) -> Volume:
        if "S01" in self.path.name:
            raise ZeroDivisionError(str(self.path))
        return read(self)

    monkeypatch.setattr(VolumeFile, "read", fail_at_one)
    summary = prepare([cohort], tmp_path / "store", workers=0)
    assert (summary.stored, dict(summary.rejected)) == (2, {"failed": 1})
    told = (tmp_path / "store" / "rejected.csv").read_text()
    place = r"nobody foresaw \(volssl/data/preparation\.py, line \d+\): please report it\."
    assert re.search(f'"Reading it failed in a way that {place}"', told)
    assert not re.search("S01|Error", told)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError("in /data/Doe"), "Reading it asked for more memory than there is."),
        (OSError(errno.EIO, "Input/output error", "/data/Doe"), "Reading it failed: Input/output error."),
        (KeyError("Doe"), "Reading it failed in a way that nobody foresaw: please report it."),
    ],
)
def test_what_nobody_foresaw_is_told_in_words_without_the_error_s_own(error: Exception, sentence: str) -> None:
    refusal = unforeseen(error, "Reading it")
    assert (refusal.reason, refusal.sentence) == ("failed", sentence)


def test_a_source_with_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no scan")
    with pytest.raises(UserError, match=r"no readable file in .*texts \(1\)"):
        prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    assert not (tmp_path / "store").exists()
    write_nifti(tmp_path / "in" / "flat.nii.gz", np.zeros((20, 20, 20), np.int16))
    with pytest.raises(UserError, match=r"rejected: 1 constant"):
        prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    with pytest.raises(UserError, match="does not exist"):
        prepare([tmp_path / "nowhere"], tmp_path / "store", workers=0)


def test_two_prepares_on_one_store_do_not_meet(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", 1)
    with ledger.writing(tmp_path / "store"):
        run = RUN.format(cohort=cohort, store=tmp_path / "store", workers=0)
        second = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert "another prepare is writing" in second.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_cohort(tmp_path / "cohort", 3)
    replace, count = os.replace, iter(range(100))

    def full_at_the_third_file(source: str, target: str) -> None:  # the key, then volumes
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_at_the_third_file)
        with pytest.raises(UserError, match="disk is full"):
            prepare([cohort], tmp_path / "store", workers=0)
    assert [path.suffix for path in (tmp_path / "store" / "volumes").iterdir()] == [".b2nd"]
    assert prepare([cohort], tmp_path / "store", workers=0).known == 1


def test_nothing_but_paths_csv_names_the_patient(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    series = tmp_path / "Doe_Jane" / "head"
    sops = write_series(series, block(1))
    write_series(tmp_path / "Doe_Jane" / "gap", block(2), study=2)
    (tmp_path / "Doe_Jane" / "gap" / "IM0005").unlink()

    def odd(dataset: Dataset, index: int) -> None:
        dataset.PatientID, dataset.ImagePositionPatient = "PAT-3", [0, 0, 0]

    write_series(tmp_path / "Doe_Jane" / "odd", block(3), study=3, edit=odd)
    write_nifti(tmp_path / "Doe_Jane" / "Doe_2024.nii.gz", block(4))
    (tmp_path / "Doe_Jane" / "Doe_bad.nii.gz").write_bytes(b"nothing")
    (tmp_path / "Doe_Jane" / "patients.csv").write_text("study,patient\nDoe_2024,PAT-9\n")
    summary = prepare([tmp_path / "Doe_Jane"], tmp_path / "store", workers=0)
    assert (summary.stored, summary.rejected.total()) == (2, 3)
    secrets = [
        "Doe",
        "Jane",
        "PAT-",
        "ACC-",
        "20240506",
        "19300102",
        ROOT_UID,
        sops[0],
        "IM0",
        str(tmp_path),
        "head",
        "Mrs",
    ]
    seen = Store.open(tmp_path / "store").rows.to_pylist()
    texts = {name: data for name, data in files(tmp_path / "store").items() if name != "paths.csv"}
    texts["rows"] = repr(seen).encode()
    for name, data in texts.items():
        for secret in secrets:
            assert secret.encode() not in data, f"{secret} stands in {name}"
    told = capfd.readouterr()
    assert not re.search(r"PAT-|ACC-|1\.2\.826|20240506|Warning", told.out + told.err)
    assert {row["age_years"] for row in seen} == {90, None}


def test_series_and_files_describe_themselves_alike(tmp_path: Path) -> None:
    hu = block(5)
    write_series(tmp_path / "d" / "D1", hu)
    affine = np.array([[2.0, 0, 0, -26], [0, 2, 0, -8], [0, 0, 3, -100], [0, 0, 0, 1]])
    write_nifti(tmp_path / "n" / "N1.nii.gz", hu, affine)
    for name in ("d", "n"):
        prepare([tmp_path / name], tmp_path / f"store_{name}", workers=0)
    ((dicom,), (nifti,)) = (Store.open(tmp_path / f"store_{name}").rows.to_pylist() for name in ("d", "n"))
    assert (dicom["source_format"], nifti["source_format"]) == ("dicom", "nifti")
    for column in (
        "shape",
        "spacing_mm",
        "foreground",
        "first_slice_z_mm",
        "slice_step_z_mm",
        "dtype",
        "modality",
        "checksum",
    ):
        assert dicom[column] == nifti[column], column
    np.testing.assert_allclose(dicom["affine"], nifti["affine"], atol=1e-5)
    assert (dicom["sex"], dicom["age_years"], dicom["scanner"], len(dicom["sop"])) == ("F", 90, "ACME", 12)
    assert (nifti["sex"], nifti["sop"]) == (None, [])
    assert len(dicom["id"]) == 24
