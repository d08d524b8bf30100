"""The store reads the boxes asked for, and says what is wrong with it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
import numpy as np
import pytest

from tests.data.sources import block, write_cohort, write_nifti
from volssl.data import Store, prepare
from volssl.data.duplicates import perceptual_hash
from volssl.data.integrity import damaged
from volssl.data.manifest import SCHEMA, array_checksum, as_box
from volssl.data.store import FORMAT, JOURNAL, MANIFEST, STORE_RECORD, StoredScan
from volssl.data.stored_volume import (
    BLOCK_VOXELS,
    CHUNK_VOXELS,
    OPEN_FILES,
    VOLUMES,
    fitted,
    open_volume,
    volume_path,
    write_volume,
)
from volssl.errors import UserError
from volssl.views.random_crops import RandomCrops


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare([write_cohort(tmp_path / "cohort", 2)], tmp_path / "store", workers=0)
    return Store.open(tmp_path / "store")


def test_a_scan_travels_to_a_worker_and_reads_there(store: Store) -> None:
    volume_id = store.rows["id"][0].as_py()
    scan: StoredScan = pickle.loads(pickle.dumps(store.scan(volume_id)))
    np.testing.assert_array_equal(scan.read(), store.read(volume_id))
    assert scan.affine.shape == (4, 4)


@pytest.mark.parametrize("box", [((0.0, 4.0), (0, 5), (0, 5)), ((0, 4), (0, 5)), ((0, 4, 2), (0, 5), (0, 5))])
def test_what_is_no_box_is_an_error(store: Store, box: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="in whole voxels"):
        store.read(store.rows["id"][0].as_py(), box)


@pytest.mark.parametrize("box", [((0, 25), (0, 5), (0, 5)), ((3, 3), (0, 5), (0, 5)), ((0, 4), (-1, 5), (0, 5))])
def test_a_box_outside_of_the_volume_is_an_error(store: Store, box: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"does not lie in 0:"):
        store.read(store.rows["id"][0].as_py(), box)


def test_no_store_and_a_lost_volume_are_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store: run `volssl prepare"):
        Store.open(tmp_path / "cohort")
    volume_id = store.rows["id"][0].as_py()
    volume_path(store.path, volume_id).unlink()
    with pytest.raises(UserError, match=rf"^{volume_id}: its file is missing; `volssl check {store.path}` names"):
        store.read(volume_id)
    assert prepare([tmp_path / "cohort"], store.path, workers=0).known == 2
    assert store.read(volume_id).shape == (1, 24, 20, 12)
    with pytest.raises(KeyError):
        store.scan("nobody")


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_cut_volume_is_told_by_its_id(store: Store, kept: float) -> None:
    volume_id = store.rows["id"][1].as_py()
    file = volume_path(store.path, volume_id)
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else int(kept)])
    with pytest.raises(UserError, match=rf"^{volume_id}: its file is damaged; `volssl check {store.path}` names"):
        store.read(volume_id, ((0, 4), (0, 4), (0, 4)))


def test_bits_flipped_in_a_file_s_frame_never_do_worse_than_a_user_error(store: Store) -> None:
    """Around the voxels' own bytes, of which `volssl check` tells."""
    volume_id = store.rows["id"][0].as_py()
    file = volume_path(store.path, volume_id)
    whole, rng, told = file.read_bytes(), np.random.RandomState(0), 0
    expected = store.read(volume_id)
    for flip in range(120):
        data = bytearray(whole)
        at = rng.randint(250) if flip % 2 else len(whole) - 1 - rng.randint(250)
        data[at] ^= 1 << rng.randint(8)
        file.write_bytes(data)
        try:
            store.read(volume_id)
        except UserError:
            told += 1
    assert told > 20
    file.write_bytes(whole)
    np.testing.assert_array_equal(store.read(volume_id), expected)


def test_a_volume_of_another_shape_than_its_row_is_damaged(store: Store) -> None:
    first, second = store.rows["id"].to_pylist()
    write_volume(store.path, first, np.zeros((99, 20, 12), np.int16), affine=np.eye(4), modality="CT")
    with pytest.raises(UserError, match=f"^{first}: its file is damaged"):
        store.read(first, ((0, 4), (0, 4), (0, 4)))
    assert store.read(second).shape == (1, 24, 20, 12)


def test_a_replaced_volume_is_read_anew(store: Store) -> None:
    volume_id = store.rows["id"][0].as_py()
    scan = store.scan(volume_id)
    assert scan.read().max() > 0
    for value in (-7, -8):  # files of one size
        write_volume(store.path, volume_id, np.full(scan.shape, value, np.int16), affine=np.eye(4), modality="CT")
        assert (scan.read() == value).all()


