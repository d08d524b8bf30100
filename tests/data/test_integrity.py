"""Every kind of damage to a store is named, by volume, whatever it does to its reader; what is whole is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.made_store import row, write_store
from tests.data.sources import block, write_cohort, write_nifti
from volssl.data import Store, prepare
from volssl.data.integrity import Damage, damaged
from volssl.data.inventory import escaped, inventory
from volssl.data.manifest import array_checksum
from volssl.data.stored_volume import volume_path, write_volume
from volssl.errors import UserError

TRAILER = 360  # bytes at the end that hold blosc2's index of chunks and what stands beside the voxels
HEADER = 184


def store_of(folder: Path, n: int) -> Path:
    """A store of `n` blocks, half of them CT and half MR."""
    arrays = [block(i) if i % 2 else block(i).astype(np.float32) for i in range(n)]
    rows = [
        row(f"S{i}", checksum=array_checksum(a), dtype=str(a.dtype), modality="CT" if i % 2 else "MR")
        for i, a in enumerate(arrays)
    ]
    write_store(folder, rows)
    for one, array in zip(rows, arrays, strict=True):
        affine = np.array(one["affine"]).reshape(4, 4)
        write_volume(folder, one["id"], array, affine=affine, modality=one["modality"])
    return folder


def flip(path: Path, place: int, bits: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def names(found: list[Damage]) -> set[str]:
    return {damage.id for damage in found}


def test_a_store_that_was_just_written_is_whole(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "cohort", 3)], tmp_path / "store", workers=0)
    assert damaged(tmp_path / "store", workers=0) == []


def test_a_flipped_bit_is_named_wherever_it_lies(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 164)
    rng = np.random.RandomState(7)
    ids = Store.open(store).rows["id"].to_pylist()
    for number, volume_id in enumerate(ids[4:]):
        path = volume_path(store, volume_id)
        size = path.stat().st_size
        low, high = [(0, HEADER), (HEADER, size - TRAILER), (size - TRAILER, size), (0, size)][number % 4]
        flip(path, rng.randint(low, high), 1 << rng.randint(8))
    found = damaged(store, workers=1)
    assert names(found) == set(ids[4:])
    assert len(found) == 160
    assert all(damage.sentence.endswith("which reads again what is missing.") for damage in found)


def test_each_kind_of_damage_is_told_in_its_own_words(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 10)
    ids = Store.open(store).rows["id"].to_pylist()
    paths = [volume_path(store, volume_id) for volume_id in ids]
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[3].write_bytes(paths[3].read_bytes()[:700])
    paths[4].write_bytes(b"\xff" * 5000)
    first, second = paths[5].read_bytes(), paths[6].read_bytes()
    paths[5].write_bytes(second)
    paths[6].write_bytes(first)
    write_volume(store, ids[7], np.zeros((5, 6, 7), np.int16), affine=np.eye(4), modality="CT")
    flip(paths[8], -200, 1)
    (store / "volumes" / ".x.b2nd.77.tmp").write_bytes(b"half")
    (store / "volumes" / "nobody.b2nd").write_bytes(b"whose")
    told = {damage.path.name: damage.sentence for damage in damaged(store, workers=1)}
    assert len(told) == 11
    assert told.pop(paths[0].name).startswith("The file is missing.")
    for path in paths[1:5]:
        assert told.pop(path.name).startswith("It cannot be read: it is cut short, or")
    assert {told.pop(path.name)[:9] for path in paths[5:7]} <= {"Its voxel", "It holds "}
    dtype = Store.open(store).rows["dtype"][7].as_py()
    assert told.pop(paths[7].name).startswith(f"It holds 5×6×7 int16, where the manifest says 24×20×12 {dtype}.")
    assert told.pop(paths[8].name).startswith("Every voxel is right, but the file holds other bytes")
    assert told.pop(".x.b2nd.77.tmp").startswith("Left behind by a prepare that was stopped.")
    assert told.pop("nobody.b2nd").startswith("No row of the manifest names it.")


def test_another_place_in_the_world_is_damage_too(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 2)
    ids = Store.open(store).rows["id"].to_pylist()
    voxels = Store.open(store).read(ids[0])[0]
    modality = Store.open(store).scan(ids[0]).modality
    write_volume(store, ids[0], voxels, affine=np.diag([2.0, 2.0, 3.5, 1.0]), modality=modality)
    assert names(damaged(store, workers=0)) == {ids[0]}


def test_a_store_of_another_blosc2_is_not_all_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path / "store", 4)
    monkeypatch.setattr("volssl.data.integrity.packed", lambda *_, **__: b"as another version writes it")
    assert damaged(store, workers=0) == []
    assert "4 volumes were written by another version of blosc2: their voxels are right" in capsys.readouterr().err


def test_what_was_deleted_comes_back_with_the_next_prepare(tmp_path: Path) -> None:
    cohort, store = write_cohort(tmp_path / "cohort", 3), tmp_path / "store"
    prepare([cohort], store, workers=0)
    path = volume_path(store, Store.open(store).rows["id"][1].as_py())
    before = path.read_bytes()
    flip(path, len(before) // 2, 4)
    (found,) = damaged(store, workers=0)
    found.path.unlink()
    prepare([cohort], store, workers=0)
    assert path.read_bytes() == before
    assert damaged(store, workers=0) == []


def test_files_of_an_unfinished_prepare_are_no_damage(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", 2)
    (store / "volumes" / "new.b2nd").write_bytes(b"its row stands in the journal")
    (store / "journal.jsonl").write_text("")
    assert damaged(store, workers=0) == []


def test_a_folder_without_a_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store"):
        damaged(tmp_path)
    with pytest.raises(UserError, match="holds no store"):
        inventory(tmp_path)


def test_the_inventory_names_every_source_file_and_what_became_of_it(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_nifti(source / "a" / "S1.nii", block(1))
    write_nifti(source / "b" / "S2.nii", block(1))  # the same voxels
    write_nifti(source / "c" / "S3.nii", np.zeros((24, 20, 12), np.int16))
    (source / "broken.nii").write_bytes(b"nothing")
    evil = os.fsdecode(b"evil\x1b[31m\n\xff\\.nii")
    write_nifti(source / "ok.nii", block(2)).rename(source / evil)
    prepare([source], tmp_path / "store", workers=0)
    lines = list(inventory(tmp_path / "store"))
    told = {Path(path).name: (status, reason) for _, status, reason, path in lines}
    assert told == {
        "S1.nii": ("stored", ""),
        "S2.nii": ("duplicate", "duplicate"),
        "S3.nii": ("rejected", "constant"),
        "broken.nii": ("rejected", "unreadable"),
        "evil\\x1b[31m\\n\\udcff\\\\.nii": ("stored", ""),
    }
    ids = set(Store.open(tmp_path / "store").rows["id"].to_pylist())
    assert {key for key, status, _, _ in lines if status == "stored"} == ids
    assert all(text.isprintable() for line in lines for text in line)
    with (tmp_path / "store" / "paths.csv").open("a") as file:
        file.write('"#1",""\n"abc","/data/later.nii"\n')  # as a prepare that is under way appends it
    assert list(inventory(tmp_path / "store")) == lines
    (tmp_path / "store" / "paths.csv").unlink()
    with pytest.raises(UserError, match=r"paths\.csv is missing"):
        inventory(tmp_path / "store")


def test_a_path_on_the_terminal_is_one_line_of_what_can_be_printed() -> None:
    assert escaped("/data/Müller 1.nii") == "/data/Müller 1.nii"
    assert escaped("a\tb\r\x9b\u202e") == "a\\tb\\r\\x9b\\u202e"
    assert escaped("a\\nb") != escaped("a\nb")


def test_neither_imports_torch_itself() -> None:
    # The package loads the encoders, and so torch: a stand-in for it shows what these modules ask for.
    code = (
        "import sys, types; volssl = types.ModuleType('volssl'); volssl.__path__ = ['volssl']; "
        "sys.modules['volssl'] = volssl; import volssl.data.integrity, volssl.data.inventory; "
        "print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == "False\n"
