"""The jobs of a comparison: encoders × modes × label fractions × repeats, each with the same budget of steps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from monai.bundle import ConfigParser

from volssl.bundle.compare_worker import DONE
from volssl.bundle.config import bundle_config, parse_overrides, read_config, resolved, split_word, stated
from volssl.bundle.evaluate import labels_for
from volssl.bundle.shipped import TASK_BUNDLES
from volssl.bundle.suspects import read_stage
from volssl.bundle.targets import told_task
from volssl.bundle.workflow import CONFIG, FIRST_STAGE
from volssl.data import Store, refuse_labelled, refuse_seen, tell_other_key
from volssl.data.training import chosen_rows
from volssl.encoders import encoder_like, labelled_patients
from volssl.encoders.file import encoder_path, read_encoder_file
from volssl.errors import UsageError, UserError
from volssl.evaluation.validation import MODEL
from volssl.files import write_text
from volssl.tasks import Task

SCRATCH = "scratch"
SETTINGS = "settings.json"
TRAINED = ("checkpoints", FIRST_STAGE, MODEL, DONE)  # of a job's folder: without any nothing was trained there
VALIDATION = "volssl.evaluation.validation.Validation"
OWN_KEYS = ("seed", "fraction", "mode", "dataset_dir", "labels", "output_dir", "encoder_path", "resume", "patience")


@dataclass(frozen=True)
class Arm:
    """An encoder to begin with: its name on the page, and its file; None is from scratch."""

    name: str
    encoder: Path | None = None


@dataclass(frozen=True)
class Job:
    """One fine-tuning.

    Attributes:
        fraction: of the labelled training patients.
        repeat: seed of the training, and draw of the patients of the fraction.
        patients, studies: how many labelled ones it trains on.
        epochs: of training.
        every: epochs between two validations.
        folder: of its run.
        settings: all that its figures depend on.
    """

    arm: Arm
    mode: str
    fraction: float
    repeat: int
    patients: int
    studies: int
    epochs: int
    every: int
    folder: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the terminal calls it."""
        return f"{self.arm.name}, {self.mode}, {percent(self.fraction)} of labels, repeat {self.repeat + 1}"

    @property
    def settings_sha256(self) -> str:
        """What tells it from a job of the same folder that was made otherwise."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def begin(self) -> None:
        """Write what it is made with into its folder, or compare with what stands there.

        Raises:
            UserError: where something was trained there with another setting, which is named.
        """
        path = self.folder / SETTINGS
        begun = json.loads(path.read_text()) if path.is_file() else self.settings
        changed = [key for key in {**begun, **self.settings} if begun.get(key) != self.settings.get(key)]
        if changed and any((self.folder / name).exists() for name in TRAINED):
            told = "; ".join(f"{key} {begun.get(key)}, now {self.settings.get(key)}" for key in changed)
            raise UserError(f"{self.folder}: was made with {told}; name another --out, or delete that folder")
        if changed:
            (self.folder / CONFIG).unlink(missing_ok=True)  # it would hold the run to what failed
        write_text(path, json.dumps(self.settings, indent=2) + "\n")


@dataclass(frozen=True)
class Basis:
    """What all jobs share.

    Attributes:
        values: the task's train config with the words laid over.
        validation: place of the validation among its handlers.
        task: whose labels are learnt.
        store: of the volumes.
        table: the joined labels.
        words: overrides of every job.
        labels_sha256: of the label table's file.
    """

    values: Mapping[str, Any]
    validation: int
    task: Task
    store: Store
    table: pd.DataFrame
    words: tuple[str, ...]
    labels_sha256: str

    def training_rows(self, fraction: float, draw: int) -> pa.Table:
        """The store's rows of the labelled training volumes of a fraction."""
        return self.rows(fraction=fraction, draw=draw)

    def rows(self, **which: Any) -> pa.Table:
        """The store's rows of the label table's volumes, as `chosen_rows` takes them."""
        modality, fold = self.task.contract.modality, self.values.get("fold")
        return chosen_rows(self.store, modality=modality, labels=self.table, fold=fold, **which)

    def training(self, fraction: float, draw: int) -> tuple[int, int]:
        """Labelled patients and studies of a fraction; refused where they cannot fill a batch or train the task."""
        rows = self.training_rows(fraction, draw)
        part, batch = f"{percent(fraction)} of labels, repeat {draw + 1}", self.values["batch_size"]
        if len(rows) < batch:
            raise UserError(
                f"{part}: {len(rows)} studies are fewer than one batch of {batch}; set batch_size={len(rows)} or less, "
                "for all alike, or give more labels or larger --fractions"
            )
        try:
            self.task.check_labels(self.table.loc[rows["id"].to_pylist()])
        except UserError as error:
            raise UserError(f"{part}: {error}") from error
        return len(set(rows["patient"].to_pylist())), len(rows)


