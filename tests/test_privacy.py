"""No file that a DICOM archive's patients end in, from store to answers, names them: every byte and name is searched.

Each folder's private.key and paths.csv are private by design. A run's config.yaml holds the paths of store and label
table as the user gave them; those of the source are nowhere.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import monai.bundle
import nibabel
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.uid import generate_uid

from volssl import cli
from volssl.bundle.export import export_run
from volssl.bundle.inspect import inspect_store
from volssl.bundle.predict import predict_studies
from volssl.bundle.workflow import finetune, pretrain
from volssl.data.store import Store
from volssl.errors import UserError
from volssl.simulate.cohort import simulate_cohort
from volssl.simulate.lesions import TYPES

PRIVATE = ("private.key", "paths.csv")
SPLITS = ["train", "train", "validation", "validation", "train", "test"]
PERSONAL = {
    "PatientName": "Mustermann^Erika{}",
    "PatientID": "MRN-4711-{}",
    "PatientBirthDate": "1951021{}",
    "PatientAddress": "Heidestrasse 1{}",
    "PatientTelephoneNumbers": "0151 555017{}",
    "OtherPatientNames": "Gabler^Erika{}",
    "PatientComments": "Tochter {} ist Aerztin",
    "AdditionalPatientHistory": "Marcumar seit Jahr {}",
    "AccessionNumber": "ACC99120{}",
    "StudyID": "STUDYID-88{}",
    "StudyDate": "2019111{}",
    "SeriesDate": "2019121{}",
    "AcquisitionDate": "2019122{}",
    "ContentDate": "2019102{}",
    "StudyTime": "09153{}.4711",
    "ReferringPhysicianName": "Kieferle^Hausarzt{}",
    "OperatorsName": "Radler^Schicht{}",
    "InstitutionName": "Spital Sankt Nirgendwo {}",
    "InstitutionAddress": "Bergweg 10{} in Nirgendwo",
    "StationName": "CTSPITALKELLER{}",
    "DeviceSerialNumber": "SN-77001{}",
    "StudyDescription": "Sturz im Bad, Enkel {} rief an",
    "SeriesDescription": "Schaedel nativ Mustermann {}",
    "ProtocolName": "Notfallprotokoll Gabler {}",
    "RequestedProcedureDescription": "Blutung? Bett {}",
    "ImageComments": "Bild von Frau Mustermann {}",
}
# Parts of them, and dates written in another way.
PARTS = ("Mustermann", "Gabler", "Kieferle", "Nirgendwo", "Sturz im", "CTSPITAL", "2019-11-1", "1951-02-1", "11.2019")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
PRIVATE_TAG = (0x0011, 0x1001)


@dataclass(frozen=True)
class Archive:
    """A folder of scans, what in it identifies someone, and the slices' UIDs by accession number."""

    folder: Path
    telling: frozenset[str]
    slices: dict[str, list[str]]

    @property
    def series(self) -> list[Path]:
        return sorted(path for path in (self.folder / "volumes").iterdir() if path.is_dir())


def personalise(dataset: pydicom.Dataset, number: int) -> set[str]:
    """Give a slice the headers of a person -> what identifies it."""
    telling = {pattern.format(number) for pattern in PERSONAL.values()}
    for keyword, pattern in PERSONAL.items():
        setattr(dataset, keyword, pattern.format(number))
    block = dataset.private_block(PRIVATE_TAG[0], "SPITAL", create=True)
    block.add_new(PRIVATE_TAG[1] & 0xFF, "LO", f"Zimmer Sonnenblick {number}")
    return telling | {f"Zimmer Sonnenblick {number}"} | {str(dataset[keyword].value) for keyword in UIDS}


