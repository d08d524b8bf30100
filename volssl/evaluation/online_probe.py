"""Probes during pretraining: what the features tell of labels by now, and which epoch's encoder is worth keeping.

The pretext loss says how well the pretext is solved, not whether the features are of use; a small labelled set does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ignite.engine import Events

from volssl.errors import UserError
from volssl.evaluation.features import pooled_features
from volssl.evaluation.knn import NEIGHBOURS, TEMPERATURE, knn_auc
from volssl.evaluation.metrics import why_undefined
from volssl.evaluation.probe import linear_probe
from volssl.progress import say
from volssl.tasks.views import TaskViews
from volssl.views.base import Scan

if TYPE_CHECKING:
    from volssl.encoders.base import Encoder
    from volssl.engine.trainer import MethodTrainer

FIGURES = {"linear": "probe_linear_auc", "knn": "probe_knn_auc"}  # as they stand in the log


class ScansOfPatients(Protocol):
    """Scans and the patient of each; a `TrainingScans` is one."""

    @property
    def scans(self) -> Sequence[Scan]: ...
    @property
    def patients(self) -> Sequence[str]: ...


class OnlineProbe:
    """Linear probe and nearest neighbours on the frozen features every few epochs; the best epoch is told by one.

    Labels of training patients train the probes, those of validation patients score them and choose C and the epoch, so
    that the AUC of the chosen one is a little hopeful. Test patients are never looked at. It is of the task's first
    output. Nothing is drawn and no mode is left changed: the run is the same to the bit with and without.

    The untrained encoder is probed too, before the first step: what pretraining adds is seen against it.

    Args:
        encoder: the one that is trained.
        views: preprocess and label a scan, without random changes; with a cache, each is preprocessed once.
        train: labelled scans of training patients.
        validation: labelled scans of validation patients.
        every: epochs between two probes; the last epoch is always probed.
        chosen_by: `linear` or `knn`, the figure that tells the best epoch.
        batch_size: scans encoded at once.
        neighbours, temperature: of `knn_scores`.

    Raises:
        UserError: for another `chosen_by`, less than an epoch between two probes, or training labels that lack a class.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: TaskViews,
        train: ScansOfPatients,
        validation: ScansOfPatients,
        every: int = 5,
        chosen_by: str = "linear",
        batch_size: int = 16,
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
    ) -> None:
        if chosen_by not in FIGURES:
            raise UserError(f"chosen_by {chosen_by}: unknown; choose one of {', '.join(FIGURES)}")
        if every < 1:
            raise UserError(f"probe_epochs={every}: give the epochs between two probes, 1 or more")
        self.encoder, self.views, self.labelled, self.validation = encoder, views, train, validation
        self.every, self.chosen_by, self.batch_size = every, chosen_by, batch_size
        self.neighbours, self.temperature = neighbours, temperature
        self.output = views.task.selection[0]
        self.best, self.best_epoch = -math.inf, 0

    def attach(self, engine: MethodTrainer) -> None:
        """Hook in.

        Raises:
            UserError: where a validation patient is among those that pretraining or the probe learns from.
        """
        learnt_from = set(engine.dataset.patients) | set(self.labelled.patients)
        seen = sorted(learnt_from & set(self.validation.patients))
        if seen:
            raise UserError(
                f"{len(seen)} validation patients of the probe are trained on (first: {seen[0]}); what they would show "
                "is no evidence: give it scans of the store's validation patients"
            )
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def begin(self, engine: MethodTrainer) -> None:
        """Probe the encoder as it comes, and say on how many scans that rests; a run that goes on has done so."""
        if engine.state.iteration == 0:
            counts = {"probe_scans": len(self.labelled.scans), "probe_validation_scans": len(self.validation.scans)}
            figures = self.figures()
            if not figures:
                say(
                    f"no probe can be scored: the {len(self.validation.scans)} labelled validation scans are of one "
                    f"class of {self.output}; the last epoch's encoder will be kept"
                )
            engine.log.write(0, 0, {**figures, **counts})

    def __call__(self, engine: MethodTrainer) -> None:
        epoch = int(engine.state.epoch)
        if epoch % self.every and epoch != engine.state.max_epochs:
            return
        figures = self.figures()
        engine.log.write(engine.state.iteration, epoch, figures)
        value = figures.get(FIGURES[self.chosen_by], math.nan)
        # Without both classes there is nothing to choose by: the last epoch stands.
        if math.isnan(value) or value > self.best:
            self.best, self.best_epoch = self.best if math.isnan(value) else value, epoch

    def figures(self) -> dict[str, float]:
        """The AUC of both on validation, by the names of the log; none where its labels lack a class."""
        train, validation = (
            pooled_features(self.encoder, side.scans, self.views, batch_size=self.batch_size)
            for side in (self.labelled, self.validation)
        )
        y, truth = train.labels[self.output], validation.labels[self.output]
        if (reason := why_undefined(y)) is not None:
            raise UserError(f"no probe can be trained: of {self.output}, {reason}; give labels of both classes")
        if why_undefined(truth) is not None:
            return {}
        known = (train.features, y, validation.features, truth)
        return {
            FIGURES["linear"]: linear_probe(*known).auc,
            FIGURES["knn"]: knn_auc(*known, neighbours=self.neighbours, temperature=self.temperature),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where the run was stopped."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])
