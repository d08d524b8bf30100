"""A fine-tuned run on disk: its task, its network, and what an evaluation leaves in it for the next one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from monai.bundle import ConfigParser
from torch import nn

from volssl.bundle.config import read_config
from volssl.bundle.workflow import CONFIG
from volssl.encoders.weights import load_weights
from volssl.errors import UserError
from volssl.evaluation.validation import MODEL
from volssl.files import write_atomically
from volssl.heads import NeighbourNetwork
from volssl.progress import say
from volssl.tasks import Task
from volssl.tensors import load_tensors

VALIDATION = "validation.parquet"  # in the run: what thresholds are chosen on, when its own store is not at hand


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned run: its task, its network with the best epoch's weights, and what model.pt says of them.

    Attributes:
        fold: of the store, on which it was validated; None for the store's split.
    """

    task: Task
    network: nn.Module
    facts: dict[str, Any]
    fold: int | None = None


def load_run(run: Path) -> FineTuned:
    """The classifier of a run of `volssl finetune`.

    Raises:
        UserError: where the folder holds no finished run.
    """
    if not (run / MODEL).is_file() or not (run / CONFIG).is_file():
        raise UserError(
            f"{run}: no fine-tuned run there ({MODEL} and {CONFIG} are needed); give one of `volssl finetune`"
        )
    parser = ConfigParser(read_config(run / CONFIG))
    network: nn.Module = parser.get_parsed_content("network_def")
    facts = load_tensors(run / MODEL)
    state = facts.pop("network")
    if isinstance(network, NeighbourNetwork):  # how many cases it remembers stands in its weights alone
        network.remember(state["cases"], state["votes"])
    load_weights(network, state, source=str(run / MODEL), least=1.0)
    task = parser.get_parsed_content("task")
    return FineTuned(task=task, network=network.eval(), facts=facts, fold=parser.get("fold"))


def keep_validation(run: Path, validation: pd.DataFrame) -> None:
    """Leave the predictions of the validation patients in the run: thresholds for a store of another site.

    A run in a folder that may not be written is evaluated all the same, and what is missing is said.
    """
    if validation.empty:
        return
    try:
        write_parquet(validation, run / VALIDATION, model_sha256=weights_hash(run))
    except PermissionError:
        say(f"{run / VALIDATION}: may not be written; a store of another site will need this one for its thresholds")


def kept_validation(run: Path) -> pd.DataFrame | None:
    """The predictions that `keep_validation` left in the run; None where there are none of these weights."""
    if not (run / VALIDATION).is_file():
        return None
    kept = pq.read_table(run / VALIDATION)
    if (kept.schema.metadata or {}).get(b"model_sha256", b"").decode() != weights_hash(run):
        return None
    table: pd.DataFrame = kept.to_pandas()
    return table


def weights_hash(run: Path) -> str:
    """SHA-256 of the run's weights, which names what was measured."""
    return hashlib.sha256((run / MODEL).read_bytes()).hexdigest()


def write_parquet(table: pd.DataFrame, path: Path, **facts: str) -> None:
    """Write a table atomically, and facts beside its columns; its rows hold keyed hashes, no raw id."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **facts})
    write_atomically(path, lambda file: pq.write_table(arrow, file))