def test_few_files_stay_open_and_no_thread_shares_one(tmp_path: Path) -> None:
    (tmp_path / VOLUMES).mkdir()
    paths = [volume_path(tmp_path, f"v{seed}") for seed in range(OPEN_FILES + 5)]
    for seed, path in enumerate(paths):
        write_volume(tmp_path, path.stem, block(seed), affine=np.eye(4), modality="CT")
    for path in 3 * paths:
        open_volume(path)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line}
    assert mapped == {str(path) for path in paths[-OPEN_FILES:]}
    assert open_volume(paths[-1]) is open_volume(paths[-1])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(open_volume, paths[-1]).result() is not open_volume(paths[-1])


def test_another_format_is_refused_by_who_reads_and_who_writes(store: Store, tmp_path: Path) -> None:
    record = store.path / STORE_RECORD
    assert f'"format": {FORMAT}' in record.read_text()
    record.write_text(record.read_text().replace(f'"format": {FORMAT}', '"format": 1'))
    with pytest.raises(UserError, match=r"another version of volssl \(format 1, not 3\): prepare a new store"):
        Store.open(store.path)
    with pytest.raises(UserError, match="another version of volssl"):
        prepare([tmp_path / "cohort"], store.path, workers=0)


def test_an_incomplete_store_is_refused_in_one_line(store: Store) -> None:
    (store.path / STORE_RECORD).rename(store.path / "aside")
    with pytest.raises(UserError, match=r"^[^\n]*store.json missing; copy the whole store again[^\n]*$"):
        Store.open(store.path)
    (store.path / STORE_RECORD).write_text("{")
    with pytest.raises(UserError, match=r"store\.json is damaged"):
        Store.open(store.path)
    (store.path / "aside").rename(store.path / STORE_RECORD)
    (store.path / MANIFEST).write_bytes((store.path / MANIFEST).read_bytes()[:-9])
    with pytest.raises(UserError, match=r"manifest\.parquet is damaged"):
        _ = Store.open(store.path).rows
    (store.path / MANIFEST).unlink()
    (store.path / JOURNAL).touch()
    with pytest.raises(UserError, match="cut short; repeat the `volssl prepare`"):
        Store.open(store.path)


def test_a_store_travels_as_its_path_and_reads_only_the_columns_asked_for(store: Store) -> None:
    assert store.columns("split", "id").column_names == ["split", "id"]
    assert "rows" not in store.__dict__
    assert len(store) == 2
    assert store.rows.num_rows == 2
    assert store.columns("id").equals(store.rows.select(["id"]))
    assert len(pickle.dumps(store)) < 300
    volume_id = store.rows["id"][1].as_py()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).read(volume_id), store.read(volume_id))


def test_every_row_is_found_by_its_id(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "cohort", 7)], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    for row in store.rows.to_pylist():
        scan = store.scan(row["id"])
        assert scan.shape == tuple(row["shape"])
        assert scan.spacing_mm == tuple(row["spacing_mm"])
        assert scan.affine.ravel().tolist() == row["affine"]
        assert [edge for side in scan.foreground for edge in side] == row["foreground"]
        assert (scan.modality, scan.id) == ("CT", row["id"])


def test_a_datalist_names_files_and_what_tables_need(store: Store) -> None:
    listed = store.to_datalist()
    assert [one["id"] for one in listed] == store.rows["id"].to_pylist()
    assert all(Path(one["image"]).is_file() and isinstance(one["image"], str) for one in listed)
    assert listed[0]["spacing_mm"] == [2.0, 2.0, 3.0]
    assert {"patient", "study", "modality", "split", "shape"} <= listed[0].keys()
    assert store.to_datalist(modality="MR") == []
    splits = {one["split"] for one in listed}
    assert sum(len(store.to_datalist(split=name)) for name in splits) == 2


def test_parts_divide_each_axis_evenly(tmp_path: Path) -> None:
    assert fitted((512, 512, 108), CHUNK_VOXELS) == (128, 128, 36)
    assert fitted((24, 96, 20), BLOCK_VOXELS) == (24, 32, 20)
    (tmp_path / VOLUMES).mkdir()
    array = np.random.RandomState(0).randint(-1000, 1000, (260, 70, 40)).astype(np.int16)
    write_volume(tmp_path, "v", array, affine=np.eye(4), modality="CT")
    stored = blosc2.open(str(volume_path(tmp_path, "v")))
    assert stored.chunks == (130, 70, 40)
    assert stored.blocks == fitted((130, 70, 40), BLOCK_VOXELS)
    assert stored.cparams.codec == blosc2.Codec.LZ4
    np.testing.assert_array_equal(stored[...], array)
    scan = StoredScan(
        volume_path(tmp_path, "v"),
        "v",
        array.shape,
        (1.0, 1.0, 1.0),
        np.eye(4),
        "CT",
        ((0, 9), (0, 9), (0, 9)),
        (0.0, 1.0),
    )
    rng = np.random.RandomState(1)
    for _ in range(50):
        edges = [sorted(rng.choice(n + 1, 2, replace=False)) for n in array.shape]
        box = tuple((int(low), int(high)) for low, high in edges)
        np.testing.assert_array_equal(scan.read(box)[0], array[tuple(slice(*side) for side in box)])


