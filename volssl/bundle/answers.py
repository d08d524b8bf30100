"""Write what a bundle answers for each study, and one table for all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn

from volssl.bundle.answer_content import answer, joined, notice
from volssl.bundle.answer_keys import AnswerKeys
from volssl.bundle.metadata import BEFORE, BEHIND, BundleFacts, read_facts
from volssl.bundle.ranges import PooledFeature, measure
from volssl.bundle.weights import read_space
from volssl.data.source_paths import PATHS
from volssl.data.studies import Failure, Studies, Study
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import RefusedError
from volssl.engine.distributed import rank
from volssl.errors import UserError
from volssl.files import write_text
from volssl.progress import counted, say
from volssl.transforms.head_box import BoxInfo

TABLE = "answers.csv"
RESEARCH = "Research software, no medical device: not for diagnosis, triage or treatment."
ORIGINS = {
    True: "Trained on simulated data: what it answers for a patient has not been tested.",
    False: "What it answers has been tested on the data named in the model card at most.",
    None: "Whether its training data were simulated is not recorded.",
}
SHOWN = 20  # answers on the terminal; the table has them all
UNLIKE = "unlike the training data: "


@dataclass(frozen=True)
class Answer:
    """The answer for one volume, the JSON file it stands in, and the study as the user named it: not in the file."""

    path: Path
    content: dict[str, Any]
    study: Path

    def as_dict(self) -> dict[str, Any]:
        """What stands in the file."""
        return self.content


class AnswerWriter:
    """Write a JSON for each volume that an engine has predicted, and at the end one CSV for all.

    They name a study by its key; what the key stands for is in `paths.csv` and on the terminal. A study that the
    network fails on, or whose answer cannot be written, stops no other. Of several processes the first alone answers.

    Args:
        bundle_root: folder of the bundle, for the facts of its metadata.
        output_dir: for the answers.
        studies: what the engine iterates over.
        network: that answers, of whose features the distance from the training scans is taken.
        key: file with the secret of the keys; None takes the one in `output_dir`, or makes one there.

    Attributes:
        answers: written so far.
        latest: the answer for the volume that the engine holds; None where there is none.
        lacking: what could not be written beside an answer: the study as the user named it, and why.
    """

    def __init__(
        self,
        *,
        bundle_root: str | Path,
        output_dir: str | Path,
        studies: Studies,
        network: nn.Module,
        key: str | Path | None = None,
    ) -> None:
        self.bundle_root, self.output_dir, self.studies = Path(bundle_root), Path(output_dir), studies
        self.key, self.network = Path(key) if key else None, network
        self.answers: list[Answer] = []
        self.latest: Answer | None = None
        self.lacking: list[tuple[Path, str]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: SupervisedEvaluator) -> None:
        """Read what answers need of the bundle; of several processes, end all but the first."""
        if rank() > 0:
            engine.terminate()
            return
        self.inferer = engine.inferer if isinstance(engine.inferer, Forgiving) else Forgiving(engine.inferer)
        engine.inferer = self.inferer
        self.facts, self.answers, self.latest, self.lacking = read_facts(self.bundle_root), [], None, []
        self.space = read_space(self.bundle_root, self.facts.ranges)
        self.pooled = PooledFeature(self.network) if self.space else None
        self.keys = AnswerKeys(self.output_dir, self.key)

    def write(self, engine: Engine) -> None:
        """Write the answer for the volume that the engine holds, or note why there is none."""
        batch = engine.state.batch
        study: Study = batch["study"]
        key, place = self.keys.of(study), batch["place"]
        path = self.output_dir / (f"{key}-volume{place + 1}.json" if place else f"{key}.json")
        self.latest = None
        try:
            content = self.content(batch, engine.state.output["pred"][0].float().cpu(), key)
            text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        except RefusedError as refusal:
            self.studies.failures.append(Failure(study, refusal.sentence))
            return
        except Exception as error:  # noqa: BLE001  (one study; the others go on)
            self.studies.failures.append(Failure(study, unforeseen(error, "Answering for it").sentence))
            return
        for volume in (batch["volume"], batch["second_volume"]):
            if volume is not None:
                self.keys.enter(study, path.name, volume.origin)
        write_text(path, text)
        self.latest = Answer(path, content, study.path)
        self.answers.append(self.latest)

    def content(self, batch: Mapping[str, Any], pred: Tensor, key: str) -> dict[str, Any]:
        """The answer for the volume of a batch.

        Args:
            pred: the network's columns.
            key: of the study.

        Raises:
            RefusedError: where the network failed, or gave what is no number.
        """
        feature = self.pooled.take() if self.pooled else None
        if self.inferer.failure:
            raise self.inferer.failure
        if not pred.isfinite().all():
            raise RefusedError("failed", "The network's answer is not finite.")
        volume, info = batch["volume"], BoxInfo.from_dict(batch["image_box"])
        scan = measure(volume.read, info=info, image=batch["image"][0], modality=volume.modality, feature=feature)
        told = answer(self.facts, pred, volume=volume, info=info, study=key, scan=scan, space=self.space)
        return told | joined(self.facts, batch.get("image_second_box"))

    def finish(self, engine: Engine) -> None:  # noqa: ARG002
        """Write the tables, and show which answer is whose.

        Raises:
            UserError: where studies have no answer; it names them.
        """
        if rank() > 0:
            return
        if self.pooled:
            self.pooled.handle.remove()
        failures = self.studies.failures
        for failure in failures:
            self.keys.enter(failure.study)
        refused = [(self.keys.of(failure.study), failure.reason) for failure in failures]
        write_text(self.output_dir / TABLE, table(self.answers, refused, self.facts))
        self.keys.fold()
        self.show()
        answered = f"{counted(len(self.answers), 'volume')} answered in {self.output_dir}"
        lines = []
        if failures:
            named = [f"{failure.study.path}: {failure.reason.rstrip('.')}" for failure in failures]
            lines.append(f"{counted(len(failures), 'study')} could not be: {self.first(named)}")
        if self.lacking:
            named = [f"{path}: {reason}" for path, reason in self.lacking]
            lines.append(f"{counted(len(named), 'answer')} lack what was asked for: {self.first(named)}")
        if lines:
            raise UserError(f"{answered}, {'; '.join(lines)}")

    def first(self, named: list[str]) -> str:
        """The first five on one line, and where the others stand."""
        more = f"; and {len(named) - 5} more, see {self.output_dir / TABLE} and {PATHS} beside it"
        return "; ".join(named[:5]) + more * (len(named) > 5)

    def show(self) -> None:
        """Say each answer's key, its study as the user named it, and the probabilities for the volume."""
        say(notice(self.facts))
        for one in self.answers[:SHOWN]:
            told = "  ".join(f"{label} {value:.3f}" for label, value in one.content.get("volume", {}).items())
            say(f"{one.path.stem}  {one.study}  {told or f'{self.facts.dim} features'}")
            for warning in one.content["warnings"]:
                say(f"  warning: {warning}")
        if len(self.answers) > SHOWN:
            tables = f"{self.output_dir / TABLE}, and {PATHS} beside it"
            say(f"and {len(self.answers) - SHOWN} more: {tables} says whose they are")


