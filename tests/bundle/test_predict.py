"""Answers for studies: the same with MONAI alone, mapped back to the source, honest about what is odd."""

from __future__ import annotations

import csv
import hmac
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import generate_uid

from tests.bundle.conftest import GRID, Line
from volssl.bundle import overlay
from volssl.bundle.answer_content import source_slices
from volssl.bundle.answers import Answer
from volssl.bundle.predict import predict_studies
from volssl.data import Store
from volssl.data.studies import Studies, find_studies
from volssl.errors import UserError
from volssl.heads import TaskNetwork
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


def lines_of(out: Path) -> list[dict[str, str]]:
    """What `paths.csv` says."""
    return list(csv.DictReader((out / "paths.csv").open()))


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
    answer_of = {Path(row["path"]): row["answer"] for row in lines_of(tmp_path / "out")}
    for path, key in ((studies / "as_dicom", "dicom-0"), (studies / line.volumes[1].name, "nifti-1")):
        content = json.loads((tmp_path / "out" / answer_of[path]).read_text())
        assert numbers(content) == pytest.approx(numbers(answers[key].content), abs=1e-6)
        assert len(numbers(content)) > 6
    rows = list(csv.DictReader((tmp_path / "out" / "answers.csv").open()))
    assert [row["answer"] for row in rows] == [answer_of[studies / n] for n in (line.volumes[1].name, "as_dicom")]
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
    transform = HeadBoxd(keys="image", grid=GRID, extent_mm=task.extent_mm, window_hu=task.contract.window_hu)
    store = Store.open(line.store)
    trained = [task.preprocess(store.scan(volume_id))[0] for volume_id in store.rows["id"].to_pylist()]
    predicted = [sample["image"][0] for sample in Studies(line.volumes, transform=transform)]
    predicted += [sample["image"][0] for sample in Studies(line.series, transform=transform)]
    assert len(predicted) == 14
    assert all(any(torch.equal(image, known) for known in trained) for image in predicted)
    assert not torch.equal(predicted[0], predicted[1])


def test_the_probabilities_are_the_networks(line: Line, answers: dict[str, Answer]) -> None:
    from volssl.bundle.runs import load_run
    from volssl.data import read_scans

    model = load_run(line.run)
    with torch.no_grad():
        logits = model.network(model.task.preprocess(read_scans(line.volumes[0])[0])[0][None])
    wanted = {name: float(p) for name, p in model.task.predictions(logits).items() if name != "slices"}
    content = answers["nifti-0"].content
    assert content["volume"] | content["types"] == pytest.approx(wanted, abs=1e-6)


def test_every_slice_is_named_by_index_and_position_and_its_uid_stands_in_paths_csv_alone(
    line: Line, answers: dict[str, Answer]
) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in line.series[0].glob("*.dcm")]
    upward = sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))
    slices = answers["dicom-0"].content["slices"]
    assert [set(one) for one in slices] == [{"index", "position_mm", "probability"}] * len(headers)
    assert [one["index"] for one in slices] == list(range(len(headers)))
    z_mm = [float(header.ImagePositionPatient[2]) for header in upward]
    assert [one["position_mm"] for one in slices] == pytest.approx(z_mm, abs=1e-3)
    (traced,) = [row for row in lines_of(answers["dicom-0"].path.parent) if row["path"] == str(line.series[0])]
    assert traced == {
        "key": answers["dicom-0"].content["study"],
        "answer": answers["dicom-0"].path.name,
        "path": str(line.series[0]),
        "study_uid": headers[0].StudyInstanceUID,
        "series_uid": headers[0].SeriesInstanceUID,
        "sop_instance_uids": ";".join(header.SOPInstanceUID for header in upward),
    }


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
    assert 0 < content["distance"]["value"] <= content["distance"]["usual"]


