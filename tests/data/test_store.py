"""The store reads the boxes asked for, and says what is wrong with it."""

from __future__ import annotations

import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest

from tests.data.sources import block, write_cohort, write_nifti
from volssl.data import Store, prepare
from volssl.data.manifest import SCHEMA
from volssl.data.store import BLOCK_VOXELS, CHUNK_VOXELS, StoredScan, fitted, volume_path, write_volume
from volssl.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    prepare([write_cohort(tmp_path / "cohort", 2)], tmp_path / "store", workers=0)
    return Store.open(tmp_path / "store")


def test_a_scan_travels_to_a_worker_and_reads_there(store: Store) -> None:
    volume_id = store.rows["id"][0].as_py()
    scan: StoredScan = pickle.loads(pickle.dumps(store.scan(volume_id)))
    np.testing.assert_array_equal(scan.read(), store.read(volume_id))
    assert scan.affine.shape == (4, 4)


@pytest.mark.parametrize("box", [((0, 25), (0, 5), (0, 5)), ((3, 3), (0, 5), (0, 5)), ((0, 4), (-1, 5), (0, 5))])
def test_a_box_outside_of_the_volume_is_an_error(store: Store, box: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"does not lie in 0:"):
        store.read(store.rows["id"][0].as_py(), box)


def test_no_store_and_a_lost_volume_are_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no store: run `volssl prepare"):
        Store.open(tmp_path / "cohort")
    volume_id = store.rows["id"][0].as_py()
    volume_path(store.path, volume_id).unlink()
    with pytest.raises(UserError, match="missing from its store"):
        store.read(volume_id)
    assert prepare([tmp_path / "cohort"], store.path, workers=0).known == 2
    assert store.read(volume_id).shape == (1, 24, 20, 12)
    with pytest.raises(KeyError):
        store.scan("nobody")


def test_another_format_is_refused(store: Store, tmp_path: Path) -> None:
    record = store.path / "store.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="another version of volssl"):
        prepare([tmp_path / "cohort"], store.path, workers=0)


def test_parts_divide_each_axis_evenly(tmp_path: Path) -> None:
    assert fitted((512, 512, 108), CHUNK_VOXELS) == (64, 64, 36)
    assert fitted((24, 96, 20), CHUNK_VOXELS) == (24, 48, 20)
    (tmp_path / "volumes").mkdir()
    array = np.random.RandomState(0).randint(-1000, 1000, (130, 70, 40)).astype(np.int16)
    write_volume(tmp_path, "v", array)
    stored = blosc2.open(str(volume_path(tmp_path, "v")))
    assert stored.chunks == (65, 70, 40)
    assert stored.blocks == fitted((65, 70, 40), BLOCK_VOXELS)
    np.testing.assert_array_equal(stored[...], array)


def test_the_documented_columns_are_the_manifests(store: Store) -> None:
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert store.rows.schema.names == SCHEMA.names
    documented = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert [name for name in documented if name in SCHEMA.names] == SCHEMA.names


def test_mr_keeps_its_float32(tmp_path: Path) -> None:
    image = np.random.RandomState(0).gamma(2, 60, (30, 30, 30)).astype(np.float32)
    write_nifti(tmp_path / "in" / "t1.nii", image)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0, modality="MR")
    store = Store.open(tmp_path / "store")
    stored = store.read(store.rows["id"][0].as_py())
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored[0], image)


def test_the_same_voxels_have_the_same_checksum(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii", block(0))
    write_nifti(tmp_path / "in" / "b.nii.gz", block(0), np.diag([2.0, 2.0, 4.0, 1.0]))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").rows
    assert len(set(rows["checksum"].to_pylist())) == 1
    assert len(set(rows["id"].to_pylist())) == 2
