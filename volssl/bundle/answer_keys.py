"""The keys that name answers, and the one file that leads from a key back to its scan: `paths.csv`, mode 600."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from volssl.data.keys import keyed_hash, settle_key
from volssl.data.source_paths import PATHS
from volssl.data.studies import Study
from volssl.data.volume import Origin
from volssl.errors import UserError
from volssl.files import write_private

COLUMNS = ("key", "answer", "path", "study_uid", "series_uid", "sop_instance_uids")

Line = dict[str, str]


class AnswerKeys:
    """The keys of a folder of answers; its secret and its lines of earlier runs stay.

    Each line is on the disk before the answer that it belongs to. Nothing is written before the first.

    Args:
        folder: of the answers; `private.key` and `paths.csv` lie in it.
        key_file: the secret; None takes the folder's own, or makes one.

    Raises:
        UserError: where the folder holds the paths of something else, a store for one.
    """

    def __init__(self, folder: Path, key_file: Path | None = None) -> None:
        self.folder, self.key_file = folder, key_file
        self.earlier, self.lines = _read(folder / PATHS), list[Line]()
        self._secret: bytes | None = None

    def of(self, study: Study) -> str:
        """The key of a study: the same in each run into this folder.

        Raises:
            UserError: the folder's secret is another than the one given.
        """
        if self._secret is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._secret = settle_key(self.folder, (), self.key_file)
        return keyed_hash(self._secret, "answer", study.identity)

    def enter(self, study: Study, answer: str = "", origin: Origin | None = None) -> None:
        """Note where an answer came from; without `answer`, a study that has none.

        Args:
            answer: its file's name.
            origin: of the volume.
        """
        line = {
            "key": self.of(study),
            "answer": answer,
            "path": str(study.path.resolve()),
            "study_uid": study.uid,
            "series_uid": origin.series if origin else "",
            "sop_instance_uids": ";".join(origin.sops) if origin else "",
        }
        self.lines.append(line)
        if len(self.lines) == 1:
            self.fold()
        else:  # a whole file a line would be slow in a folder of thousands
            descriptor = os.open(self.folder / PATHS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_text([line]).encode("utf-8", "surrogateescape"))

    def fold(self) -> None:
        """Write all lines, by key: those of this run, and of earlier ones for other studies."""
        now = {line["key"] for line in self.lines}
        lines = [line for line in self.earlier if line["key"] not in now] + self.lines
        heading = dict(zip(COLUMNS, COLUMNS, strict=True))
        write_private(self.folder / PATHS, _text([heading, *sorted(lines, key=lambda line: line["key"])]))


def _read(path: Path) -> list[Line]:
    """The lines of an earlier run; what a kill cut off is left out."""
    if not path.exists():
        return []
    csv.field_size_limit(sys.maxsize)  # the UIDs of 2,000 slices are more than a field may hold by default
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path.parent}: its {PATHS} was not written by volssl predict; give --out another folder")
    return [line for line in reader if None not in line.values()]


def _text(lines: Iterable[Line]) -> str:
    text = io.StringIO()
    # All is quoted: left to itself the writer leaves a carriage return bare, which readers take for a line's end.
    csv.DictWriter(text, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(lines)
    return text.getvalue()
