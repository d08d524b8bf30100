"""The page of a store counts rightly, shows the oddest scans first and the right way round, and names nobody."""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import median_abs_deviation

from tests.data.sources import block, write_cohort, write_nifti
from volssl.bundle.inspect import inspect_store, note_kind, volume_table
from volssl.data import Store, prepare
from volssl.data.manifest import table_of
from volssl.data.reasons import REASONS
from volssl.data.stored_volume import volume_path
from volssl.errors import UserError
from volssl.evaluation import figures
from volssl.evaluation.contact_sheet import chosen, grey_levels, tile_picture
from volssl.evaluation.figures import histogram_figure, voxel_figure
from volssl.evaluation.oddness import MEASURES, flags, robust_z, z_scores
from volssl.evaluation.page import Picture

ROOT = Path(__file__).resolve().parents[2]
TILE = re.compile(r'<figure class="tile( odd)?" title="([0-9a-f]{24})">(.*?)</figure>', re.DOTALL)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve equal scans, one of slices three times as thick, one copy, one constant, one broken file."""
    folder = write_cohort(tmp_path_factory.mktemp("archive") / "of_erika_mustermann", 12)
    thick = block(50)
    write_nifti(folder / "volumes" / "THICK.nii.gz", thick, np.diag([2.0, 2.0, 9.0, 1.0]))
    write_nifti(folder / "volumes" / "COPY.nii.gz", block(3))
    write_nifti(folder / "volumes" / "CONSTANT.nii.gz", np.zeros((24, 20, 12), np.int16))
    (folder / "volumes" / "BROKEN.nii.gz").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def store(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    prepare([archive], folder, workers=0)
    return folder


@pytest.fixture(scope="module")
def page(store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return inspect_store(store, tmp_path_factory.mktemp("page") / "page.html").read_text()


def visible(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.content)))


def scores_of(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"{i:02d}" for i in range(n)])


def test_the_page_counts_what_the_archive_holds(page: str) -> None:
    text = visible(page)
    assert "Store of 13 volumes" in text
    assert "Rejected 3 for 3 reasons, told below" in text
    for reason in ("constant", "duplicate", "unreadable"):
        assert f"{reason} {REASONS[reason]} 1 1" in text
    assert re.search(r"Formats 13 nifti", text)
    assert "patient unknown: the study stands for it 13" in text
    assert "Passed over by rule in the last run, and not counted as rejected: keys (1)." in text
    assert "simulated" not in text


def test_the_splits_add_up(page: str, store: Path) -> None:
    counts = pd.Series(Store.open(store).rows["split"].to_pylist()).value_counts()
    for split in ("train", "validation", "test"):
        n = int(counts.get(split, 0))
        assert f"{split} {n} {n} –" in visible(page)


def test_the_oddest_scan_comes_first_and_the_page_says_why(page: str, store: Path) -> None:
    rows = {row["id"]: row for row in Store.open(store).rows.to_pylist()}
    tiles = TILE.findall(page)
    assert {volume_id for _, volume_id, _ in tiles} == set(rows)
    odd, first, inside = tiles[0]
    assert rows[first]["spacing_mm"][2] == 9.0
    assert odd
    assert "slice spacing 9 mm (z +11)" in inside  # ln 3 over the floor of 0.1
    assert "24×20×12" in inside
    assert "2 × 2 × 9 mm" in inside
    assert not any(odd for odd, _, _ in tiles[1:])


def test_the_page_names_no_source_and_needs_no_other_file(page: str, archive: Path) -> None:
    for text in (archive.name, str(archive.parent), "S03", "THICK", "BROKEN", "volumes/"):
        assert text not in page
    links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert links
    assert all(link.startswith("data:") for link in links)


def test_the_page_is_the_same_every_time(page: str, store: Path, tmp_path: Path) -> None:
    assert inspect_store(store, tmp_path / "again").name == "inspect.html"
    assert (tmp_path / "again" / "inspect.html").read_text() == page


def test_a_page_is_never_written_over_something_else(store: Path) -> None:
    before = (store / "manifest.parquet").read_bytes()
    with pytest.raises(UserError, match="is no page"):
        inspect_store(store, store / "manifest.parquet")
    assert (store / "manifest.parquet").read_bytes() == before


def test_one_volume_alone_is_not_odd(tmp_path: Path) -> None:
    prepare([write_nifti(tmp_path / "one.nii", block(1))], tmp_path / "store", workers=0)
    html = inspect_store(tmp_path / "store", tmp_path / "page.html").read_text()
    assert "Store of 1 volume<" in html
    assert re.search(r"CT: 1 volume Fewer than 8 volumes are not compared", visible(html))
    assert [odd for odd, _, _ in TILE.findall(html)] == [""]
    text = visible(html)
    assert "Volumes 1 of 1 patient Rejected 0 no source Odd 0 too few to compare" in text
    assert "in the foreground of 1 volume, 0.0 % of them beyond the axis. 4 of its slices, thinned." in text


@pytest.mark.parametrize(
    ("values", "whole", "least", "most"),
    [
        ([2.0, 2.0, 2.0], False, 0.3, 0.5),  # a tenth on each side
        ([2.0, 2.0 + 1e-7, 2.0], False, 0.3, 0.5),
        ([0.0, 0.0], False, 1.5, 2.5),
        ([24.0, 24.0], True, 4.0, 6.0),
        ([3.0], True, 1.5, 2.5),
        ([2.0, 4.0], False, 2.0, 2.5),
    ],
)
def test_the_axis_of_equal_quantities_is_wide_enough_to_be_read(
    values: list[float], whole: bool, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "as_svg", lambda figure: drawn.append(figure) or "")
    histogram_figure(np.array(values), label="", marked=np.array([]), whole=whole)
    (axes,) = drawn[0].axes
    left, right = axes.patches[0].get_x(), axes.patches[-1].get_x() + axes.patches[-1].get_width()
    assert least <= right - left <= most
    ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert ticks
    assert not whole or all(float(tick).is_integer() for tick in ticks)
    assert axes.xaxis.get_major_formatter().get_offset() == ""


def test_one_volume_has_no_band_of_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "as_svg", lambda figure: drawn.append(figure) or "")
    for shares in (np.full((1, 4), 0.25), np.full((2, 4), 0.25)):
        voxel_figure(np.arange(5.0), shares, label="", marks={})
    assert [len(figure.legends) for figure in drawn] == [0, 1]


def test_a_damaged_volume_has_a_tile_that_says_so_before_all_others(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "in", 9)], tmp_path / "store", workers=0)
    broken = Store.open(tmp_path / "store").rows["id"][5].as_py()
    volume_path(tmp_path / "store", broken).write_bytes(b"cut")
    tiles = TILE.findall(inspect_store(tmp_path / "store", tmp_path / "page.html").read_text())
    assert len(tiles) == 9
    assert tiles[0][1] == broken
    assert "cannot be read: run volssl check" in tiles[0][2]
    assert "<img" not in tiles[0][2]


def test_near_duplicates_and_folds_are_counted(tmp_path: Path) -> None:
    prepare([write_cohort(tmp_path / "in", 9)], tmp_path / "store", workers=0)
    rows = Store.open(tmp_path / "store").rows.to_pylist()
    for number, row in enumerate(rows):
        row |= {"group": rows[0]["id"] if number < 3 else row["id"], "fold": number % 2, "split": "train"}
    pq.write_table(table_of(rows), tmp_path / "store" / "manifest.parquet")
    text = visible(html := inspect_store(tmp_path / "store", tmp_path / "page.html").read_text())
    assert "Near-duplicates 2 of another volume" in text
    assert "Acquisitions 7, near-duplicates counted once" in text
    assert "train 9 9 0: 5 · 1: 4" in text
    assert html.count(f"near-duplicate of {rows[0]['id'][:8]}") == 2


def test_a_sheet_too_small_for_all_shows_the_odd_and_the_usual(store: Path, tmp_path: Path) -> None:
    html = inspect_store(store, tmp_path / "page.html", sheet=4).read_text()
    tiles = [volume_id for _, volume_id, _ in TILE.findall(html)]
    assert len(set(tiles)) == 4
    table = volume_table(Store.open(store))
    assert table.loc[tiles[0], "spacing_slice_mm"] == 9.0
    assert "4 of 13 volumes, half of them the oddest" in visible(html)


def test_the_odd_half_takes_each_measure_in_turn_and_the_rest_the_first_hashes() -> None:
    scores = scores_of(a=[0, 0, 9, 8, 7, 0, 0, 0, 0, 0], b=[0, 0, 0, 0, 0, 0, 0, 0, 0, -4])
    assert chosen(scores, 10)[:4] == ["02", "03", "04", "09"]
    assert chosen(scores, 4) == ["02", "09", "00", "01"]


def test_robust_z_is_the_distance_from_the_median_in_scaled_median_deviations() -> None:
    values = np.random.RandomState(0).gamma(2, 3, 101)
    expected = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose(robust_z(values, 1e-9), expected, rtol=1e-4)
    np.testing.assert_allclose(robust_z(np.array([5.0, 5.0, 5.0, 6.0, np.nan]), 0.5), [0, 0, 0, 2, 0])


def test_mr_is_compared_with_mr_whatever_its_scale() -> None:
    n = 10
    table = pd.DataFrame({measure.column: np.ones(n) for measure in MEASURES}, index=[f"m{i}" for i in range(n)])
    table["modality"] = ["MR"] * 8 + ["CT"] * 2
    table.loc["m0", ["intensity_mean", "intensity_std", "intensity_high"]] = np.e**2
    table.loc["m9", "spacing_slice_mm"] = 50.0
    scores = z_scores(table)
    assert scores.loc["m0", "intensity_mean"] == pytest.approx(10)  # two over the floor of 0.2
    assert scores.loc["m9"].abs().max() == 0  # two CT have no rule
    told = flags(table.loc["m0"], scores.loc["m0"])
    assert told[0] == "mean of the foreground 7.39 (z +10)"


def test_a_tile_shows_the_patients_right_on_the_left_and_anterior_up() -> None:
    axial = np.full((40, 40), -160.0)  # (R, A): index 0 is left and posterior
    axial[30:, 30:] = 240.0  # the patient's right, anterior
    axial[:10, 30:] = 40.0  # left, anterior
    shown = pixels(tile_picture(axial, (1.0, 1.0), low=-160, high=240, alt=""))
    assert shown.shape == (160, 160)
    assert shown[20, 20] == 255
    assert shown[20, 140] == 128
    assert shown[140, 20] == shown[140, 140] == 0


def test_a_tile_keeps_the_proportions_in_mm() -> None:
    shown = pixels(tile_picture(np.ones((40, 40)), (1.0, 2.0), low=0, high=1, alt=""))
    filled = shown > 0
    assert (filled.any(axis=0).sum(), filled.any(axis=1).sum()) == (80, 160)


def test_the_window_is_the_one_that_the_page_tells(page: str) -> None:
    assert grey_levels("CT", 0, 1) == (-160, 240)
    assert "CT in a window of 400 HU around 40" in visible(page)
    assert grey_levels("MR", 3, 70) == (3, 70)


def test_the_tiles_of_the_page_are_the_stored_slices(page: str, store: Path) -> None:
    opened = Store.open(store)
    _, volume_id, inside = TILE.findall(page)[1]
    scan = opened.scan(volume_id)
    low, high = scan.foreground[2]
    axial = scan.read()[0, :, :, (low + high) // 2]
    expected = pixels(tile_picture(axial, scan.spacing_mm[:2], low=-160, high=240, alt=""))
    content = re.search(r"base64,([^\"]+)", inside)
    assert content
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content[1])))), expected)


def test_notes_are_counted_by_kind() -> None:
    assert note_kind("values from -3e+04 to 4096.5 HU were clipped") == "values from … to … HU were clipped"
    assert note_kind("a gantry tilt of 12.0 degrees") == note_kind("a gantry tilt of −7.5 degrees")


def test_every_reason_that_the_reading_gives_has_a_sentence() -> None:
    given = set()
    for path in (ROOT / "volssl" / "data").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RefusedError":
                given |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    assert len(given) > 15
    assert given - set(REASONS) == set()
    assert all(sentence.endswith(".") for sentence in REASONS.values())
