"""What a bundle answers for a study: probabilities or a feature, what was done to the scan, how it is unlike others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn

from volssl.bundle.answer_keys import AnswerKeys
from volssl.bundle.metadata import BundleFacts, read_facts
from volssl.bundle.ranges import FeatureSpace, Measured, PooledFeature, measure
from volssl.bundle.weights import read_space
from volssl.data.source_paths import PATHS
from volssl.data.studies import Failure, Studies, Study
from volssl.data.unforeseen import unforeseen
from volssl.data.volume import RefusedError, Volume
from volssl.engine.distributed import rank
from volssl.errors import UserError
from volssl.files import write_text
from volssl.progress import counted, say
from volssl.tasks.slices import LEAST_OVERLAP
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
        self.keys.enter(study, path.name, batch["volume"].origin)
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
        return answer(self.facts, pred, volume=volume, info=info, study=key, scan=scan, space=self.space)

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


def notice(facts: BundleFacts) -> str:
    """What stands first in every answer."""
    return f"{RESEARCH} {ORIGINS[facts.simulated]}"


def answer(
    facts: BundleFacts,
    pred: Tensor,
    *,
    volume: Volume,
    info: BoxInfo,
    study: str,
    scan: Measured,
    space: FeatureSpace | None,
) -> dict[str, Any]:
    """The answer for a volume as plain JSON values.

    Args:
        pred: (labels + slices,) probabilities, as the network's columns stand; or a feature (dim,).
        info: where the network looked.
        study: its key.
        scan: what was measured of it, for the training ranges.
        space: of the training scans' features.
    """
    distance = space.distance(scan.feature) if space and scan.feature is not None else None
    warnings = unlike_training(facts, info, scan, distance)
    return {
        "notice": notice(facts),
        "model": {"name": facts.name, "version": facts.version, "weights_sha256": facts.weights_sha256},
        "study": study,
        **answered(facts, pred, volume, info),
        "in_training_range": not warnings if facts.ranges else (None if not warnings else False),
        "warnings": warnings,
        "distance": None
        if distance is None or not facts.ranges
        else {"value": distance, "usual": facts.ranges.distance},
        "preprocessing": preprocessing(facts, volume, info),
    }


def answered(facts: BundleFacts, pred: Tensor, volume: Volume, info: BoxInfo) -> dict[str, Any]:
    """The network's columns under their names; of a bundle that embeds, the feature."""
    if facts.dim:
        return {"embedding": pred.tolist()}
    named = list(zip(facts.labels, pred[: len(facts.labels)].tolist(), strict=True))
    return {
        "volume": dict(named[: facts.volume]),
        "types": dict(named[facts.volume :]),
        "slices": slices(pred[len(facts.labels) :], volume, info) if facts.slices else [],
    }


def unlike_training(facts: BundleFacts, info: BoxInfo, scan: Measured, distance: float | None) -> list[str]:
    """Sentences on what about the scan is unlike the training data; none where nothing is known to be."""
    modality = facts.contract.modality
    ranges = facts.ranges.left_by(scan, modality=modality, distance=distance) if facts.ranges else []
    return [f"{UNLIKE}{reason}" for reason in (*info.reasons, *ranges)]


def slices(probabilities: Tensor, volume: Volume, info: BoxInfo) -> list[dict[str, Any]]:
    """The source's slices from inferior to superior: index, position in mm, probability."""
    return [
        {
            "index": index,
            "position_mm": round(volume.first_slice_z_mm + index * volume.slice_step_z_mm, 3),
            "probability": probability,
        }
        for index, probability in enumerate(source_slices(probabilities, info))
    ]


def source_slices(probabilities: Tensor, info: BoxInfo) -> list[float | None]:
    """Probabilities of the grid's slices -> those of the scan's, None for a slice outside of the box.

    A slice of the scan takes the highest of the grid's slices that share at least a quarter of the thinner of the two
    with it: the rule by which labels come to the grid (`grid_slice_labels`), backwards.
    """
    overlap = info.slice_overlap()  # (grid S, source S)
    thickness = (info.box[2][1] - info.box[2][0]) / info.grid[2]  # of a slice of the grid, in source slices
    touched = overlap >= LEAST_OVERLAP * min(thickness, 1.0)
    highest = np.where(touched, probabilities.numpy()[:, None], -np.inf).max(axis=0)
    return [float(value) if np.isfinite(value) else None for value in highest]


def preprocessing(facts: BundleFacts, volume: Volume, info: BoxInfo) -> dict[str, Any]:
    """What was done to the scan, in numbers and in words."""
    contract = facts.contract
    windows = contract.windows_hu if volume.modality == "CT" else ()
    shown = [{"center": center, "width": width} for center, width in windows]
    middle = [(first + last - 1) / 2 for first, last in info.box]  # voxel i has its center at i
    grid = "×".join(map(str, info.grid))
    steps = [
        f"{'×'.join(map(str, info.scan_shape))} voxels read as {volume.origin.source_format}",
        "axes turned to right, anterior, superior",
        *(["values taken as Hounsfield units after slope and intercept"] if windows else []),
        placing(facts.box, info),
        *([] if windows else ["values between the percentiles .5 and 99.5 of the foreground mapped to [0, 1]"]),
        *(f"window with center {center:g} and width {width:g} HU mapped to [0, 1]" for center, width in windows),
        f"box resampled to {grid} voxels, linear with antialiasing; 0 outside of the scan",
    ]
    return {
        "orientation": contract.orientation,
        "window_hu": shown[0] if len(shown) == 1 else shown or None,
        "spacing_mm": {"source": rounded(info.spacing_mm), "network": rounded(contract.spacing_mm)},
        "box_mm": {
            "center_ras": rounded((volume.affine @ [*middle, 1.0])[:3]),
            "extent": rounded(
                [(last - first) * mm for (first, last), mm in zip(info.box, info.spacing_mm, strict=True)]
            ),
        },
        "box_voxels": [rounded(edges) for edges in info.box],
        "grid": list(info.grid),
        "value_range": list(contract.value_range),
        "steps": steps,
        "notes": list(volume.notes),
    }


def placing(box: str, info: BoxInfo) -> str:
    """How the box was placed, in words."""
    if box == "foreground":
        return "box placed about the middle of what is not air"
    if box == "middle":
        return "box placed about the middle of what is not air, within the scan where it fits in"
    if info.plausible:
        return "head found and boxed from its vertex, without landmarks"
    return "box placed, although no whole head was found"


def table(answers: Sequence[Answer], refused: Sequence[tuple[str, str]], facts: BundleFacts) -> str:
    """A CSV: a row a volume, then a row a study without an answer: its key and why. Each begins with the notice."""
    text = io.StringIO()
    features = [f"feature_{index}" for index in range(facts.dim)]
    columns = ["notice", "study", "answer", *facts.labels, "in_training_range", "warnings", "failure", *features]
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


def rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Millimetres to the micrometre."""
    return [round(float(value), 3) for value in values]
