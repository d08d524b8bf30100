"""Label tables in the form of RSNA 2019 and CQ500, made up here, become what an independent count says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pydicom.dataset import Dataset

from tests.data.sources import block, write_series
from volssl.data import Store, join_labels, prepare
from volssl.data.label_converters import READERS, TYPES, convert_labels
from volssl.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # Kaggle names images ID_...
KINDS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
FINDINGS = ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH", "BleedLocation-Left", "ChronicBleed", "Fracture", "MassEffect",
            "MidlineShift")  # fmt: skip


def kaggle(tmp_path: Path, positives: dict[str, set[str]], images: list[str], *, more: str = "") -> Path:
    """stage_2_train.csv: six lines an image; `any` where one of the others is 1."""
    lines = ["ID,Label"]
    for image in images:
        shown = positives.get(image, set())
        lines += [f"{image}_{kind},{int(kind in shown or (kind == 'any' and bool(shown)))}" for kind in KINDS]
    path = tmp_path / "stage_2_train.csv"
    path.write_text("\n".join(lines) + "\n" + more)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A store of three series whose UIDs read as Kaggle's do, and each study's images from inferior."""
    root = tmp_path_factory.mktemp("rsna")
    images: dict[str, list[str]] = {}
    for study in range(3):

        def kaggles(dataset: Dataset, index: int, study: int = study) -> None:
            dataset.SOPInstanceUID = f"ID_{study}{index:02d}abc"
            dataset.StudyInstanceUID = dataset.SeriesInstanceUID = f"ID_study{study}"
            dataset.PatientID = f"ID_patient{study}"

        write_series(root / "in" / f"{study}", block(study), study=study + 1, edit=kaggles)
        images[f"{study}"] = [f"ID_{study}{index:02d}abc" for index in range(12)]
    prepare([root / "in"], root / "store", workers=0)
    return root / "store", images


def test_a_study_shows_what_any_of_its_images_shows(archive: tuple[Path, dict[str, list[str]]], tmp_path: Path) -> None:
    store, images = archive
    positives = {images["0"][4]: {"subdural"}, images["0"][5]: {"subdural", "epidural"}}
    csv = kaggle(tmp_path, positives, [*images["0"], *images["1"], *images["2"][:6], "ID_elsewhere"])
    convert_labels("rsna2019", csv, tmp_path / "labels.csv", store=store)
    opened = Store.open(store)
    joined = join_labels(opened, tmp_path / "labels.csv", ("hemorrhage", *TYPES))
    shown = {
        tuple(row[["hemorrhage", "subdural", "epidural", "subarachnoid"]]): row["slice_indices"]
        for _, row in joined.iterrows()
    }
    assert shown.pop((1.0, 1.0, 1.0, 0.0)) == [4, 5]  # counted from inferior, as the store has them
    assert shown.pop((0.0, 0.0, 0.0, 0.0)) is None
    ((unknown, slices),) = shown.items()  # half of its images are not labelled: nobody knows that it shows nothing
    assert pd.isna(pd.Series(unknown)).all()
    assert not isinstance(slices, list)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ("ID_000abc_any,1\n", "labels the image 'ID_000abc' twice, and the lines differ"),
        ("ID_000abc_chronic,1\n", "line 14: ID holds 'ID_000abc_chronic', which ends in none of any, subarachnoid"),
        ("ID_zzz_any,yes\n", "line 14: Label holds 'yes'; it is 0, 1 or blank"),
    ],
)
def test_a_table_that_contradicts_itself_or_has_another_form_is_refused(
    archive: tuple[Path, dict[str, list[str]]], tmp_path: Path, more: str, match: str
) -> None:
    store, images = archive
    csv = kaggle(tmp_path, {}, images["0"][:2], more=more)
    with pytest.raises(UserError, match=match):
        convert_labels("rsna2019", csv, tmp_path / "labels.csv", store=store)


def test_a_line_that_stands_twice_alike_counts_once(archive: tuple[Path, dict[str, list[str]]], tmp_path: Path) -> None:
    store, images = archive
    csv = kaggle(tmp_path, {images["0"][0]: {"subdural"}}, images["0"], more=f"{images['0'][0]}_subdural,1\n")
    table = convert_labels("rsna2019", csv, tmp_path / "labels.csv", store=store)
    assert (len(table), table["subdural"].iloc[0], table["slice_sops"].iloc[0]) == (1, 1.0, images["0"][0])


def test_a_table_of_images_needs_the_store_that_holds_them(
    archive: tuple[Path, dict[str, list[str]]], tmp_path: Path
) -> None:
    csv = kaggle(tmp_path, {}, ["ID_nowhere"])
    with pytest.raises(UserError, match="names images, not studies: give --store"):
        convert_labels("rsna2019", csv, tmp_path / "labels.csv")
    with pytest.raises(UserError, match="none of its 1 images is in the store"):
        convert_labels("rsna2019", csv, tmp_path / "labels.csv", store=archive[0])


def reads(tmp_path: Path, rows: dict[str, dict[str, str]]) -> Path:
    """reads.csv: for each study the reads of each finding as three letters, 0 where it is not named."""
    columns = [f"{reader}:{finding}" for reader in READERS for finding in FINDINGS]
    lines = [",".join(["name", "Category", *columns])]
    for name, found in rows.items():
        cells = [found.get(finding, "000")[place].strip() for place in range(3) for finding in FINDINGS]
        lines.append(",".join([name, "B1", *cells]))
    (tmp_path / "reads.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "reads.csv"


def test_two_of_three_readers_decide_and_a_tie_is_unknown(tmp_path: Path) -> None:
    csv = reads(
        tmp_path, {"CQ500-CT-0": {"ICH": "110", "SDH": "100", "IPH": "1 0", "MidlineShift": "111"}, "CQ500-CT-12": {}}
    )
    convert_labels("cq500", csv, tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv").set_index("study")
    assert list(table.index) == ["CQ500CT0 CQ500CT0", "CQ500CT12 CQ500CT12"]  # the folders of the archives
    first = table.iloc[0]
    assert (first["hemorrhage"], first["subdural"], first["midline_shift"], first["epidural"]) == (1, 0, 1, 0)
    assert pd.isna(first["intraparenchymal"])
    assert (table.iloc[1] == 0).all()


def test_a_study_of_cq500_is_named_as_the_store_knows_it(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "CQ500CT3 CQ500CT3" / "Unknown Study" / "CT Plain", block(0))
    write_series(tmp_path / "in" / "CQ500-CT-4", block(1), study=2)
    prepare([tmp_path / "in"], tmp_path / "store", workers=0)
    csv = reads(tmp_path, {"CQ500-CT-3": {"ICH": "111"}, "CQ500-CT-4": {}})
    convert_labels("cq500", csv, tmp_path / "labels.csv", store=tmp_path / "store")
    joined = join_labels(Store.open(tmp_path / "store"), tmp_path / "labels.csv", ["hemorrhage"])
    assert sorted(joined["hemorrhage"]) == [0, 1]


def test_a_read_that_is_no_yes_or_no_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: R3:ICH holds '2'; it is 0, 1 or blank"):
        convert_labels("cq500", reads(tmp_path, {"CQ500-CT-0": {"ICH": "012"}}), tmp_path / "labels.csv")