def test_a_body_ct_is_answered_and_said_to_be_unlike_the_training_data(
    line: Line, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (answer,) = predict_studies(line.bundle, [shared_data / "ct_dicom_series"], tmp_path)
    content = json.loads(answer.path.read_text())
    assert content == answer.as_dict()
    assert content["in_training_range"] is False
    warnings = " ".join(content["warnings"])
    assert "more than a head's" in warnings
    assert "the field of view measures 500 mm along R" in warnings
    assert content["distance"]["value"] > content["distance"]["usual"]
    assert "its features lie" in warnings
    assert "warning: unlike the training data: the field of view" in " ".join(capsys.readouterr().err.split())
    assert len(content["slices"]) == 20
    assert all(0 < p < 1 for p in numbers(content))


def test_a_scaled_scan_is_unlike_the_training_data_by_its_values(line: Line, tmp_path: Path) -> None:
    import nibabel

    image = nibabel.load(line.volumes[0])
    hu = np.asanyarray(image.dataobj) * 2.0  # as where the slope is left out
    scaled = tmp_path / "scaled.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), image.affine), scaled)
    (answer,) = predict_studies(line.bundle, [scaled], tmp_path / "out", modality="CT")
    assert answer.content["in_training_range"] is False
    assert any("95th percentile of the values in the box" in warning for warning in answer.content["warnings"])


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
    assert "1 volume answered" in message
    assert f"{mixed / 'a_broken.nii.gz'}: " in message
    assert f"{mixed / 'c_mr.nii.gz'}: By its values it is MR and the bundle was trained on CT" in message
    assert "\n" not in message
    rows = list(csv.DictReader((tmp_path / "out" / "answers.csv").open()))
    name_of = {row["key"]: Path(row["path"]).name for row in lines_of(tmp_path / "out")}
    assert [(name_of[row["study"]], bool(row["hemorrhage"]), bool(row["failure"])) for row in rows] == [
        ("b_good.nii.gz", True, False),
        ("a_broken.nii.gz", False, True),
        ("c_mr.nii.gz", False, True),
    ]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted([f"{rows[0]['study']}.json", "answers.csv", "paths.csv", "private.key"])


def stopped_on_the_second(value: torch.Tensor | Exception) -> Callable[..., Any]:
    """A forward of `TaskNetwork` that is another for the second volume, but to an overlay and on no values."""
    forward, asked = TaskNetwork.forward, []

    def changed(network: TaskNetwork, *images: torch.Tensor) -> torch.Tensor:
        answer = forward(network, *images)
        if torch.is_grad_enabled() or answer.is_meta:
            return answer
        asked.append(1)
        if len(asked) != 2:
            return answer
        if isinstance(value, Exception):
            raise value
        return answer * value

    return changed


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.tensor(torch.nan), "The network's answer is not finite."),
        (RuntimeError("/home/anna"), "Running the network failed in a way that nobody foresaw"),
        (MemoryError(), "Running the network asked for more memory than there is."),
    ],
)
def test_a_study_that_the_network_fails_on_does_not_stop_the_rest(
    line: Line,
    answers: dict[str, Answer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: torch.Tensor | Exception,
    reason: str,
) -> None:
    studies = [*line.volumes[:2], line.series[0]]
    order = [study.path for study in find_studies(studies)]
    monkeypatch.setattr(TaskNetwork, "forward", stopped_on_the_second(value))
    with pytest.raises(UserError) as refused:
        predict_studies(line.bundle, studies, tmp_path / "out", overlay=True)
    said = str(refused.value)
    assert f"2 volumes answered in {tmp_path / 'out'}, 1 study could not be: {order[1]}: {reason[:-1]}" in said
    assert "anna" not in said
    name_of = {row["key"]: Path(row["path"]) for row in lines_of(tmp_path / "out")}
    rows = list(csv.DictReader((tmp_path / "out" / "answers.csv").open()))
    assert [name_of[row["study"]] for row in rows] == [order[0], order[2], order[1]]
    assert [row["failure"].startswith(reason) for row in rows] == [False, False, True]
    assert all(row["notice"].startswith("Research software") and "simulated data" in row["notice"] for row in rows)
    keys = {path.name.split("-")[0].split(".")[0] for path in (tmp_path / "out").iterdir()} & set(name_of)
    assert keys == {rows[0]["study"], rows[1]["study"]}  # no file of the one that failed
    known = {path: answers[f"nifti-{index}"] for index, path in enumerate(line.volumes[:2])}
    known[line.series[0]] = answers["dicom-0"]
    for row in rows[:2]:  # distances too: the feature of a volume that failed is not taken for the next one's
        content = json.loads((tmp_path / "out" / row["answer"]).read_text())
        assert content["distance"] == known[name_of[row["study"]]].content["distance"]


def test_an_overlay_that_fails_is_named_and_the_others_are_drawn(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, asked = overlay.saliency, []

    def failing(*given: Any) -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise ValueError("/home/anna")
        return drawn(*given)

    monkeypatch.setattr(overlay, "saliency", failing)
    first = find_studies(line.volumes[:2])[0].path
    with pytest.raises(UserError) as refused:
        predict_studies(line.bundle, line.volumes[:2], tmp_path / "out", overlay=True)
    assert f"1 answer lack what was asked for: {first}: Drawing its overlay failed" in str(refused.value)
    assert "anna" not in str(refused.value)
    endings = sorted("".join(path.suffixes) for path in (tmp_path / "out").glob("*[!y]"))
    assert endings == [".csv", ".csv", ".json", ".json", ".nii.gz", ".png"]


def test_a_skull_stripped_ct_is_answered_and_one_cut_at_zero_when_it_is_said_to_be_ct(
    line: Line, tmp_path: Path
) -> None:
    import nibabel

    image = nibabel.load(line.volumes[0])
    hu = np.asanyarray(image.dataobj)
    brain = np.where((hu > -20) & (hu < 90), hu, 0).astype(np.int16)  # below zero, but no air
    stripped = tmp_path / "brain.nii.gz"
    nibabel.save(nibabel.Nifti1Image(brain, image.affine), stripped)
    (answer,) = predict_studies(line.bundle, [stripped], tmp_path / "out")  # told by its values
    assert len(answer.content["slices"]) == image.shape[2]
    assert any("no air" in note for note in answer.content["preprocessing"]["notes"])
    nibabel.save(nibabel.Nifti1Image(np.maximum(brain, 0), image.affine), stripped)
    with pytest.raises(UserError, match=r"By its values it is MR .* say --modality CT"):
        predict_studies(line.bundle, [stripped], tmp_path / "out")
    assert len(predict_studies(line.bundle, [stripped], tmp_path / "out", modality="CT")) == 1


def test_what_the_user_says_of_files_does_not_overrule_dicom_and_must_be_ct_or_mr(line: Line, tmp_path: Path) -> None:
    assert len(predict_studies(line.bundle, line.series[:1], tmp_path / "out", modality="MR")) == 1
    with pytest.raises(UserError, match="It is MR and the bundle was trained on CT"):
        predict_studies(line.bundle, line.volumes[:1], tmp_path / "out", modality="MR")
    with pytest.raises(UserError, match="--modality PET is neither CT nor MR"):
        predict_studies(line.bundle, line.volumes[:1], tmp_path / "none", modality="PET")
    assert not (tmp_path / "none").exists()


def test_when_no_study_can_be_answered_the_table_says_why(line: Line, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 volumes answered"):
        predict_studies(line.bundle, [mixed / "a_broken.nii.gz"], tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "answers.csv").open())
    (traced,) = lines_of(tmp_path / "out")
    assert (row["study"], row["answer"], bool(row["failure"])) == (traced["key"], "", True)
    assert (traced["answer"], traced["path"]) == ("", str(mixed / "a_broken.nii.gz"))


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
    assert [study.path for study in studies] == [flat, flat]
    assert [len(study.sources) for study in studies] == [1, 1]
    uids = {str(pydicom.dcmread(next(s.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID) for s in line.series}
    assert {study.uid for study in studies} == {study.identity for study in studies} == uids


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
    assert answer.path.name == f"{answer.content['study']}.json"
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
    with pytest.raises(UserError, match=r"1 study could not be: .*alone: "):
        predict_studies(line.bundle, [tmp_path / "alone"], tmp_path / "out")


def test_files_of_one_name_get_an_answer_each(line: Line, tmp_path: Path) -> None:
    for folder, volume in zip(("a", "b"), line.volumes, strict=False):
        (tmp_path / folder).mkdir()
        shutil.copy(volume, tmp_path / folder / "scan.nii.gz")
    written = predict_studies(line.bundle, [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    paths = {row["key"]: row["path"] for row in lines_of(tmp_path / "out")}
    assert [paths[answer.content["study"]] for answer in written] == [str(tmp_path / f / "scan.nii.gz") for f in "ab"]
    assert [answer.study for answer in written] == [tmp_path / f / "scan.nii.gz" for f in "ab"]


def test_a_study_of_two_series_gets_two_answers_under_one_key(line: Line, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(line.series[0], study / "axial")
    (study / "again").mkdir()
    series = generate_uid()
    for path in (study / "axial").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = series, generate_uid()
        dataset.save_as(study / "again" / path.name)
    written = predict_studies(line.bundle, [study], tmp_path / "out")
    key = written[0].content["study"]
    assert [answer.path.name for answer in written] == [f"{key}.json", f"{key}-volume2.json"]
    rows = {row["answer"]: row for row in lines_of(tmp_path / "out")}
    assert {row["key"] for row in rows.values()} == {key}
    assert len({row["series_uid"] for row in rows.values()} - {""}) == 2
    assert rows.keys() == {answer.path.name for answer in written}


def test_each_part_of_a_file_of_two_volumes_gets_an_answer(line: Line, tmp_path: Path) -> None:
    import nibabel

    image = nibabel.load(line.volumes[0])
    hu = np.asanyarray(image.dataobj)
    both = np.stack([hu, hu[::-1]], axis=-1)
    nibabel.save(nibabel.Nifti1Image(both, image.affine), tmp_path / "phases.nii.gz")
    written = predict_studies(line.bundle, [tmp_path / "phases.nii.gz"], tmp_path / "out")
    key = written[0].content["study"]
    assert [answer.path.name for answer in written] == [f"{key}.json", f"{key}-volume2.json"]
    assert numbers(written[0].content) != numbers(written[1].content)


def test_the_key_says_nothing_without_the_secret_and_stays_when_the_scan_moves(line: Line, tmp_path: Path) -> None:
    moved = shutil.copytree(line.series[0], tmp_path / "elsewhere")
    (first,) = predict_studies(line.bundle, line.series[:1], tmp_path / "out")
    (again,) = predict_studies(line.bundle, [moved], tmp_path / "out")
    (apart,) = predict_studies(line.bundle, [moved], tmp_path / "other")
    (shared,) = predict_studies(line.bundle, [moved], tmp_path / "third", key=tmp_path / "out" / "private.key")
    secret = bytes.fromhex((tmp_path / "out" / "private.key").read_text())
    uid = pydicom.dcmread(next(moved.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID
    wanted = hmac.new(secret, f"answer\0{uid}".encode(), "sha256").hexdigest()[:24]
    keys = [answer.content["study"] for answer in (first, again, shared, apart)]
    assert keys[:3] == [wanted] * 3
    assert keys[3] != wanted
    assert [row["path"] for row in lines_of(tmp_path / "out")] == [str(moved)]


def test_paths_of_earlier_studies_stay_when_others_are_answered(line: Line, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for study in line.volumes[:2]:
        predict_studies(line.bundle, [study], out)
    (tmp_path / "broken.nii.gz").write_bytes(b"no volume")
    with pytest.raises(UserError, match="0 volumes answered"):
        predict_studies(line.bundle, [tmp_path / "broken.nii.gz"], out)
    paths = [*map(str, line.volumes[:2]), str(tmp_path / "broken.nii.gz")]
    assert sorted(row["path"] for row in lines_of(out)) == sorted(paths)
    assert len({row["key"] for row in lines_of(out)}) == 3
    assert {row["answer"] for row in lines_of(out)} == {path.name for path in out.glob("*.json")} | {""}


def test_answers_do_not_go_into_a_store_whose_paths_they_would_replace(line: Line) -> None:
    before = (line.store / "paths.csv").read_bytes()
    with pytest.raises(UserError, match=r"its paths.csv was not written by volssl predict"):
        predict_studies(line.bundle, line.volumes[:1], line.store)
    assert (line.store / "paths.csv").read_bytes() == before
    assert not (line.store / "answers.csv").exists()


def test_another_key_than_the_folders_is_refused(line: Line, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "private.key").write_text("00" * 32)
    (tmp_path / "key").write_text("11" * 32)
    with pytest.raises(UserError, match="was made with another key"):
        predict_studies(line.bundle, line.volumes[:1], tmp_path / "out", key=tmp_path / "key")


def test_the_terminal_says_which_answer_is_whose(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (answer,) = predict_studies(line.bundle, line.volumes[:1], tmp_path / "out")
    probability = answer.content["volume"]["hemorrhage"]
    said = f"{answer.content['study']}  {line.volumes[0]}  hemorrhage {probability:.3f}"
    lines = capsys.readouterr().err.splitlines()
    assert said in lines
    assert lines[0] == answer.content["notice"]
    assert "simulated" in lines[0]


def test_a_file_name_is_never_taken_for_an_expression(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["$open('ran','w').close()", "@device", "%configs"]
    for name in names:
        shutil.copy(line.volumes[0], f"{name}.nii.gz")
    written = predict_studies(line.bundle, [Path(f"{name}.nii.gz") for name in names], Path("$out"))
    paths = {row["path"] for row in lines_of(Path("$out"))}
    assert paths == {str(tmp_path / f"{name}.nii.gz") for name in names}
    assert {answer.study.name for answer in written} == {f"{name}.nii.gz" for name in names}
    assert not Path("ran").exists()
