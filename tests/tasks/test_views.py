from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from tests.scans import ArrayScan, noise_scan
from volssl.tasks.cache import BoxCache, cache_key
from volssl.tasks.hemorrhage import TYPES, Hemorrhage
from volssl.tasks.views import TaskViews, move_in_plane
from volssl.transforms.head_box import BoxInfo, box_in
from volssl.transforms.intensity import adjust
from volssl.transforms.resample import FloatBox

GRID = (16, 20, 8)
LABELS = pd.DataFrame([{"hemorrhage": 1, **dict.fromkeys(TYPES, 0), "slice_indices": [4]}], index=["scan1"])


class Counting(Hemorrhage):
    """Counts what it preprocesses."""

    calls = 0

    def preprocess(self, scan: ArrayScan) -> tuple[Tensor, BoxInfo]:  # type: ignore[override]
        type(self).calls += 1
        return super().preprocess(scan)


@pytest.fixture
def task() -> Counting:
    Counting.calls = 0
    return Counting(grid=GRID)


def rng(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


def changed(views: TaskViews, image: Tensor, seed: int) -> Tensor:
    place, intensity = views.draw(rng(seed))
    return adjust(place(image), **intensity)


def test_without_training_a_view_is_the_preprocessed_scan_and_its_target(task: Counting) -> None:
    views = TaskViews(task, LABELS)(noise_scan(1), rng(0))
    image, info = task.preprocess(noise_scan(1))
    assert set(views) == {"image", "target"}
    assert torch.equal(views["image"], image)
    assert torch.equal(views["target"].nan_to_num(-1), task.targets(LABELS.loc["scan1"], info).nan_to_num(-1))
    assert set(TaskViews(task)(noise_scan(1), rng(0))) == {"image"}


def test_training_views_are_a_function_of_the_generator(task: Counting) -> None:
    views = TaskViews(task, LABELS, train=True)
    first, again, other = (views(noise_scan(1), rng(seed))["image"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (1, *GRID)
    assert 0 <= first.min() <= first.max() <= 1


def test_random_changes_leave_every_slice_in_its_place(task: Counting) -> None:
    # One slice is bright, so whatever is drawn it must stay the brightest: the slice targets stay true.
    image = torch.full((1, *GRID), 0.3)
    image[..., 5] = 0.6
    views = TaskViews(task, train=True)
    for seed in range(50):
        assert changed(views, image, seed).mean(dim=(0, 1, 2)).argmax() == 5


def test_half_of_the_training_views_are_mirrored_left_to_right(task: Counting) -> None:
    image = torch.zeros(1, *GRID)
    image[:, :4] = 1
    views = TaskViews(task, train=True, move=0)
    mirrored = sum(bool(changed(views, image, seed)[0, 12:].mean() > 0.5) for seed in range(400))
    assert 160 < mirrored < 240  # four standard deviations about 200


def test_a_scan_without_a_label_is_named(task: Counting) -> None:
    with pytest.raises(ValueError, match="scan2: not in the label table"):
        TaskViews(task, LABELS)(noise_scan(2), rng(0))


def test_a_quarter_turn_is_that_of_torch_also_in_voxels_that_are_not_square() -> None:
    image = torch.rand(1, 12, 12, 3)
    assert torch.allclose(move_in_plane(image, angle_deg=90, zoom=1, shift=(0, 0)), image.rot90(1, (1, 2)), atol=1e-5)
    # 12 x 24 voxels of 2 x 1 mm are square in mm: a bar along R comes to lie along A.
    bar = torch.zeros(1, 12, 24, 1)
    bar[:, :, 11:13] = 1
    turned = move_in_plane(bar, angle_deg=90, zoom=1, shift=(0, 0), aspect=2.0)
    assert turned[0, 5:7].mean() > 0.4
    assert turned[0, :4].max() < 1e-5


def test_a_shift_by_whole_voxels_brings_in_air() -> None:
    image = torch.rand(1, 10, 14, 3)
    moved = move_in_plane(image, angle_deg=0, zoom=1, shift=(2, -3))
    assert torch.allclose(moved[:, 2:, :-3], image[:, :-2, 3:], atol=1e-5)
    assert moved[:, :2].abs().max() < 1e-5
    assert moved[:, :, -3:].abs().max() < 1e-5


def test_zoom_above_one_enlarges() -> None:
    image = torch.zeros(1, 32, 32, 2)
    image[:, 12:20, 10:22] = 1
    ratio = move_in_plane(image, angle_deg=0, zoom=1.5, shift=(0, 0)).sum() / image.sum()
    assert ratio.item() == pytest.approx(2.25, rel=0.02)


def test_the_cache_gives_the_same_and_preprocesses_once(task: Counting, tmp_path: Path) -> None:
    plain, info = task.preprocess(noise_scan(1))
    for cache in (BoxCache(), BoxCache(tmp_path)):
        Counting.calls = 0
        views = TaskViews(task, LABELS, cache=cache)
        for _ in range(3):
            image, where = views.preprocessed(noise_scan(1))
        assert Counting.calls == 1
        assert torch.equal(image, plain)
        assert where == info


def test_training_does_not_change_what_is_cached(task: Counting) -> None:
    cache = BoxCache()
    before = TaskViews(task, cache=cache)(noise_scan(1), rng(0))["image"].clone()
    train = TaskViews(task, train=True, cache=cache)
    for seed in range(10):
        train(noise_scan(1), rng(seed))
    assert torch.equal(TaskViews(task, cache=cache)(noise_scan(1), rng(0))["image"], before)


def test_a_folder_serves_workers_and_later_runs(task: Counting, tmp_path: Path) -> None:
    views = TaskViews(task, LABELS, cache=BoxCache(tmp_path))
    first = views(noise_scan(1), rng(0))
    in_a_worker = pickle.loads(pickle.dumps(views))(noise_scan(1), rng(0))
    assert Counting.calls == 1
    assert torch.equal(first["image"], in_a_worker["image"])
    assert [file.suffix for file in tmp_path.iterdir()] == [".pt"]


def test_memory_is_bounded_and_the_oldest_goes_first(task: Counting) -> None:
    cache = BoxCache(memory_mb=2.5 * 16 * 20 * 8 * 4 / 2**20)  # two scans and a half
    for seed in (1, 2, 1, 3):  # 2 was used longest ago when 3 comes
        cache.get_or_make(noise_scan(seed), task)
    assert Counting.calls == 3
    cache.get_or_make(noise_scan(1), task)
    assert Counting.calls == 3
    cache.get_or_make(noise_scan(2), task)
    assert Counting.calls == 4


def test_whatever_changes_the_image_changes_its_name() -> None:
    scan = noise_scan(1)
    keys = {
        cache_key(scan, Hemorrhage(grid=GRID)),
        cache_key(noise_scan(2), Hemorrhage(grid=GRID)),
        cache_key(scan, Hemorrhage(grid=(16, 20, 4))),
        cache_key(scan, Hemorrhage(grid=GRID, window_hu=(40, 80))),
        cache_key(scan, Hemorrhage(grid=GRID, extent_mm=(160, 200, 140))),
    }
    assert len(keys) == 5
    assert (
        cache_key(scan, Hemorrhage(grid=GRID, types=False, slices=False)) in keys
    )  # the image does not depend on these


def test_a_scan_without_a_label_is_not_read_where_some_may_lack_one(task: Counting) -> None:
    scan = noise_scan(2)
    views = TaskViews(task, LABELS, train=True, unlabelled=True)(scan, rng(0))
    assert views["image"].shape == (1, *GRID)
    assert torch.isnan(views["target"]).all()
    assert (scan.boxes, Counting.calls) == ([], 0)
    labelled, plain = (
        TaskViews(task, LABELS, train=True, unlabelled=may)(noise_scan(1), rng(0)) for may in (True, False)
    )
    assert torch.equal(labelled["image"], plain["image"])
    assert labelled["target"].shape == views["target"].shape
    assert torch.equal(labelled["target"].nan_to_num(-1), plain["target"].nan_to_num(-1))


def coronal(values: np.ndarray, corner_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> ArrayScan:
    """A series of voxels of 3.5 x 14 x 3.5 mm; `corner_mm` is where its first voxel begins."""

    class Placed(ArrayScan):
        @property
        def affine(self) -> np.ndarray:
            affine = np.diag([*self.spacing_mm, 1.0])
            affine[:3, 3] = np.array(corner_mm) + np.array(self.spacing_mm) / 2
            return affine

    return Placed(values, spacing_mm=(3.5, 14.0, 3.5), id="second")


def test_a_box_is_the_same_millimetres_of_another_series() -> None:
    axial = coronal(np.zeros((40, 44, 16), np.int16))
    axial.spacing_mm = (3.5, 3.5, 7.0)
    other = coronal(np.zeros((40, 11, 32), np.int16), corner_mm=(-7.0, 14.0, 3.5))
    # From the other's corner: 21 to 35 mm along R, 14 to 70 along A, 3.5 to 45.5 along S.
    box = ((4.0, 8.0), (8.0, 24.0), (1.0, 7.0))
    info = BoxInfo(box, GRID, axial.shape, axial.spacing_mm)

    def there(second: ArrayScan) -> FloatBox | None:
        place = {"other_shape": second.shape, "other_spacing_mm": second.spacing_mm}
        return box_in(info, axial.affine, other_affine=second.affine, **place)

    assert np.allclose(there(other), [(6, 10), (1, 5), (1, 13)])
    assert there(coronal(other.array, corner_mm=(500.0, 0.0, 0.0))) is None


@pytest.mark.parametrize("cached", [False, True])
def test_two_series_of_a_study_lie_on_one_another_and_change_alike(cached: bool) -> None:
    soft = np.random.default_rng(0).normal(40, 30, (40, 11, 16)).repeat(4, axis=1)  # alike along A over 14 mm
    first = coronal(soft)
    first.spacing_mm, first.id = (3.5, 3.5, 7.0), "scan1"
    second = coronal(soft[6:, ::4].repeat(2, axis=2), corner_mm=(21.0, 0.0, 0.0))  # of less of the patient
    labels = LABELS.assign(second_series=["second"])
    task, cache = Hemorrhage(grid=GRID, join="mean"), BoxCache() if cached else None
    views = TaskViews(task, labels, scan_of={"second": second}.__getitem__, cache=cache)
    image = views(first, rng(0))["image"]
    assert image.shape == (2, *GRID)
    inside = image[:, 4:-2, 4:-4, 2:-2]
    assert np.corrcoef(inside[0].flatten(), inside[1].flatten())[0, 1] > 0.8
    assert torch.equal(image[0], task.preprocess(first)[0][0])
    training = TaskViews(task, labels, train=True, scan_of={"second": second}.__getitem__, cache=cache)
    place, intensity = training.draw(rng(5))
    assert torch.allclose(training(first, rng(5))["image"], adjust(place(image), **intensity))


def test_a_study_with_one_series_has_zeros_beside_it_also_when_it_is_changed() -> None:
    task = Hemorrhage(grid=GRID, join="max")
    views = TaskViews(task, LABELS.assign(second_series=[None]), train=True, scan_of=lambda _: noise_scan(9))
    image = views(noise_scan(1), rng(2))["image"]
    assert image.shape == (2, *GRID)
    assert image[0].any()
    assert not image[1].any()
    assert TaskViews(task, LABELS)(noise_scan(1), rng(2))["image"].shape == (1, *GRID)  # nobody to ask for the other