def make_archive(folder: Path) -> Archive:
    """A cohort with telling headers, folders and files; a NIfTI file, a damaged one, and a localizer."""
    simulate_cohort(folder, len(SPLITS), seed=1, fmt="dicom", spacing_mm=6.0, slice_mm=9.0, workers=1)
    telling = {*PARTS, str(folder), folder.name, "uebung", "Kopf nativ axial"}
    slices: dict[str, list[str]] = {}
    for number, study in enumerate(sorted((folder / "volumes").iterdir())):
        telling |= {study.name, f"erika_m_{number}"}
        inner = folder / "volumes" / f"erika_m_{number}" / "Kopf nativ axial"
        inner.mkdir(parents=True)
        for path in sorted(study.iterdir()):
            dataset = pydicom.dcmread(path)
            telling |= personalise(dataset, number)
            slices.setdefault(str(dataset.AccessionNumber), []).append(str(dataset.SOPInstanceUID))
            dataset.save_as(inner / f"uebung{path.name}")
        shutil.rmtree(study)
    scout = pydicom.dcmread(next((folder / "volumes" / "erika_m_0" / "Kopf nativ axial").iterdir()))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    for keyword in UIDS:
        setattr(scout, keyword, generate_uid())
    telling |= personalise(scout, 9)
    (folder / "volumes" / "scout_von_erika").mkdir()
    scout.save_as(folder / "volumes" / "scout_von_erika" / "scout_erika.dcm")
    simulate_cohort(folder / "more", 1, seed=2, spacing_mm=6.0, slice_mm=9.0, workers=1)
    image = nibabel.load(next((folder / "more" / "volumes").iterdir()))
    image.header["descrip"], image.header["aux_file"] = b"Fall der Familie Gabler", b"heidi_scan.hdr"
    nibabel.save(image, folder / "volumes" / "heidi_1944_kopf.nii.gz")
    shutil.rmtree(folder / "more")
    (folder / "volumes" / "defekt_heidi.nii.gz").write_bytes(b"Heidi war hier")
    telling |= {"heidi_1944_kopf", "Familie", "heidi_scan", "defekt_heidi", "scout_von_erika", "scout_erika"}
    return Archive(folder, frozenset(telling), slices)


