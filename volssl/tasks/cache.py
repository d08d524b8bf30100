"""Preprocessed scans, kept: in memory up to a bound, and in a folder where several workers or runs share them."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from volssl.tasks.base import Task
from volssl.tensors import load_tensors, save_tensors
from volssl.transforms.head_box import BoxInfo
from volssl.transforms.resample import FloatBox
from volssl.views.base import Scan

VERSION = 2  # count up when preprocessing changes, so that old files are passed over

Entry = tuple[Tensor, BoxInfo]


class BoxCache:
    """Keeps what `task.preprocess` made of a scan. What it returns is shared: change a copy.

    A copy sent to a worker starts with an empty memory; give a folder where workers should share.

    Args:
        folder: for files of one scan each, written whole or not at all; None keeps nothing on disk.
        memory_mb: bound of what is kept in memory; the scans used longest ago go first.
    """

    def __init__(self, folder: Path | str | None = None, *, memory_mb: float = 1024.0) -> None:
        self.folder = None if folder is None else Path(folder)
        self.memory_mb = memory_mb
        self._kept: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0

    def get_or_make(self, scan: Scan, task: Task, box: FloatBox | None = None) -> Entry:
        """The preprocessed scan, from memory, the folder, or made now and kept; in a box that is given, or found."""
        key = cache_key(scan, task, box)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        file = None if self.folder is None else self.folder / f"{key}.pt"
        if file is not None and file.is_file():
            stored = load_tensors(file)
            entry = (stored["image"], BoxInfo.from_dict(stored["box"]))
        else:
            entry = task.preprocess(scan) if box is None else task.preprocess_at(scan, box)
            if file is not None:
                save_tensors(file, {"image": entry[0], "box": entry[1].as_dict()})
        self._keep(key, entry)
        return entry

    def _keep(self, key: str, entry: Entry) -> None:
        self._kept[key] = entry
        self._bytes += entry[0].nbytes
        while self._bytes > self.memory_mb * 2**20:
            _, (image, _) = self._kept.popitem(last=False)
            self._bytes -= image.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict(), "_bytes": 0}


def cache_key(scan: Scan, task: Task, box: FloatBox | None = None) -> str:
    """Names the scan and all that its preprocessing depends on."""
    settings = {"version": VERSION, "task": task.name, "box": task.box, "contract": task.contract.as_dict()}
    geometry = {"shape": list(scan.shape), "spacing_mm": list(scan.spacing_mm)}
    place = {} if box is None else {"place": [round(edge, 6) for pair in box for edge in pair]}
    digest = hashlib.sha256(json.dumps(settings | geometry | place, sort_keys=True).encode()).hexdigest()
    return f"{scan.id}-{digest[:12]}"
