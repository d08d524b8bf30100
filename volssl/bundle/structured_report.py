"""`volssl predict --dicom-sr`: an answer as a DICOM Structured Report on the series it is of (TID 1500, highdicom).

A report copies the patient of its series, so it is the one file of an answer in which identifiers stand: mode 600.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pydicom
from ignite.engine import Engine, Events
from pydicom.charset import python_encoding
from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM, validate_value

from volssl.bundle.answers import Answer, AnswerWriter
from volssl.bundle.metadata import BundleFacts
from volssl.bundle.overlay import beside
from volssl.data.dicom.series import Series
from volssl.data.studies import Study
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import Volume
from volssl.errors import UserError
from volssl.files import write_bytes

if TYPE_CHECKING:
    from highdicom.sr import ComprehensiveSR, MeasurementsAndQualitativeEvaluations

REPORT = "-report.dcm"
SCHEME = "99VOLSSL"  # a private coding scheme: a bundle's outputs have the names that its labels had
LONGEST_MEANING = 64
SERIES_NUMBER = 9001
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID")  # of every slice
PARSED = {"DA": DA, "TM": TM}  # kinds whose values can look right and be no day or time
SEXES = ("", "M", "F", "O")
# Present, if only empty, in every study: what highdicom reads without asking.
STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


class Reports:
    """Write a report beside each answer for a DICOM series; what has none is told at the end, with the reason.

    Args:
        writer: of the answers; this handler is attached after it.
        research: mark each report as research on weights of which nobody knows how they do on patients.
    """

    def __init__(self, *, writer: AnswerWriter, research: bool) -> None:
        self.writer, self.research = writer, research

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        answer, batch = self.writer.latest, engine.state.batch
        if answer is None:
            return
        evidence, held = list[Dataset](), io.BytesIO()
        try:
            volumes = [volume for volume in (batch["volume"], batch["second_volume"]) if volume is not None]
            evidence = [header for volume in volumes for header in headers(batch["study"], volume)]
            document = report(self.writer.facts, answer, evidence, volume=batch["volume"], research=self.research)
            document.save_as(held, enforce_file_format=True)
        except UserError as refusal:
            self.writer.lacking.append((answer.study, str(refusal)))
            return
        except Exception as error:  # noqa: BLE001  (of pydicom and highdicom, in words that may name the patient)
            reason = odd(evidence[:1]) or unforeseen(error, "Writing its report").sentence
            self.writer.lacking.append((answer.study, f"--dicom-sr: {reason}"))
            return
        write_bytes(beside(answer.path, REPORT), held.getvalue(), private=True)


def refuse_reports(facts: BundleFacts, *, research: bool) -> None:
    """Raise a UserError where no report may be written: without highdicom, or on simulated data without a mark.

    Args:
        research: whether reports are to be marked.
    """
    if find_spec("highdicom") is None:
        raise UserError("--dicom-sr needs highdicom: pip install '.[sr]' in a clone of volssl")
    if facts.simulated is False or research:
        return
    why = "were trained on simulated data" if facts.simulated else "do not say what they were trained on"
    raise UserError(
        f"--dicom-sr: the weights {why}; no report on a patient is written with them, but one marked by --research-only"
    )


def headers(study: Study, volume: Volume) -> list[Dataset]:
    """The headers of the files that a volume was made of; the first has what highdicom wants of a study.

    Raises:
        UserError: for a volume that is no DICOM.
    """
    if volume.origin.source_format != "dicom":
        raise UserError(f"--dicom-sr: a {volume.origin.source_format} file has no series that a report could refer to")
    sops = set(volume.origin.sops)
    files = [
        path
        for source in study.sources
        if isinstance(source, Series) and source.first.series == volume.origin.series
        for path in source.files
    ]
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in dict.fromkeys(files)]
    slices = {str(one.SOPInstanceUID): one for one in found if "SOPInstanceUID" in one}
    if not sops <= set(slices):  # frames of one object, whose slices had UIDs of their own
        sops = set(slices)
    chosen = [one for uid, one in slices.items() if uid in sops or not sops]
    if not chosen or any(name not in one for one in chosen for name in UIDS):
        raise UserError("--dicom-sr: its series has no UIDs that a report could refer to")
    for name in STUDY:
        if name not in chosen[0]:
            setattr(chosen[0], name, "")
    return chosen


def odd(evidence: Sequence[Dataset]) -> str:
    """Which entries of headers no report may copy, in a sentence that tells none of their values; empty for none."""
    found = []
    for header in evidence:
        charsets = header.get("SpecificCharacterSet") or ""
        if not set([charsets] if isinstance(charsets, str) else charsets) <= set(python_encoding):
            found.append("SpecificCharacterSet")
        for name in STUDY:
            value, kind = str(header[name].value or ""), header[name].VR
            try:
                validate_value(kind, value, RAISE)
                fits = kind not in PARSED or PARSED[kind](value) is not None
            except ValueError:
                fits = False
            if not fits or (name == "PatientSex" and value not in SEXES):
                found.append(name)
    return f"DICOM does not allow what its headers have as {', '.join(found)}" if found else ""


def report(
    facts: BundleFacts, answer: Answer, evidence: Sequence[Dataset], *, volume: Volume, research: bool
) -> ComprehensiveSR:
    """The answer as a report: preliminary, unverified, with a measurement for each output.

    Args:
        evidence: headers of the series, of which the first lends its patient and study.
        research: mark it.
    """
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), manufacturer_name="volssl", model_name=facts.name, serial_number=facts.weights_sha256[:16]
        ),
    )
    outputs = answer.content["volume"] | answer.content["types"]
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=CodedConcept("analysis", SCHEME, "Analysis of a volume by a network"),
        imaging_measurements=[measurement(name, value, facts) for name, value in outputs.items()],
        title=codes.DCM.ImagingMeasurementReport,
    )
    contains = hd.sr.RelationshipTypeValues.CONTAINS
    notice = answer.content["notice"]
    said = [f"FOR RESEARCH ONLY. {notice}" if research else notice, *answer.content["warnings"]]
    series = dict.fromkeys(str(one.SeriesInstanceUID) for one in evidence)
    content[0].ContentSequence.extend(
        [
            *(
                hd.sr.UIDRefContentItem(codes.DCM.SeriesInstanceUID, hd.UID(uid), relationship_type=contains)
                for uid in series
            ),
            *(hd.sr.TextContentItem(codes.DCM.Comment, text, relationship_type=contains) for text in said),
            *(image_item(one) for one in most_suspect(answer, evidence, volume)),
        ]
    )
    description = "RESEARCH ONLY, not for clinical use" if research else "Answer of a network, unverified"
    return hd.sr.ComprehensiveSR(
        evidence=list(evidence),
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="volssl",
        manufacturer_model_name=facts.name[:LONGEST_MEANING],
        software_versions=facts.version[:LONGEST_MEANING],
        device_serial_number=facts.weights_sha256[:16],
        series_description=description,
    )


def measurement(name: str, value: float, facts: BundleFacts) -> MeasurementsAndQualitativeEvaluations:
    """The probability of one output, and the algorithm that gave it."""
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept
    from pydicom.sr.codedict import codes

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name),
        finding_type=CodedConcept(name[:LONGEST_MEANING], SCHEME, name[:LONGEST_MEANING]),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=facts.name, version=facts.version, parameters=[f"weights SHA-256 {facts.weights_sha256}"]
        ),
        measurements=[
            hd.sr.Measurement(
                name=CodedConcept("probability", SCHEME, "Probability given by a network"),
                value=round(value, 6),
                unit=codes.UCUM.NoUnits,
            )
        ],
    )


def most_suspect(answer: Answer, evidence: Sequence[Dataset], volume: Volume) -> list[Dataset]:
    """The slice with the highest probability, where slices were asked for and have UIDs."""
    told = [one for one in answer.content["slices"] if one["probability"] is not None]
    if not told or len(volume.origin.sops) != len(answer.content["slices"]):
        return []
    uid = volume.origin.sops[max(told, key=lambda one: one["probability"])["index"]]
    return [one for one in evidence if one.SOPInstanceUID == uid]


def image_item(one: Dataset) -> Any:
    """A reference to a slice, called what it is."""
    import highdicom as hd
    from highdicom.sr.coding import CodedConcept

    return hd.sr.ImageContentItem(
        name=CodedConcept("slice", SCHEME, "Slice with the highest probability"),
        referenced_sop_class_uid=one.SOPClassUID,
        referenced_sop_instance_uid=one.SOPInstanceUID,
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )
