"""Answers as DICOM Structured Reports: read back by pydicom and highdicom, of the right patient, and marked."""

from __future__ import annotations

import csv
import json
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import highdicom
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.bundle.conftest import Line
from volssl.bundle import structured_report
from volssl.bundle.answers import Answer
from volssl.bundle.metadata import read_facts
from volssl.bundle.predict import predict_studies
from volssl.bundle.structured_report import refuse_reports
from volssl.errors import UserError

ODD = {  # headers that archives hold, and what is said of them
    "birth": ((0x00100030, "DA", b"19xx0101"), "PatientBirthDate"),
    "time": ((0x00080030, "TM", b"99:99:99"), "StudyTime"),
    "day": ((0x00080020, "DA", b"2020.1.1"), "StudyDate"),
    "no such day": ((0x00080020, "DA", b"20200230"), "StudyDate"),
    "sex": ((0x00100040, "CS", b"U "), "PatientSex"),
    "charset": ((0x00080005, "CS", b"NOSUCH"), "SpecificCharacterSet"),
}
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")


@pytest.fixture(scope="module")
def reported(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """The first series, answered with a report."""
    out = tmp_path_factory.mktemp("reports")
    (answer,) = predict_studies(line.bundle, line.series[:1], out, dicom_sr=True, research_only=True)
    return answer


@pytest.fixture
def path(reported: Answer) -> Path:
    return reported.path.with_name(f"{reported.path.stem}-report.dcm")


@pytest.fixture
def headers(line: Line) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(line.series[0].glob("*.dcm"))]