def read_arms(words: Sequence[str]) -> list[Arm]:
    """`scratch`, a run, an encoder.pt, or NAME=RUN -> arms; without a name a run's folder is its name.

    Raises:
        UserError: where a file is missing or two have one name.
    """
    arms = []
    for word in words:
        name, equals, path = word.partition("=")
        if word == SCRATCH:
            arms.append(Arm(SCRATCH))
        elif equals and not Path(word).exists():
            arms.append(Arm(name, encoder_path(path)))
        else:
            file = encoder_path(word)
            arms.append(Arm(file.resolve().parent.name if file.name == "encoder.pt" else file.stem, file))
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1 or (name != SCRATCH and slug(name) in {slug(n) for n in names if n != name}):
            raise UserError(f"--encoders: two are called {name}; give them names, NAME=RUN")
    if not arms:
        raise UserError("--encoders: none is named; give scratch and the runs of volssl pretrain to compare")
    return arms


def read_basis(
    task: str, *, store: Path, labels: Path, arms: Sequence[Arm], words: Sequence[str], target: str = ""
) -> Basis:
    """Read the task's config, the store and the labels, and refuse what would not be a fair comparison.

    Args:
        target: label columns of `classification`, parted by commas.

    Raises:
        UserError: for an unknown task, encoders of different architectures, words that the comparison sets itself,
            labels that do not fit or cannot tell the best epoch, or an encoder that saw a validation or test patient.
    """
    if task not in TASK_BUNDLES:
        raise UserError(f"{task}: no such task; there are {', '.join(TASK_BUNDLES)}")
    for word in words:
        key = split_word(word)[0]
        if key in OWN_KEYS:
            raise UsageError(f"{word}: a comparison sets {key} itself, for all alike")
    if target:
        encoder = next((arm.encoder for arm in arms if arm.encoder is not None), None)
        learnt, left = told_task(target, store=store, labels=labels, encoder=encoder, words=words)
        words = (*left, *(f"{key}={json.dumps(value)}" for key, value in learnt.items()))
    words = (*words, *same_architecture(arms, words))
    config = read_config(bundle_config(TASK_BUNDLES[task], "train"))
    given = {"dataset_dir": str(store), "labels": str(labels)}
    values = resolved(config, given | parse_overrides(config, words))
    parser = ConfigParser(values)
    made: Task = parser.get_parsed_content("task")
    opened = Store.open(store)
    table = labels_for(made, opened, labels)
    for arm in arms:
        if arm.encoder is not None:
            seen = read_encoder_file(arm.encoder).seen
            tell_other_key(opened, seen, what=f"encoder {arm.encoder}")
            refuse_seen(store, table.index, seen.patients, fold=values.get("fold"))
    if values.get("suspects_path"):
        stage = values["suspects_path"]
        tell_other_key(opened, read_stage(Path(stage), made)["seen"], what=f"the first stage of {stage}")
    handlers = values["train"]["handlers"]
    place = next(i for i, handler in enumerate(handlers) if handler["_target_"] == VALIDATION)
    basis = Basis(values, place, made, opened, table, words, hashlib.sha256(labels.read_bytes()).hexdigest())
    made.check_validation(table.loc[basis.rows(split="validation")["id"].to_pylist()])
    made.masks(table, labels)  # refused here where one is missing, not by job after job
    return basis