def write_tables(folder: Path, slices: dict[str, list[str]]) -> tuple[Path, Path]:
    """A patient table and a label table keyed by accession number, half of the studies with blood in two slices."""
    studies = sorted(slices)
    patients = {"study": studies, "patient": [f"MRN-4711-{i}" for i in range(len(studies))], "split": SPLITS}
    pd.DataFrame(patients).to_csv(folder / "patients.csv", index=False)
    bleeds = [i % 2 for i in range(len(studies))]
    marked = [";".join(slices[s][4:6]) if blood else "" for s, blood in zip(studies, bleeds, strict=True)]
    labels = {"study": studies, "hemorrhage": bleeds} | dict.fromkeys(TYPES, bleeds) | {"slice_sops": marked}
    pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
    return folder / "patients.csv", folder / "labels.csv"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """What new files may be by default."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def volssl_json(file: Path, *words: object) -> None:
    """Run a command of volssl with --json into a file."""
    file.parent.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, file.open("w") as out, redirect_stdout(out):
        patch.setattr(sys, "argv", ["volssl", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 0


def monai_run(bundle: Path, studies: Path, out: Path) -> None:
    """Run a bundle with stock MONAI, without expressions, in a folder of its own."""
    folder = out.parent / "monai_was_here"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.chdir(folder)
        patch.setenv("MONAI_EVAL_EXPR", "0")
        config = str(bundle / "configs" / "inference.yaml")
        places = {"bundle_root": str(bundle), "dataset_dir": str(studies), "output_dir": str(out)}
        warnings.simplefilter("ignore")  # MONAI says of each config that it could run code
        monai.bundle.run("run", config_file=config, **places)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Archive]:
    """A folder with what each command wrote where new files are open to all, and what must not be in it."""
    folder = tmp_path_factory.mktemp("line")
    archive = make_archive(folder / "pacs_export_of_erika")
    patients, labels = write_tables(folder, archive.slices)
    out = folder / "out"
    store, swav, run, said = out / "store", out / "swav", out / "hemorrhage", out / "said"
    out.mkdir()
    words = ["max_epochs=1", "batch_size=2", "workers=0"]
    crops = ["spacing_mm=[7.0, 7.0, 14.0]", "crop_size=[24, 28, 8]", "small_crop_size=[16, 16, 4]"]
    with umask(0):
        source = archive.folder / "volumes"
        prepared = ["--store", store, "--patients", patients, "--workers", 1]
        volssl_json(said / "prepare.json", "prepare", source, *prepared)
        pretrain("swav", store=store, out=swav, preset="paper_views", words=[*words, *crops])
        pretrain("hybrid", store=store, out=out / "hybrid", labels=labels, words=[*words, *crops])
        words.append("task::grid=[24, 28, 10]")
        finetune("hemorrhage", store=store, labels=labels, out=run, encoder=swav, words=words)
        labelled = ["--store", store, "--labels", labels]
        volssl_json(said / "evaluate.json", "evaluate", run, *labelled, "--out", run / "test")
        export_run(run, out / "bundle")
        good = [archive.series[0], source / "heidi_1944_kopf.nii.gz"]
        volssl_json(said / "predict.json", "predict", out / "bundle", *good, "--out", out / "answers")
        with pytest.raises(UserError, match="2 studies could not be"):
            predict_studies(out / "bundle", [source], out / "some")
        monai_run(out / "bundle", archive.series[1], out / "by_monai")
        inspect_store(store, out / "inspect")
    return out, archive


def searched(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file but the two private ones, with its bytes; compressed columns and their metadata as text, too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in PRIVATE:
            content = path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                content += f"{table.to_pylist()} {table.schema.metadata}".encode()
            yield path, content


def test_no_file_names_a_patient_a_study_a_date_or_a_source(line: tuple[Path, Archive]) -> None:
    out, archive = line
    found = []
    for path, content in searched(out):
        lowered = content.lower()
        found += [f"{path.relative_to(out)}: {text}" for text in archive.telling if text.lower().encode() in lowered]
    assert found == []
    names = [path.relative_to(out).as_posix().lower() for path in out.rglob("*")]
    assert [name for name in names for text in archive.telling if text.lower() in name] == []


def test_the_search_looks_at_every_kind_of_file_and_finds_what_is_private(line: tuple[Path, Archive]) -> None:
    out, archive = line
    kinds = {path.suffix for path, _ in searched(out)}
    assert kinds >= {".parquet", ".csv", ".json", ".jsonl", ".b2nd", ".pt", ".yaml", ".html", ".png"}
    assert any("tfevents" in path.name for path, _ in searched(out))
    assert any(path.name == "energies.json" for path, _ in searched(out))
    assert any(path.suffix == ".html" and path.is_relative_to(out / "inspect") for path, _ in searched(out))
    for folder in ("store", "answers", "some", "by_monai"):
        hidden = (out / folder / "paths.csv").read_text()
        assert any(text in hidden for text in archive.telling)
    assert len(archive.telling) > 100


def test_every_scan_was_stored_or_refused_and_answered_or_refused(line: tuple[Path, Archive]) -> None:
    out, _ = line
    assert len(pd.read_csv(out / "store" / "rejected.csv")) == 2
    assert Store.open(out / "store").rows.num_rows == len(SPLITS) + 1
    answers = pd.read_csv(out / "some" / "answers.csv")
    assert (answers["answer"].notna().sum(), answers["failure"].notna().sum()) == (len(SPLITS) + 1, 2)
    paths = pd.read_csv(out / "some" / "paths.csv")
    assert set(paths["key"]) == set(answers["study"])
    assert {path.name for path in (out / "some").glob("*.json")} == set(answers["answer"].dropna())
    for folder, count in (("answers", 2), ("by_monai", 1)):
        assert len(list((out / folder).glob("*.json"))) == count


def test_the_slices_and_patients_were_joined_by_those_names_all_the_same(line: tuple[Path, Archive]) -> None:
    out, _ = line
    rows = Store.open(out / "store").rows.to_pylist()
    rows = [row for row in rows if row["source_format"] == "dicom"]
    assert sorted(row["split"] for row in rows) == sorted(SPLITS)
    assert len({row["patient"] for row in rows}) == len(SPLITS)
    assert all(row["scanner"].startswith("volssl simulator SIM ") for row in rows)  # the model is kept, no more
    assert all(len(row["sop"]) == row["shape"][2] for row in rows)
    answers = pd.read_parquet(out / "hemorrhage" / "test" / "predictions.parquet")
    assert any(value == 1 for value in answers["y_slices"].iloc[0])


def test_the_keys_stand_in_one_file_alone_and_only_their_owner_reads_the_private_ones(
    line: tuple[Path, Archive],
) -> None:
    out, _ = line
    private = [path for path in out.rglob("*") if path.name in PRIVATE]
    assert {path.relative_to(out).as_posix() for path in private} == {
        f"{folder}/{name}" for folder in ("store", "answers", "some", "by_monai") for name in PRIVATE
    }
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert (out / "answers" / "answers.csv").stat().st_mode & 0o777 == 0o666  # the umask was that of careless people
    for key in {path.read_text().strip() for path in private if path.name == "private.key"}:
        assert len(key) == 64
        holders = [path for path, content in searched(out) if key.encode() in content or bytes.fromhex(key) in content]
        assert holders == []