def test_a_file_says_itself_where_its_voxels_lie_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / VOLUMES).mkdir()
    affine = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, 4.0, 7], [0, 0, 0, 1]])
    write_volume(tmp_path, "v", block(0), affine=affine, modality="MR")
    stored = blosc2.open(str(volume_path(tmp_path, "v")))
    assert stored.schunk.vlmeta[:] == {
        "affine": affine.ravel().tolist(),
        "spacing_mm": [3.0, 2.0, 4.0],
        "modality": "MR",
    }


def test_reading_a_store_needs_no_torch(store: Store) -> None:
    """The package itself loads its encoders, so a bare one stands in its place."""
    lines = (
        "import sys, types",
        "sys.modules['torch'] = sys.modules['monai'] = None",
        "package = sys.modules['volssl'] = types.ModuleType('volssl')",
        "package.__path__ = [sys.argv[1]]",
        "from volssl.data import Store",
        "store = Store.open(sys.argv[2])",
        "print(store.read(store.rows['id'][0].as_py()).shape)",
    )
    package = str(Path(__file__).parents[2] / "volssl")
    command = [sys.executable, "-c", "; ".join(lines), package, str(store.path)]
    read = subprocess.run(command, capture_output=True, text=True, check=True)
    assert read.stdout.strip() == "(1, 24, 20, 12)"


def test_the_documented_columns_are_the_manifests(store: Store) -> None:
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert store.rows.schema.names == SCHEMA.names
    section = page.split("## Columns of manifest.parquet")[1].split("\n## ")[0]
    documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert documented == SCHEMA.names


def test_mr_keeps_its_float32(tmp_path: Path) -> None:
    image = np.random.RandomState(0).gamma(2, 60, (30, 30, 30)).astype(np.float32)
    write_nifti(tmp_path / "in" / "t1.nii", image)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0, modality="MR")
    store = Store.open(tmp_path / "store")
    stored = store.read(store.rows["id"][0].as_py())
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored[0], image)


def test_ct_beyond_int16_is_found_whole_by_whoever_reads(tmp_path: Path) -> None:
    hu = block(3).astype(np.int32)
    hu[12, 10, 5:8] = 32768, 70_000, -40_000
    write_nifti(tmp_path / "in" / "a.nii", hu, np.diag([6.0, 6.0, 6.0, 1.0]))
    write_nifti(tmp_path / "in" / "b.nii", block(3), np.diag([6.0, 6.0, 6.0, 1.0]))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    metal, plain = sorted(store.rows.to_pylist(), key=lambda row: row["dtype"], reverse=True)
    assert (metal["dtype"], plain["dtype"]) == ("int32", "int16")
    np.testing.assert_array_equal(store.read(metal["id"])[0], hu)
    np.testing.assert_array_equal(
        store.read(metal["id"], ((12, 13), (10, 11), (5, 8))).ravel(), [32768, 70_000, -40_000]
    )
    assert damaged(store.path, workers=0) == []
    clipped = np.clip(hu, -32768, 32767).astype(np.int16)
    assert metal["perceptual_hash"] == perceptual_hash(clipped, (6.0, 6.0, 6.0), as_box(metal["foreground"]), "CT")
    assert metal["perceptual_hash"] is not None
    crop = RandomCrops(size=hu.shape, in_foreground=False)(store.scan(metal["id"]), np.random.RandomState(0))["image"]
    np.testing.assert_array_equal(crop.numpy()[0, 0], hu)
    windowed = RandomCrops(size=hu.shape, in_foreground=False, window_hu=(40, 80))
    crop = windowed(store.scan(metal["id"]), np.random.RandomState(0))["image"]
    np.testing.assert_array_equal(crop.numpy()[0, 0], np.clip(hu / np.float32(80), 0, 1).astype(np.float32))


def test_the_same_voxels_have_the_same_checksum(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii", block(0))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    (row,) = Store.open(tmp_path / "store").rows.to_pylist()
    assert row["checksum"] == array_checksum(block(0)) == array_checksum(block(0)[::-1][::-1])
    assert row["checksum"] != array_checksum(block(0).reshape(20, 24, 12))
