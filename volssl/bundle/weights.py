"""The weights of a bundle: loaded as tensors alone, and only if they are those that metadata.json names."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from volssl.bundle.metadata import METADATA, read_facts
from volssl.bundle.ranges import FeatureSpace, TrainingRanges
from volssl.bundle.tensor_file import read_tensors
from volssl.errors import UserError
from volssl.tasks import Task

WEIGHTS = Path("models") / "model.pt"
FEATURES = Path("models") / "features.pt"  # mean and precision of the training scans' features


class BundleWeights:
    """Fill a network with a bundle's weights when an engine starts, and bring it to the engine's device.

    Args:
        bundle_root: folder of the bundle.
        network: of the shape that the weights have.
    """

    def __init__(self, *, bundle_root: str | Path, network: nn.Module) -> None:
        self.bundle_root, self.network = Path(bundle_root), network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        fill(self.network, read_weights(self.bundle_root), source=self.bundle_root / WEIGHTS)
        self.network.to(engine.state.device)


def refuse_other_input(weights: str | Path, task: Task) -> None:
    """What `evaluate.yaml` asks first: raise a UserError where a task would feed weights otherwise than they know it.

    Args:
        weights: `models/model.pt` of a bundle. That of a run is fed by the run's own config.
    """
    bundle = Path(weights).parent.parent
    if not (bundle / METADATA).is_file():
        return
    trained = read_facts(bundle).contract
    if trained != task.contract:
        named = "; ".join(
            f"{key} {ours}, not {theirs}"
            for (key, ours), theirs in zip(trained.as_dict().items(), task.contract.as_dict().values(), strict=True)
            if ours != theirs
        )
        raise UserError(
            f"{weights}: trained with {named}; lay configs/presets/train_shipped.yaml over train.yaml, or give the "
            "task these values"
        )


def read_weights(bundle: Path, *, most: int | None = None) -> dict[str, Tensor]:
    """A bundle's state dict.

    Args:
        most: bytes that the file may have.

    Raises:
        UserError: as `read_tensors`.
    """
    return read_tensors(bundle / WEIGHTS, read_facts(bundle).weights_sha256, most=most)


def read_space(bundle: Path, ranges: TrainingRanges | None, *, most: int | None = None) -> FeatureSpace | None:
    """Where the features of the training scans lie; None for a bundle that does not know.

    Args:
        most: bytes that the file may have.

    Raises:
        UserError: as `read_tensors`, or where the file holds something else.
    """
    if ranges is None or not ranges.features_sha256:
        return None
    values = read_tensors(bundle / FEATURES, ranges.features_sha256, most=most)
    mean, precision = (values.get(name, torch.empty(0)) for name in ("mean", "precision"))
    if mean.ndim != 1 or not len(mean) or precision.shape != (len(mean), len(mean)):
        raise UserError(f"{bundle / FEATURES}: holds no mean and precision of features; export the bundle again")
    return FeatureSpace(mean, precision)


def fill(network: nn.Module, state: dict[str, Tensor], *, source: Path) -> None:
    """Load every tensor.

    Raises:
        UserError: where one is missing, left over, or of another shape.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: does not fit the network of configs/inference.yaml ({detail})") from error
