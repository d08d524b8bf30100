"""MONAI beside the store: its own DICOM reader as a third opinion, and ours for its datasets."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    LoadImage,
    LoadImaged,
    Orientation,
    RandSpatialCropd,
    Spacingd,
)

from tests.data.sources import block, write_nifti
from volssl.data import Store, StoreReader, prepare, read_scans
from volssl.errors import UserError
from volssl.simulate.cohort import simulate_cohort

OBLIQUE = np.array([[2.0, 0.1, 0, -20], [-0.1, 2.0, 0, 31], [0, 0, 3.0, -7], [0, 0, 0, 1]])


def test_monai_on_itk_reads_the_same_voxels_and_affine(tmp_path: Path) -> None:
    cohort = simulate_cohort(tmp_path / "cohort", 1, seed=3, fmt="dicom", spacing_mm=6.0, slice_mm=9.0, workers=1)
    (series,) = [path for path in (cohort / "volumes").iterdir() if path.is_dir()]
    (scan,) = read_scans(series)
    load = Compose(
        [LoadImage(reader="ITKReader", image_only=True), EnsureChannelFirst(), Orientation("RAS", labels=None)]
    )
    image = load(series)
    np.testing.assert_array_equal(scan.read(), image.numpy())
    np.testing.assert_allclose(scan.affine, image.affine.numpy(), atol=1e-4)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two volumes whose files lie LPS; MONAI's own readers see them with another index order than the store's."""
    for seed in range(2):
        write_nifti(tmp_path / "in" / f"S{seed}.nii.gz", block(seed)[::-1, ::-1], OBLIQUE @ np.diag([-1, -1, 1, 1]))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    return Store.open(tmp_path / "store")


def test_monai_loads_a_datalist_with_the_right_affine(store: Store, tmp_path: Path) -> None:
    """MONAI's NIfTI reader, turned to RAS, is the other opinion."""
    load = LoadImaged(keys="image", reader=StoreReader, ensure_channel_first=True)
    source = Compose([LoadImage(ensure_channel_first=True), Orientation("RAS", labels=None)])
    others = [source(tmp_path / "in" / f"S{seed}.nii.gz") for seed in range(2)]
    for one in store.to_datalist():
        image = load(one)["image"]
        assert isinstance(image, MetaTensor)
        (other,) = (other for other in others if np.array_equal(other.numpy(), image.numpy()))
        np.testing.assert_allclose(image.affine.numpy(), other.affine.numpy(), atol=1e-5)
        assert image.shape == (1, 24, 20, 12)
        assert image.meta["modality"] == "CT"
        np.testing.assert_allclose(image.pixdim.numpy(), nib.affines.voxel_sizes(OBLIQUE), atol=1e-6)
        np.testing.assert_array_equal(image.numpy(), store.read(one["id"]))


def test_the_reader_is_found_by_name_and_spacing_and_crops_work_on_it(store: Store) -> None:
    transform = Compose(
        [
            LoadImaged(keys="image", reader="volssl.data.StoreReader", ensure_channel_first=True),
            Spacingd(keys="image", pixdim=(4.0, 4.0, 3.0)),
            RandSpatialCropd(keys="image", roi_size=(8, 8, 8)),
        ]
    )
    (batch,) = DataLoader(Dataset(store.to_datalist(), transform), batch_size=2, num_workers=0)
    assert tuple(batch["image"].shape) == (2, 1, 8, 8, 8)
    np.testing.assert_allclose(nib.affines.voxel_sizes(batch["image"][0].affine.numpy()), (4.0, 4.0, 3.0), atol=1e-6)
    assert batch["id"] == store.rows["id"].to_pylist()


def test_several_files_are_stacked_as_channels(store: Store) -> None:
    one, two = store.to_datalist()
    image = LoadImage(reader=StoreReader(), ensure_channel_first=True)([one["image"], two["image"]])
    np.testing.assert_array_equal(image.numpy(), np.concatenate([store.read(one["id"]), store.read(two["id"])]))


def test_the_reader_is_for_the_store_s_files_and_tells_a_damaged_one(store: Store) -> None:
    reader = StoreReader()
    one = store.to_datalist()[0]
    assert reader.verify_suffix(one["image"])
    assert not reader.verify_suffix("scan.nii.gz")
    Path(one["image"]).write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"^{one['id']}: its file is damaged"):
        reader.read(one["image"])
    with pytest.raises(UserError, match="its file is missing"):
        reader.read(store.path / "volumes" / "nobody.b2nd")


def test_values_beyond_int16_are_loaded_whole_alone_and_stacked(tmp_path: Path) -> None:
    metal = block(2).astype(np.int32)
    metal[12, 10, 6] = 70_000
    write_nifti(tmp_path / "in" / "a.nii", metal)
    write_nifti(tmp_path / "in" / "b.nii", block(3))
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    store = Store.open(tmp_path / "store")
    files = {store.read(one["id"]).max() == 70_000: one["image"] for one in store.to_datalist()}
    load = LoadImage(reader=StoreReader(), ensure_channel_first=True)
    np.testing.assert_array_equal(load(files[True]).numpy()[0], metal)
    stacked = load([files[False], files[True]]).numpy()
    np.testing.assert_array_equal(stacked, np.stack([block(3), metal]))
