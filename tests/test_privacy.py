"""No file that a DICOM archive's patients end in, from store to bundle, names them: every byte is searched.

The store's private.key and paths.csv are private by design. A run's config.yaml holds the paths of store and label
table as the user gave them; those of the source are nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest

from volssl.bundle.evaluate import evaluate_run
from volssl.bundle.export import export_run
from volssl.bundle.workflow import finetune, pretrain
from volssl.data import prepare
from volssl.data.store import Store
from volssl.simulate.cohort import simulate_cohort
from volssl.simulate.lesions import TYPES

PRIVATE = ("private.key", "paths.csv")
SPLITS = ["train", "train", "validation", "test"]
PERSONAL = {
    "PatientName": "Mustermann^Erika{}",
    "PatientID": "MRN-4711-{}",
    "PatientBirthDate": "1951021{}",
    "PatientAddress": "Heidestrasse 1{}",
    "OtherPatientNames": "Gabler^Erika{}",
    "AccessionNumber": "ACC99120{}",
    "StudyID": "STUDYID-88{}",
    "StudyDate": "2019111{}",
    "SeriesDate": "2019121{}",
    "ReferringPhysicianName": "Kieferle^Hausarzt{}",
    "InstitutionName": "Spital Sankt Nirgendwo {}",
    "DeviceSerialNumber": "SN-77001{}",
    "StudyDescription": "Sturz im Bad, Enkel {} rief an",
}
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")


def personalise(archive: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Give a cohort telling headers -> what identifies its studies, and the slices' UIDs by accession number."""
    telling: set[str] = {str(archive), archive.name}
    slices: dict[str, list[str]] = {}
    for number, folder in enumerate(sorted((archive / "volumes").iterdir())):
        telling.add(folder.name)
        for path in sorted(folder.iterdir()):
            dataset = pydicom.dcmread(path)
            for keyword, pattern in PERSONAL.items():
                setattr(dataset, keyword, pattern.format(number))
                telling.add(pattern.format(number))
            telling |= {str(dataset[keyword].value) for keyword in UIDS}
            slices.setdefault(str(dataset.AccessionNumber), []).append(str(dataset.SOPInstanceUID))
            dataset.save_as(path)
    return sorted(telling), slices


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


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with what each command wrote, and what must not be in it."""
    folder = tmp_path_factory.mktemp("line")
    archive = folder / "pacs_export_of_erika"
    simulate_cohort(archive, len(SPLITS), seed=1, fmt="dicom", spacing_mm=6.0, slice_mm=9.0, workers=1)
    telling, slices = personalise(archive)
    patients, labels = write_tables(folder, slices)
    out = folder / "out"
    store = out / "store"
    prepare([archive / "volumes"], store, patients=patients, workers=1)
    words = ["max_epochs=1", "batch_size=2", "workers=0"]
    crops = ["spacing_mm=[7.0, 7.0, 14.0]", "crop_size=[24, 28, 8]", "small_crop_size=[16, 16, 4]"]
    swav, run = out / "swav", out / "hemorrhage"
    pretrain("swav", store=store, out=swav, words=[*words, *crops])
    finetune("hemorrhage", store=store, labels=labels, out=run, encoder=swav, words=[*words, "task::grid=[24, 28, 10]"])
    evaluate_run(run, store=store, labels=labels, split="test", out=run / "test")
    export_run(run, out / "bundle")
    return out, telling


def searched(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file but the two private ones, with its bytes; compressed columns and their metadata as text, too."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in PRIVATE:
            content = path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                content += f"{table.to_pylist()} {table.schema.metadata}".encode()
            yield path, content


def test_no_file_names_a_patient_a_study_a_date_or_a_source(line: tuple[Path, list[str]]) -> None:
    out, telling = line
    found = [
        f"{path.relative_to(out)}: {text}"
        for path, content in searched(out)
        for text in telling
        if text.encode() in content
    ]
    assert found == []
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    assert [name for name in names for text in telling if text in name] == []


def test_the_search_looks_at_every_kind_of_file_and_finds_what_is_private(line: tuple[Path, list[str]]) -> None:
    out, telling = line
    kinds = {path.suffix for path, _ in searched(out)}
    assert kinds >= {".parquet", ".csv", ".json", ".jsonl", ".b2nd", ".pt", ".yaml", ".html", ".png"}
    assert any("tfevents" in path.name for path, _ in searched(out))
    hidden = (out / "store" / "paths.csv").read_text()
    assert any(text in hidden for text in telling)
    assert len(telling) > 100


def test_the_slices_and_patients_were_joined_by_those_names_all_the_same(line: tuple[Path, list[str]]) -> None:
    out, _ = line
    rows = Store.open(out / "store").rows.to_pylist()
    assert sorted(row["split"] for row in rows) == sorted(SPLITS)
    assert len({row["patient"] for row in rows}) == len(SPLITS)
    assert all(len(row["sop"]) == row["shape"][2] for row in rows)
    answers = pd.read_parquet(out / "hemorrhage" / "test" / "predictions.parquet")
    assert any(value == 1 for value in answers["y_slices"].iloc[0])


def test_the_key_stands_in_one_file_alone_and_only_its_owner_reads_the_private_ones(
    line: tuple[Path, list[str]],
) -> None:
    out, _ = line
    key = (out / "store" / "private.key").read_text().strip()
    assert len(key) == 64
    assert [path for path, content in searched(out) if key.encode() in content or bytes.fromhex(key) in content] == []
    assert {(out / "store" / name).stat().st_mode & 0o777 for name in PRIVATE} == {0o600}
