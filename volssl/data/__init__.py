"""From an archive's folders to batches: discover, check, read, store, split, load.

The names below are loaded when asked for: a process that reads DICOM needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volssl.data.balance import balanced, class_weights
    from volssl.data.labels import join_labels
    from volssl.data.loader import ViewDataset, step_loader
    from volssl.data.monai_reader import StoreReader
    from volssl.data.preparation import PrepareSummary, prepare
    from volssl.data.sampler import StepSampler
    from volssl.data.scans import MemoryScan, read_scans
    from volssl.data.seen import refuse_labelled, refuse_seen, tell_other_key
    from volssl.data.splits import split_of
    from volssl.data.store import Store, StoredScan
    from volssl.data.training import TrainingScans, training_labels

__all__ = [
    "MemoryScan",
    "PrepareSummary",
    "StepSampler",
    "Store",
    "StoreReader",
    "StoredScan",
    "TrainingScans",
    "ViewDataset",
    "balanced",
    "class_weights",
    "join_labels",
    "prepare",
    "read_scans",
    "refuse_labelled",
    "refuse_seen",
    "split_of",
    "step_loader",
    "tell_other_key",
    "training_labels",
]

_HOMES = {
    "MemoryScan": "scans",
    "PrepareSummary": "preparation",
    "StepSampler": "sampler",
    "Store": "store",
    "StoreReader": "monai_reader",
    "StoredScan": "store",
    "TrainingScans": "training",
    "balanced": "balance",
    "class_weights": "balance",
    "refuse_labelled": "seen",
    "refuse_seen": "seen",
    "tell_other_key": "seen",
    "ViewDataset": "loader",
    "join_labels": "labels",
    "prepare": "preparation",
    "read_scans": "scans",
    "split_of": "splits",
    "step_loader": "loader",
    "training_labels": "training",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"volssl.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'volssl.data' has no attribute {name!r}")
