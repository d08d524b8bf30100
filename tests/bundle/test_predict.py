"""Answers for studies: the same with MONAI alone, mapped back to the source, honest about what is odd."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid

from tests.bundle.conftest import GRID, Line
from volssl.bundle.answers import Answer, source_slices
from volssl.bundle.metadata import TrainingRanges
from volssl.bundle.predict import predict_studies
from volssl.data import Store
from volssl.data.studies import Studies, find_studies
from volssl.errors import UserError
from volssl.tasks import Hemorrhage
from volssl.transforms.head_box import BoxInfo, HeadBoxd


@pytest.fixture(scope="module")
def answers(line: Line, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """The first two studies of the cohort as NIfTI (`nifti-0`), then as DICOM (`dicom-0`)."""
    found = {}
    for kind, studies in (("nifti", line.volumes[:2]), ("dicom", line.series)):
        for place, one in enumerate(predict_studies(line.bundle, studies, tmp_path_factory.mktemp(kind))):
            found[f"{kind}-{place}"] = one
    return found


def numbers(content: dict[str, Any]) -> list[float]:
    """All probabilities of an answer."""
    slices = [one["probability"] for one in content["slices"] if one["probability"] is not None]
    return [*content["volume"].values(), *content["types"].values(), *slices]


def test_monai_alone_answers_the_same(line: Line, answers: dict[str, Answer], tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    shutil.copytree(line.series[0], studies / "as_dicom")
    shutil.copy(line.volumes[1], studies)
    words = [f"--config_file={line.bundle / 'configs' / 'inference.yaml'}", f"--bundle_root={line.bundle}"]
    words += [f"--dataset_dir={studies}", f"--output_dir={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        env=os.environ | {"MONAI_EVAL_EXPR": "0", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, key in (("as_dicom", "dicom-0"), (line.volumes[1].name.split(".")[0], "nifti-1")):
        content = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert numbers(content) == pytest.approx(numbers(answers[key].content), abs=1e-6)
        assert len(numbers(content)) > 6
    rows = list(csv.DictReader((tmp_path / "out" / "answers.csv").open()))
    assert [Path(row["study"]).name for row in rows] == [line.volumes[1].name, "as_dicom"]
    assert float(rows[1]["hemorrhage"]) == pytest.approx(answers["dicom-0"].content["volume"]["hemorrhage"], abs=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_dicom_and_nifti_of_one_scan_answer_to_the_last_bit_alike(answers: dict[str, Answer], place: int) -> None:
    dicom, nifti = answers[f"dicom-{place}"].content, answers[f"nifti-{place}"].content
    assert numbers(dicom) == numbers(nifti)
    assert numbers(dicom) != numbers(answers[f"dicom-{1 - place}"].content)
    assert [one["position_mm"] for one in dicom["slices"]] == pytest.approx(
        [one["position_mm"] for one in nifti["slices"]], abs=1e-3
    )


def test_preprocessing_is_that_of_training_to_the_last_bit(line: Line) -> None:
    task = Hemorrhage(grid=GRID)
    transform = HeadBoxd(keys="image", grid=GRID, extent_mm=task.extent_mm, window_hu=task.window_hu)
    store = Store.open(line.store)
    trained = [task.preprocess(store.scan(volume_id))[0] for volume_id in store.rows["id"].to_pylist()]
    predicted = [sample["image"][0] for sample in Studies(line.volumes, transform=transform)]
    predicted += [sample["image"][0] for sample in Studies(line.series, transform=transform)]
    assert len(predicted) == 14
    assert all(any(torch.equal(image, known) for known in trained) for image in predicted)
    assert not torch.equal(predicted[0], predicted[1])


def test_the_probabilities_are_the_networks(line: Line, answers: dict[str, Answer]) -> None:
    from volssl.bundle.evaluate import load_run
    from volssl.data import read_scans

    model = load_run(line.run)
    with torch.no_grad():
        logits = model.network(model.task.preprocess(read_scans(line.volumes[0])[0])[0][None])
    wanted = {name: float(p) for name, p in model.task.predictions(logits).items() if name != "slices"}
    content = answers["nifti-0"].content
    assert content["volume"] | content["types"] == pytest.approx(wanted, abs=1e-6)


def test_every_slice_is_named_by_index_position_and_sop_uid(line: Line, answers: dict[str, Answer]) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in line.series[0].glob("*.dcm")]
    z_mm = {str(header.SOPInstanceUID): float(header.ImagePositionPatient[2]) for header in headers}
    slices = answers["dicom-0"].content["slices"]
    assert [one["index"] for one in slices] == list(range(len(headers)))
    assert all(one["position_mm"] == pytest.approx(z_mm[one["sop_instance_uid"]], abs=1e-3) for one in slices)
    assert all(low["position_mm"] < high["position_mm"] for low, high in pairwise(slices))
    assert "sop_instance_uid" not in answers["nifti-0"].content["slices"][0]


def box_info(low: float, high: float, grid_slices: int, source_slices: int) -> BoxInfo:
    return BoxInfo(((0, 8), (0, 8), (low, high)), (8, 8, grid_slices), (8, 8, source_slices), (1.0, 1.0, 1.0))


def test_thin_slices_take_the_probability_of_the_thick_one_that_they_lie_in() -> None:
    assert source_slices(torch.tensor([0.25, 0.75]), box_info(0, 4, 2, 6)) == [0.25, 0.25, 0.75, 0.75, None, None]


def test_a_thick_slice_takes_the_highest_of_the_thin_ones_in_it() -> None:
    assert source_slices(torch.tensor([0.25, 0.5, 0.125, 0.0]), box_info(0, 2, 4, 2)) == [0.5, 0.125]


def test_a_touch_of_less_than_a_quarter_does_not_count() -> None:
    assert source_slices(torch.tensor([0.25, 0.75]), box_info(0.2, 2.2, 2, 3)) == [0.25, 0.75, None]


def test_a_scan_like_those_of_training_has_no_warning(answers: dict[str, Answer]) -> None:
    content = answers["dicom-0"].content
    assert (content["in_training_range"], content["warnings"]) == (True, [])


def test_a_body_ct_is_answered_and_said_to_be_unlike_the_training_data(
    line: Line, shared_data: Path, tmp_path: Path
) -> None:
    (answer,) = predict_studies(line.bundle, [shared_data / "ct_dicom_series"], tmp_path)
    content = json.loads(answer.path.read_text())
    assert content == answer.as_dict()
    assert content["in_training_range"] is False
    warnings = " ".join(content["warnings"])
    assert "more than a head's" in warnings
    assert "the field of view measures 500 mm along R" in warnings
    assert len(content["slices"]) == 20
    assert all(0 < p < 1 for p in numbers(content))


def test_ranges_tell_what_is_outside_by_more_than_five_percent() -> None:
    ranges = TrainingRanges(((0.4, 0.6),) * 2 + ((3.0, 5.0),), ((200.0, 250.0),) * 2 + ((120.0, 180.0),), volumes=9)
    assert ranges.left_by((500, 500, 40), (0.41, 0.41, 4.0)) == []
    assert ranges.left_by((400, 400, 32), (0.625, 0.5, 5.2)) == []  # 0.63 and 5.25 are the last that fit
    assert ranges.left_by((400, 400, 24), (0.5, 0.5, 8.0)) == [
        "voxels measure 8 mm along S, in the training data 3 to 5 mm",
        "the field of view measures 192 mm along S, in the training data 120 to 180 mm",
    ]


def test_the_answer_says_what_answered_and_what_was_done(line: Line, answers: dict[str, Answer]) -> None:
    content = answers["dicom-0"].content
    metadata = json.loads((line.bundle / "configs" / "metadata.json").read_text())
    assert content["model"] == {
        "name": "Head CT hemorrhage classification",
        "version": metadata["version"],
        "weights_sha256": metadata["volssl"]["weights_sha256"],
    }
    assert "no medical device" in content["notice"]
    assert "Trained on simulated data" in content["notice"]
    done = content["preprocessing"]
    assert done["window_hu"] == {"center": 55, "width": 200}
    assert done["spacing_mm"] == {"source": [4.1, 4.1, 8.2], "network": [5.25, 5.444, 11.667]}
    assert done["box_mm"]["extent"] == [168, 196, 140]
    assert any("32×36×12 voxels" in step for step in done["steps"])


def test_the_box_is_given_where_the_head_is(line: Line, answers: dict[str, Answer]) -> None:
    from volssl.data import read_scans

    scan = read_scans(line.series[0])[0]
    hu = scan.read()[0]
    brain = np.argwhere((hu > 0) & (hu < 80)).mean(axis=0)
    center = scan.affine @ [*brain, 1.0]
    found = answers["dicom-0"].content["preprocessing"]["box_mm"]["center_ras"]
    assert np.abs(found - center[:3])[:2].max() < 15  # the mean of soft tissue lies near the middle of the head


def test_no_name_or_id_of_a_patient_stands_in_the_answers(line: Line, answers: dict[str, Answer]) -> None:
    header = pydicom.dcmread(next(line.series[0].glob("*.dcm")), stop_before_pixels=True)
    folder = answers["dicom-0"].path.parent
    written = "".join(path.read_text() for path in folder.iterdir())
    assert len(list(folder.iterdir())) == 3
    for private in (header.PatientID, str(header.PatientName), header.StudyInstanceUID, header.SeriesInstanceUID):
        assert private
        assert str(private) not in written


@pytest.fixture
def mixed(line: Line, tmp_path: Path) -> Path:
    """A folder with a scan, a damaged file, and an MR."""
    import nibabel

    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(line.volumes[0], folder / "b_good.nii.gz")
    (folder / "a_broken.nii.gz").write_bytes(b"this is no volume")
    mr = np.random.default_rng(0).integers(0, 900, (40, 40, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(mr, np.diag([4.0, 4.0, 8.0, 1.0])), folder / "c_mr.nii.gz")
    return folder


def test_a_bad_study_does_not_stop_the_rest_and_is_named(line: Line, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        predict_studies(line.bundle, [mixed], tmp_path / "out")
    message = str(refused.value)
    assert "1 volumes answered" in message
    assert f"{mixed / 'a_broken.nii.gz'}: " in message
    assert f"{mixed / 'c_mr.nii.gz'}: It is MR and the bundle was trained on CT" in message
    assert "\n" not in message
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["answers.csv", "b_good.json"]
    rows = list(csv.DictReader((tmp_path / "out" / "answers.csv").open()))
    assert [(Path(row["study"]).name, bool(row["hemorrhage"]), bool(row["failure"])) for row in rows] == [
        ("b_good.nii.gz", True, False),
        ("a_broken.nii.gz", False, True),
        ("c_mr.nii.gz", False, True),
    ]


def test_a_file_that_may_or_may_not_be_ct_is_refused_with_what_to_do(line: Line, tmp_path: Path) -> None:
    import nibabel

    brain = np.random.default_rng(0).normal(40, 40, (40, 40, 20)).astype(np.int16)  # below zero, but no air
    nibabel.save(nibabel.Nifti1Image(brain, np.diag([4.0, 4.0, 8.0, 1.0])), tmp_path / "brain.nii.gz")
    with pytest.raises(UserError, match=r"brain.nii.gz: Its values do not show whether it is CT .* give it as DICOM"):
        predict_studies(line.bundle, [tmp_path / "brain.nii.gz"], tmp_path / "out")


def test_when_no_study_can_be_answered_the_table_says_why(line: Line, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 volumes answered"):
        predict_studies(line.bundle, [mixed / "a_broken.nii.gz"], tmp_path / "out")
    assert "a_broken" in (tmp_path / "out" / "answers.csv").read_text()


def test_a_path_that_does_not_exist_is_refused_before_anything_is_answered(line: Line, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        predict_studies(line.bundle, [line.volumes[0], tmp_path / "nowhere"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_studies_that_share_a_folder_are_told_apart_by_their_uid(line: Line, tmp_path: Path) -> None:
    flat = tmp_path / "export"
    flat.mkdir()
    for series in line.series:
        for path in series.glob("*.dcm"):
            shutil.copy(path, flat / f"{series.name}-{path.name}")
    studies = find_studies(flat)
    assert [study.name for study in studies] == ["export", "export-2"]
    assert [len(study.sources) for study in studies] == [1, 1]


def test_a_scout_in_the_study_is_passed_over_and_said(
    line: Line, answers: dict[str, Answer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    shutil.copytree(line.series[0], study / "axial")
    scout = pydicom.dcmread(next((study / "axial").glob("*.dcm")))
    scout.SeriesInstanceUID, scout.SOPInstanceUID = generate_uid(), generate_uid()
    (study / "scout").mkdir()
    scout.save_as(study / "scout" / "1.dcm")
    (answer,) = predict_studies(line.bundle, [study], tmp_path / "out")
    assert answer.path.name == "study.json"
    assert numbers(answer.content) == numbers(answers["dicom-0"].content)
    assert "a part was passed over: 1 slices" in capsys.readouterr().err


def test_a_damaged_file_beside_a_scan_is_said_and_alone_is_a_bad_study(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(line.series[0], tmp_path / "study")
    (tmp_path / "study" / "note.dcm").write_bytes(b"no DICOM")
    assert len(predict_studies(line.bundle, [tmp_path / "study"], tmp_path / "out")) == 1
    assert "a part was passed over" in capsys.readouterr().err
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "note.dcm").write_bytes(b"no DICOM")
    with pytest.raises(UserError, match=r"1 studies could not be: .*alone: "):
        predict_studies(line.bundle, [tmp_path / "alone"], tmp_path / "out")


def test_files_of_one_name_get_an_answer_each(line: Line, tmp_path: Path) -> None:
    for folder, volume in zip(("a", "b"), line.volumes, strict=False):
        (tmp_path / folder).mkdir()
        shutil.copy(volume, tmp_path / folder / "scan.nii.gz")
    written = predict_studies(line.bundle, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert [answer.path.name for answer in written] == ["scan.json", "scan-2.json"]
    assert [answer.content["study"] for answer in written] == [str(tmp_path / f / "scan.nii.gz") for f in "ab"]


def test_a_file_name_is_never_taken_for_an_expression(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["$open('ran','w').close()", "@device", "%configs"]
    for name in names:
        shutil.copy(line.volumes[0], f"{name}.nii.gz")
    written = predict_studies(line.bundle, [Path(f"{name}.nii.gz") for name in names], Path("$out"))
    assert {answer.path.name for answer in written} == {f"{name}.json" for name in names}
    assert not Path("ran").exists()
