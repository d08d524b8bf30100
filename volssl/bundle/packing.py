"""What of a run becomes a bundle: of a fine-tuned run its classifier, of a pretraining run its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from volssl.bundle.config import read_config
from volssl.bundle.embedding import EmbeddingNetwork
from volssl.bundle.internal import evaluation_of
from volssl.bundle.runs import load_run
from volssl.bundle.shipped import EMBEDDING, PRETRAINING, TASK_BUNDLES
from volssl.bundle.training_data import ENCODER, TrainingData, encoder_data, training_data
from volssl.bundle.workflow import CONFIG
from volssl.contract import InputContract, as_list
from volssl.encoders import Encoder, load_encoder
from volssl.encoders.file import read_encoder_file
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL
from volssl.heads import NeighbourNetwork, TaskNetwork
from volssl.slabs import SlabNetwork

SLICES = "slices"  # the output that has an entry for each slice of the grid


@dataclass(frozen=True)
class Packed:
    """A run as a bundle has it.

    Attributes:
        network: in evaluation mode; with an `encoder`.
        recipe: name of the shipped bundle whose weights these are.
        task, labels, volume, slices, dim, box, contract: as in `BundleFacts`.
        join, flips: as in `BundleFacts`.
        values: entries of the recipe's inference config, by how its lines begin.
        patients: how many the weights saw, an encoder that they began with included.
        began: a sentence on what the weights began as.
        known: of the training data; None where they are not at hand.
        labelled: whether training took labels.
        figures: what `volssl evaluate`, or of an encoder `evaluate.yaml`, found of these weights, or None.
    """

    network: nn.Module
    recipe: str
    task: str
    labels: tuple[str, ...]
    volume: int
    slices: int
    dim: int
    box: str
    contract: InputContract
    values: dict[str, Any]
    patients: int
    began: str
    known: TrainingData | None
    figures: dict[str, Any] | None
    join: str = ""
    flips: bool = False
    labelled: bool = True


def packed_run(run: Path) -> Packed:
    """The classifier of a fine-tuned run; of a run of pretraining its encoder.

    Raises:
        UserError: where there is neither, or one that is not exported.
    """
    if (run / ENCODER).is_file() and not (run / MODEL).is_file():
        return packed_encoder(run)
    return packed_classifier(run)


def packed_classifier(run: Path) -> Packed:
    """A run of `volssl finetune`."""
    model = load_run(run)
    task, network = model.task, model.network
    if isinstance(network, NeighbourNetwork):
        raise UserError(
            f"{run}: nearest neighbours are not exported, for a bundle would hold features of the training patients; "
            "export a run of --mode probe"
        )
    if not isinstance(network, TaskNetwork | SlabNetwork):
        raise UserError(f"a {type(network).__name__} cannot be exported; a bundle holds a TaskNetwork or a SlabNetwork")
    contract = task.contract
    values = {
        "grid": list(contract.grid),
        "extent_mm": [mm * n for mm, n in zip(contract.spacing_mm, contract.grid, strict=True)],
        "window_hu": as_list(contract.window_hu or ()),
        "slices": task.head_sizes["slices"],
        "flips": network.flips,
        **task.inference_values,
        **encoder_value(network.encoder),
    }
    return Packed(
        network=network,
        recipe=TASK_BUNDLES[task.name],
        task=task.name,
        labels=tuple(name for name in task.output_names if name != SLICES),
        volume=len(task.volume_outputs),
        slices=task.head_sizes["slices"],
        dim=0,
        box=task.box,
        contract=contract,
        values=values,
        patients=len(model.facts["patients"]),
        began=beginning(run),
        known=training_data(run, model),
        figures=evaluation_of(run, MODEL),
        join=task.join or "",
        flips=network.flips,
    )


def packed_encoder(run: Path) -> Packed:
    """A run of `volssl pretrain`."""
    encoder, contract = load_encoder(run)
    patients = read_encoder_file(run).patients
    network = EmbeddingNetwork(encoder).eval()
    values = {
        "modality": contract.modality,
        "grid": list(contract.grid),
        "spacing_mm": list(contract.spacing_mm),
        "window_hu": as_list(contract.window_hu or ()),
        **encoder_value(encoder),
    }
    return Packed(
        network=network,
        recipe=PRETRAINING,
        task=EMBEDDING,
        labels=(),
        volume=0,
        slices=0,
        dim=encoder.dim,
        box="middle",
        contract=contract,
        values=values,
        patients=len(patients),
        began=beginning(run, method=read_encoder_file(run).method),
        known=encoder_data(run, network, contract, patients),
        figures=evaluation_of(run, ENCODER),
        labelled=bool(read_config(run / CONFIG).get("labels")),
    )


def beginning(run: Path, method: str = "") -> str:
    """What a run's weights began as, by its config: at random, or an encoder that is named by its method, not its path.

    Args:
        method: by which the weights themselves were pretrained.
    """
    by = f" by `{method}`" if method else ""
    path = read_config(run / CONFIG).get("encoder_path")
    if not path:
        return f"The weights were trained{by} from scratch."
    try:
        earlier = f"trained by `{read_encoder_file(path).method or 'others'}`"
    except (UserError, OSError):
        earlier = "that was no longer at hand when the bundle was written"
    return f"The weights were {'trained' if method else 'fine-tuned'}{by} from an encoder {earlier}."


def encoder_value(encoder: Encoder) -> Mapping[str, Any]:
    """The line of the inference config that builds an encoder."""
    return {"  encoder": {"_target_": f"volssl.encoders.{type(encoder).__name__}", **encoder.settings}}