def test_pydicom_reads_a_comprehensive_report_of_the_study_and_its_patient(
    path: Path, headers: list[pydicom.FileDataset]
) -> None:
    document = pydicom.dcmread(path)
    assert document.file_meta.MediaStorageSOPClassUID == pydicom.uid.ComprehensiveSRStorage == document.SOPClassUID
    assert document.Modality == "SR"
    for name in (*PATIENT, "StudyInstanceUID", "StudyDate", "StudyID"):
        assert document[name].value == headers[0][name].value
    assert document.SeriesInstanceUID not in {one.SeriesInstanceUID for one in headers}
    assert (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag) == (
        "PARTIAL",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_it_refers_to_every_slice_of_the_series(path: Path, headers: list[pydicom.FileDataset]) -> None:
    (study,) = pydicom.dcmread(path).CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == headers[0].SeriesInstanceUID
    told = {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence}
    assert told == {one.SOPInstanceUID for one in headers}


def test_highdicom_reads_the_probability_of_each_output(path: Path, reported: Answer) -> None:
    document = highdicom.sr.srread(path)
    content = document.content
    groups = content.get_image_measurement_groups()
    found = {}
    for group in groups:
        (measurement,) = group.get_measurements()
        found[group.finding_type.meaning] = float(measurement.value)
        assert measurement.unit.value == "1"
    assert found == pytest.approx(reported.content["volume"] | reported.content["types"], abs=1e-6)
    assert len(found) == 6


def test_it_names_the_slice_with_the_highest_probability(
    path: Path, reported: Answer, headers: list[pydicom.FileDataset]
) -> None:
    upward = sorted(headers, key=lambda header: float(header.ImagePositionPatient[2]))
    told = [one for one in reported.content["slices"] if one["probability"] is not None]
    highest = max(told, key=lambda one: one["probability"])
    (image,) = [item for item in pydicom.dcmread(path).ContentSequence if item.ValueType == "IMAGE"]
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == upward[highest["index"]].SOPInstanceUID


def test_it_is_marked_as_research_in_the_series_and_in_the_text(path: Path) -> None:
    document = pydicom.dcmread(path)
    assert document.SeriesDescription.startswith("RESEARCH ONLY")
    comments = [item for item in document.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121106"]
    texts = [item.TextValue for item in comments]
    assert texts[0].startswith("FOR RESEARCH ONLY")
    assert "simulated" in texts[0]


def test_it_is_the_one_file_that_names_the_patient_and_its_owners_alone(
    path: Path, headers: list[pydicom.FileDataset]
) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    patient = str(headers[0].PatientID).encode()
    assert patient in path.read_bytes()
    assert [one.name for one in path.parent.iterdir() if one not in (path, path.with_name("paths.csv"))
            and patient in one.read_bytes()] == []  # fmt: skip


def test_weights_trained_on_simulated_data_write_no_report_unless_it_is_marked(line: Line, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trained on simulated data; .* --research-only") as refused:
        predict_studies(line.bundle, line.series[:1], tmp_path / "out", dicom_sr=True)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_unknown_data_are_refused_too_and_others_are_not(bundle_copy: Path) -> None:
    path = bundle_copy / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    for simulated, refused in ((None, True), (False, False)):
        metadata["volssl"]["simulated_training_data"] = simulated
        path.write_text(json.dumps(metadata))
        if refused:
            with pytest.raises(UserError, match="do not say what they were trained on"):
                refuse_reports(read_facts(bundle_copy), research=False)
        else:
            refuse_reports(read_facts(bundle_copy), research=False)


def test_a_nifti_study_is_answered_and_its_report_refused_in_one_line(line: Line, tmp_path: Path) -> None:
    studies = [line.series[0], line.volumes[1]]
    with pytest.raises(UserError) as refused:
        predict_studies(line.bundle, studies, tmp_path / "out", dicom_sr=True, research_only=True)
    said = str(refused.value)
    assert "2 volumes answered" in said
    assert f"{line.volumes[1]}: --dicom-sr: a nifti file has no series" in said
    assert "\n" not in said
    assert len(list((tmp_path / "out").glob("*-report.dcm"))) == 1
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def odd_series(line: Line, folder: Path, change: Callable[[pydicom.FileDataset, int], None]) -> Path:
    """A copy of the first series whose headers were changed."""
    shutil.copytree(line.series[0], folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, path in enumerate(sorted(folder.glob("*.dcm"))):
            dataset = pydicom.dcmread(path)
            change(dataset, index)
            dataset.save_as(path)
    return folder


def without_report(line: Line, folder: Path, odd: Path) -> str:
    """Answer for an odd series and for one that is not; the first has no report, and what is said of it comes back."""
    with pytest.raises(UserError) as refused:
        predict_studies(line.bundle, [odd, line.series[1]], folder, dicom_sr=True, research_only=True)
    said = str(refused.value)
    assert said.startswith(f"2 volumes answered in {folder}, 1 answer lack what was asked for: {odd}: --dicom-sr: ")
    assert "\n" not in said
    (report,) = folder.glob("*-report.dcm")
    patient = pydicom.dcmread(next(line.series[1].glob("*.dcm"))).PatientID
    assert pydicom.dcmread(report).PatientID == patient
    assert len(list(csv.DictReader((folder / "answers.csv").open()))) == len(list(folder.glob("*.json"))) == 2
    return said


@pytest.mark.parametrize("case", ODD)
def test_an_odd_header_costs_the_report_of_its_study_alone(line: Line, tmp_path: Path, case: str) -> None:
    (tag, kind, value), name = ODD[case]

    def change(dataset: pydicom.FileDataset, index: int) -> None:
        dataset[Tag(tag)] = RawDataElement(Tag(tag), kind, len(value), value, 0, False, True)

    said = without_report(line, tmp_path / "out", odd_series(line, tmp_path / "odd", change))
    assert said.endswith(f"DICOM does not allow what its headers have as {name}")
    assert value.decode() not in said


def test_a_slice_without_a_class_costs_the_report_of_its_study_alone(line: Line, tmp_path: Path) -> None:
    def change(dataset: pydicom.FileDataset, index: int) -> None:
        if index == 3:
            del dataset.SOPClassUID

    said = without_report(line, tmp_path / "out", odd_series(line, tmp_path / "odd", change))
    assert said.endswith("its series has no UIDs that a report could refer to")


def test_what_nobody_foresaw_costs_one_report_and_its_words_are_not_repeated(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = structured_report.report

    def failing(facts, answer, evidence, **more):  # type: ignore[no-untyped-def]
        if answer.study == line.series[0]:
            raise LookupError(f"of {evidence[0].PatientID}")
        return written(facts, answer, evidence, **more)

    monkeypatch.setattr(structured_report, "report", failing)
    said = without_report(line, tmp_path / "out", line.series[0])
    assert "Writing its report failed in a way that nobody foresaw (volssl/bundle/structured_report.py, line" in said