def same_architecture(arms: Sequence[Arm], words: Sequence[str]) -> tuple[str, ...]:
    """The words that give scratch, and everyone, the architecture of the encoders.

    Raises:
        UserError: where encoders differ in it.
    """
    if any(word.startswith("network=") for word in words):
        return ()
    built = {}
    for arm in arms:
        if arm.encoder is not None:
            name, settings = encoder_like(arm.encoder)
            same = {key: value for key, value in settings.items() if key not in ("in_channels", "checkpointing")}
            built[arm.name] = (f"network={name}", f"network_settings={json.dumps(same)}")
    if len(set(built.values())) > 1:
        told = "; ".join(f"{name}: {' '.join(said)}" for name, said in built.items())
        raise UserError(f"--encoders: are of different architectures, which is no equal comparison ({told})")
    return next(iter(built.values()), ())


def plan_jobs(
    basis: Basis, arms: Sequence[Arm], *, modes: Sequence[str], fractions: Sequence[float], repeats: int, out: Path
) -> list[Job]:
    """All jobs, those with the most labels first; every one trains for as many steps as an epoch count of all labels.

    Of fewer labels an epoch has fewer steps, so there are more epochs, a longer warm-up in epochs, and more epochs
    between two validations: schedule and number of validations are those of all labels, to a rounded epoch.

    Raises:
        UserError: for fractions that are no share of the labels, too few labels, or an encoder that learnt from labels
            which a job does not have.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise UserError(f"--fractions {fraction:g}: give shares of the labelled patients, above 0 and at most 1")
    batch, all_epochs = int(basis.values["batch_size"]), int(basis.values["max_epochs"])
    whole = basis.training(1.0, 0)[1] // batch  # steps of an epoch with all labels
    handler = f"train::handlers::{basis.validation}"
    every = int(stated(basis.values, f"{handler}::every") or 1)
    warmup = float(stated(basis.values, "train::trainer::schedule::warmup_epochs") or 0)
    weights = {arm.name: sha256_of(arm.encoder) for arm in arms}
    labelled = {arm.name: labelled_patients(arm.encoder) for arm in arms}
    jobs = []
    for fraction, repeat in product(sorted(set(fractions), reverse=True), range(repeats)):
        patients, studies = basis.training(fraction, repeat)
        refuse_more_labels(basis, labelled, fraction, repeat)
        longer = whole / (studies // batch)  # epochs of this fraction in one of all labels
        epochs, between = max(1, round(all_epochs * longer)), max(1, round(every * longer))
        own = [
            f"max_epochs={epochs}",
            f"{handler}::every={between}",
            f"train::trainer::schedule::warmup_epochs={round(warmup * longer, 6)}",
            f"seed={repeat}",
            f"train::dataset::draw={repeat}",
        ]
        kept = [word for word in basis.words if split_word(word)[0] not in ("max_epochs", f"{handler}::every")]
        for mode in modes:
            for arm in arms:
                settings = {
                    "task": basis.task.name,
                    "encoder": weights[arm.name],
                    "mode": mode,
                    "fraction": fraction,
                    "words": [*kept, *own],
                    "labels": basis.labels_sha256,
                    "studies": studies,
                }
                folder = out / "runs" / slug(f"{arm.name}-{mode}-{fraction:g}-{repeat}")
                jobs.append(Job(arm, mode, fraction, repeat, patients, studies, epochs, between, folder, settings))
    return jobs


def refuse_more_labels(basis: Basis, labelled: Mapping[str, frozenset[str]], fraction: float, repeat: int) -> None:
    """Raise a UserError where an encoder learnt from labels of patients who are not among those of a job."""
    patients = basis.training_rows(fraction, repeat)["patient"].to_pylist()
    for name, learnt in labelled.items():
        refuse_labelled(
            basis.store,
            patients,
            learnt,
            what=f"{name}, {percent(fraction)} of labels, repeat {repeat + 1}",
            instead=f"take one pretrained with fraction={fraction:g} draw={repeat}, or leave the job out by --fractions"
            " and --seeds",
        )


def by_group(jobs: Sequence[Job]) -> Iterator[tuple[tuple[str, str, float], list[Job]]]:
    """Jobs that differ in the repeat alone, by (encoder, mode, fraction), repeats in order."""
    groups: dict[tuple[str, str, float], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: job.repeat):
        groups.setdefault((job.arm.name, job.mode, job.fraction), []).append(job)
    yield from groups.items()


def sha256_of(path: Path | None) -> str:
    """What names an encoder's weights; `scratch` where there are none."""
    return SCRATCH if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


def percent(fraction: float) -> str:
    """`10 %`."""
    return f"{100 * fraction:g} %"