class Forgiving(Inferer):  # type: ignore[misc]
    """An inferer that a failing network does not stop: it answers NaN, and `failure` says why.

    Args:
        inferer: any of MONAI's.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer
        self.failure: RefusedError | None = None

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **more: Any) -> Tensor:
        self.failure = None
        try:
            answer: Tensor = self.inferer(inputs, network, *args, **more)
        except Exception as error:  # noqa: BLE001  (one study; the others go on)
            self.failure = unforeseen(error, "Running the network")
            return torch.full((len(inputs), 1), torch.nan)
        return answer


def table(answers: Sequence[Answer], refused: Sequence[tuple[str, str]], facts: BundleFacts) -> str:
    """A CSV: a row a volume, then a row a study without an answer: its key and why. Each begins with the notice."""
    text = io.StringIO()
    features = [f"feature_{index}" for index in range(facts.dim)]
    columns = [*BEFORE, *facts.labels, *BEHIND, *features]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for one in answers:
        content = one.content
        row = {key: content[key] for key in ("notice", "study", "in_training_range")} | {"answer": one.path.name}
        told = dict(zip(features, content["embedding"], strict=True)) if facts.dim else {}
        told |= content.get("volume", {}) | content.get("types", {})
        writer.writerow(row | told | {"warnings": "; ".join(content["warnings"])})
    for key, reason in refused:
        writer.writerow({"notice": notice(facts), "study": key, "failure": reason})
    return text.getvalue()
